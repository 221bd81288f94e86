from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

from sidecar.domain.validation import plain_fault


class _Form(BaseModel, extra="forbid"):
    size: Annotated[int, Field(ge=1, le=9)] = 1
    share: float = 0.5
    names: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("a",)
    fields: dict[str, str] = Field(default_factory=dict)
    secret: Annotated[SecretStr, Field(min_length=32)] | None = None
    kind: Literal["red", "blue"] = "red"
    code: Annotated[str, Field(pattern="^[a-z]$")] = "a"
    is_on: bool = False

    @field_validator("code")
    @classmethod
    def _is_not_z(cls, code: str) -> str:
        if code == "z":
            raise ValueError("must not be z")
        return code


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": "many"}, "must be a whole number"),
        ({"size": 0}, "must be at least 1"),
        ({"size": 10}, "must be at most 9"),
        ({"share": "x"}, "must be a number"),
        ({"names": "a"}, "must be a list"),
        ({"names": []}, "must have at least 1 item"),
        ({"names": ["a", "b", "c"]}, "must have at most 2 items"),
        ({"fields": {"a": 1}}, "must be text"),
        ({"fields": "x"}, "must be a mapping"),
        ({"secret": "hunter2"}, "must have at least 32 characters"),
        ({"kind": "green"}, "must be one of red, blue"),
        ({"code": "A"}, "must match pattern '^[a-z]$'"),
        ({"code": "z"}, "must not be z"),
        ({"is_on": 3}, "must be true or false"),
        ({"other": 3}, "is not a known field"),
    ],
)
def test_a_fault_is_in_words_that_name_no_python_type(
    fields: dict[str, object], words: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        _Form.model_validate(fields)

    assert [plain_fault(fault) for fault in raised.value.errors()] == [words]
