from __future__ import annotations

import json
from time import monotonic

import pytest

from sidecar.apis.response_structure import AnswerForm
from sidecar.domain.cooperative import run_sync
from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.guardrail_settings import JsonSchemaSettings
from sidecar.domain.policy import Guardrail
from sidecar.guardrails.json_schema.check import UNKNOWN_SHAPE, schema_guardrails
from sidecar.pipeline.answer_judgement import judge_structure

ANSWER = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "{}"}}]})
OBJECT = Guardrail("order", JsonSchemaSettings(schema='{"type": "object"}'))


def judged(body: bytes) -> GuardrailResult:
    steps = judge_structure(body, AnswerForm.JSON, schema_guardrails([OBJECT]), clock=monotonic)
    (result,) = run_sync(steps)
    return result


def test_a_fitting_answer_passes() -> None:
    """It is read as a program reads it."""
    assert judged(ANSWER.encode()).verdict is Verdict.PASS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_json_in_another_encoding_is_read_as_little_as_elsewhere(encoding: str) -> None:
    """Texts are looked for in UTF-8 alone; what would be read of it here nobody has scanned."""
    result = judged(ANSWER.encode(encoding))

    assert (result.verdict, result.failure) == (Verdict.ERROR_CLOSED, UNKNOWN_SHAPE)
