"""What all readers of answers share: strict models, and the verdict of a detector's findings."""

from __future__ import annotations

from typing import Final, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from sidecar.domain.finding import Finding
from sidecar.domain.policy import Action
from sidecar.guardrails.remote import RemoteAnswer, RemoteCheckError

MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Of APIs that are not ours: a score for each of some ten categories and each of many texts."""


class Strict(BaseModel):
    """An answer in Egret's own form: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Tolerant(BaseModel):
    """An answer in somebody else's form: fields we do not use may be there."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


_Answer = TypeVar("_Answer", bound=BaseModel)


def read_json(model: type[_Answer], body: bytes) -> _Answer:
    """Return what *body* says.

    Raises:
        RemoteCheckError: it is not the JSON that was agreed.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RemoteCheckError("answer_invalid") from None
    return validated(model, value)


def validated(
    model: type[_Answer], value: object, *, error_type: str = "answer_invalid"
) -> _Answer:
    """Return *value* as a model.

    Raises:
        RemoteCheckError: of this type, where it is none.
    """
    try:
        return model.model_validate(value)
    except ValidationError:
        raise RemoteCheckError(error_type) from None


def detected(findings: tuple[Finding, ...], action: Action) -> RemoteAnswer:
    """Return the answer of a server that only finds: what follows is the policy's to say."""
    if not findings:
        return RemoteAnswer("pass")
    match action:
        case Action.BLOCK:
            return RemoteAnswer("block", findings)
        case Action.REDACT:
            return RemoteAnswer("redact", findings)
        case Action.FLAG:
            return RemoteAnswer("flag", findings)
