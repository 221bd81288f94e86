from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any

import pytest

from sidecar.apis.response_structure import AnswerForm
from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import NOTHING_REDACTED, Restoration, Verdict
from sidecar.domain.policy import Stage, StreamMode
from sidecar.guardrails.json_schema.check import UNKNOWN_SHAPE
from sidecar.guardrails.remote.checks import RequestInfo
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.pipeline.answer_judgement import AnswerJudgement, AnswerSetting, Released
from sidecar.redaction.redact import Placeholders
from tests.support.answers import APIS, effective, judged_at_once, judged_whole, judgement
from tests.support.pipeline import ScriptedRemote

SCHEMA = (
    "{type: object, properties: {to: {type: string, maxLength: 30}, n: {type: integer}}, "
    "required: [to], additionalProperties: false}"
)
ORDER = f"{{name: order, type: json_schema, schema: {SCHEMA}MORE}}"
BLOCK = f"[{ORDER.replace('MORE', '')}]"
FITS = '{"to": "bob@example.com", "n": 1}'
MISFITS = '{"to": "bob@example.com", "n": "one"}'
JSON_APIS = [
    one
    for one in APIS
    if one not in {"reasoning", "refusal", "two choices", "thinking", "tool call"}
]
"""Those whose stream holds a text that a program would read, and no other."""


