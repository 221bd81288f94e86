from __future__ import annotations

import pytest
from egret_tools.benign_text import benign_text

from loadtest.guardrail_pass import LOCAL_TYPES, pass_of
from sidecar.domain.finding import Verdict
from sidecar.domain.guardrail_settings import (
    JsonSchemaSettings,
    RuleSettings,
    WholeTextSettings,
)


def test_every_local_guardrail_of_requests_is_measured() -> None:
    """`json_schema` judges answers alone."""
    local = {one.guardrail_type for one in (*RuleSettings.__args__, *WholeTextSettings.__args__)}
    assert set(LOCAL_TYPES) == local - {JsonSchemaSettings.guardrail_type}


@pytest.mark.parametrize("size", [1 << 10, 1 << 16])
def test_benign_text_passes_them_all_and_its_tokens_are_counted(size: int) -> None:
    """What is measured is the cost of text without findings."""
    text = benign_text(size)
    results = pass_of(LOCAL_TYPES, size=size).results(text)
    assert {one.verdict for one in results} == {Verdict.PASS}
    (tokens,) = pass_of(["max_tokens"], size=size // 100).results(text)
    assert tokens.verdict is Verdict.FLAG