def chat(text: str | None, **more: Any) -> bytes:
    """Return a whole answer of a chat."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | more}
    return json.dumps({"choices": [choice]}, ensure_ascii=False).encode()


def whole(guardrails: str, body: bytes, **more: Any) -> tuple[Released, AnswerJudgement]:
    judge = judgement(effective(guardrails), AnswerForm.JSON, **more)
    return judged_at_once(judge, body), judge


def verdicts(judge: AnswerJudgement) -> dict[str, Verdict]:
    return {one.guardrail.name: one.verdict for one in judge.results()}


@pytest.mark.parametrize("api", JSON_APIS)
def test_a_stream_that_fits_leaves_as_it_came_and_one_that_does_not_leaves_not_at_all(
    api: str,
) -> None:
    """In every API, in three pieces."""
    form, stream = APIS[api].form, APIS[api].stream
    good, bad = (stream([text[:5], text[5:9], text[9:]]) for text in (FITS, MISFITS))

    fits = judged_at_once(judgement(effective(BLOCK), form), good)
    misfit = judged_at_once(judgement(effective(BLOCK), form), bad)

    assert fits == Released(good)
    assert misfit.error is not None
    assert misfit.body == b""
    assert misfit.error.kind is ErrorKind.CONTENT_BLOCKED
    assert "SCHEMA_TYPE at " in misfit.error.message
    assert misfit.error.message.endswith("/n.")
    assert "one" not in misfit.error.message.replace("order", "")


def test_streams_are_held_to_their_end() -> None:
    """Half of a document says nothing about it."""
    answers = effective(BLOCK).answers

    assert answers.streams is StreamMode.BUFFER
    assert answers.guardrails or answers.restores
    assert [one.stage for one in answers.guardrails] == [Stage.OUTPUT]


def test_requests_are_not_judged_by_it() -> None:
    """A policy with nothing else needs no body of a request."""
    policy = effective(BLOCK)

    assert not policy.needs_body
    assert policy.local.guardrails == ()


@pytest.mark.parametrize(
    ("more", "verdict", "is_refused"),
    [
        ("", Verdict.BLOCK, True),
        (", action: flag", Verdict.FLAG, False),
        (", mode: shadow", Verdict.BLOCK, False),
    ],
)
def test_action_and_mode_decide_what_comes_of_a_finding(
    more: str, verdict: Verdict, *, is_refused: bool
) -> None:
    """The result names place and keyword whatever becomes of it."""
    body = chat(MISFITS)
    released, judge = whole(f"[{ORDER.replace('MORE', more)}]", body)

    assert released.body == (b"" if is_refused else body)
    assert (released.error is not None) is is_refused
    (result,) = judge.results()
    assert (result.verdict, result.stage) == (verdict, Stage.OUTPUT)
    assert [(one.type, one.place) for one in result.findings] == [("SCHEMA_TYPE", "choices[0]/n")]


def test_what_is_judged_is_what_leaves() -> None:
    """A value that another guardrail replaces can make a text fit, or no JSON at all."""
    pii = "{name: pii, type: pii, stage: output, action: redact}"
    guardrails = f"[{pii}, {ORDER.replace('MORE', '')}]"
    long = f'{{"to": "{"b" * 40}@example.com"}}'
    bare = '{"to": "x", "n": 4111111111111111}'

    shortened, judge = whole(guardrails, chat(long))
    retyped, _ = whole(guardrails, chat(bare))
    broken, _ = whole(guardrails, chat("4111111111111111"))

    assert json.loads(shortened.body)["choices"][0]["message"]["content"] == '{"to": "[EMAIL_1]"}'
    assert verdicts(judge) == {"pii": Verdict.REDACT, "order": Verdict.PASS}
    assert retyped.error is not None
    assert "SCHEMA_TYPE at choices[0]/n" in retyped.error.message
    assert broken.error is not None
    assert "INVALID_JSON at choices[0]" in broken.error.message


def test_a_value_that_is_turned_back_is_judged_as_the_client_reads_it() -> None:
    """An answer that is nothing but a placeholder is no JSON either."""
    restoration = Restoration({b"[EMAIL_1]": b"bob@example.com"})
    email = BLOCK.replace("maxLength: 30", "format: email")

    restored, _ = whole(email, chat('{"to": "[EMAIL_1]"}'), restoration=restoration)
    alone, _ = whole(email, chat("[EMAIL_1]"), restoration=restoration)

    assert restored.error is None
    assert b"bob@example.com" in restored.body
    assert alone.error is not None


def test_what_is_refused_already_is_not_looked_at() -> None:
    """The first refusal words the answer; a text made to be slow costs nothing more."""
    secrets = "{name: pii, type: pii, stage: output, action: block}"
    released, judge = whole(f"[{ORDER.replace('MORE', '')}, {secrets}]", chat(MISFITS))

    assert released.error is not None
    assert "'pii'" in released.error.message
    assert verdicts(judge) == {"pii": Verdict.BLOCK}


@pytest.mark.parametrize(
    ("on_error", "verdict", "kind"),
    [
        ("block", Verdict.ERROR_CLOSED, ErrorKind.GUARDRAIL_UNAVAILABLE),
        ("allow", Verdict.ERROR_OPEN, None),
    ],
)
def test_an_answer_of_no_known_shape_goes_by_on_error(
    on_error: str, verdict: Verdict, kind: ErrorKind | None
) -> None:
    """Where nobody can tell which text is meant, nothing may look like a pass."""
    guardrails = f"[{ORDER.replace('MORE', f', on_error: {on_error}')}]"

    released, judge = whole(guardrails, b'{"generation": "{}"}')

    assert (None if released.error is None else released.error.kind) is kind
    (result,) = judge.results()
    assert (result.verdict, result.failure) == (verdict, UNKNOWN_SHAPE)


def test_what_a_provider_says_of_a_failure_is_no_answer() -> None:
    """A client must read why its request failed; other guardrails look at it as they do."""
    policy = effective(BLOCK)
    setting = AnswerSetting(
        policy=policy.answers,
        unscanned=policy.unscanned,
        restoration=NOTHING_REDACTED,
        placeholders=Placeholders(hash_key=None),
        guardrail_runner=GuardrailRunner(remote=ScriptedRemote(), clock=lambda: 0.0),
        about=RequestInfo(request_id="r", key_id="k", model="gpt-4o"),
        clock=lambda: 0.0,
    )
    body = b'{"message": "too many tokens"}'

    failed = AnswerJudgement(AnswerForm.JSON, setting, is_success=False)

    assert judged_at_once(failed, body) == Released(body)


@pytest.mark.parametrize(
    "guardrails", [BLOCK, "[{name: pii, type: pii, stage: output, action: block}]"]
)
async def test_a_long_answer_is_judged_in_turns(guardrails: str) -> None:
    """Others go on between two slices, of rules or of structure; what comes of it is the same."""
    policy = effective(guardrails)
    ticks = count()
    setting = AnswerSetting(
        policy=policy.answers,
        unscanned=policy.unscanned,
        restoration=NOTHING_REDACTED,
        placeholders=Placeholders(hash_key=None),
        guardrail_runner=GuardrailRunner(
            remote=ScriptedRemote(), clock=lambda: float(next(ticks))
        ),
        about=RequestInfo(request_id="r", key_id="k", model="gpt-4o"),
        clock=lambda: 0.0,
    )
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    judge = AnswerJudgement(AnswerForm.SSE, setting)
    pieces = [MISFITS[at : at + 1] for at in range(len(MISFITS))] + ["\n" * 100] * 2_000
    beside = asyncio.ensure_future(others())
    concluded = await judged_whole(judge, APIS["chat"].stream(pieces))
    beside.cancel()

    assert concluded.error is not None
    assert turns > 5


async def test_a_remote_guardrail_and_a_schema_judge_the_same_answer() -> None:
    """The remote one is asked first, since what it redacts changes what leaves."""
    remote = ScriptedRemote()
    webhook = "{name: dlp, type: webhook, stage: output, url: 'http://h/'}"
    guardrails = f"[{webhook}, {ORDER.replace('MORE', '')}]"

    judge = judgement(effective(guardrails), AnswerForm.JSON, remote=remote)
    released = await judged_whole(judge, chat(MISFITS))

    assert released.error is not None
    assert verdicts(judge) == {"dlp": Verdict.PASS, "order": Verdict.BLOCK}


@pytest.mark.parametrize("form", [AnswerForm.TEXT, AnswerForm.JSON])
def test_plain_text_in_the_place_of_an_answer_does_not_pass(form: AnswerForm) -> None:
    """A proxy's page with status 200 is not what the client's program expects."""
    judge = judgement(effective(BLOCK, unscanned="allow"), form)

    released = judged_at_once(judge, b"<html>it works</html>")

    assert released.error is not None
    assert released.error.kind is ErrorKind.GUARDRAIL_UNAVAILABLE
