"""Whatever a server says is an answer in the agreed form or an error, and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from sidecar._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail
from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    LlmJudgeSettings,
    ModerationSettings,
    PresidioSettings,
    RemoteEndpoint,
    WebhookSettings,
)
from sidecar.domain.policy import Action
from sidecar.guardrails.remote import grpc_client as grpc_guardrail
from sidecar.guardrails.remote import llm_judge, moderation, presidio, webhook
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteCheckError, with_byte_offsets
from tests.support.guardrails import parts_of
from tests.support.remote_checks import asking

ENDPOINT = RemoteEndpoint("http://h/")
TEXTS = ("é Zoë 🦩", "", "b")
PRESIDIO = PresidioSettings(ENDPOINT)
MODERATION = ModerationSettings(ENDPOINT, thresholds=(("hate", 0.5),))
JUDGE = LlmJudgeSettings(ENDPOINT, model="m", rubric="r")

words = st.sampled_from(
    [
        "verdict", "pass", "block", "redact", "findings", "text", "start", "end", "type", "NAME",
        "results", "flagged", "categories", "category_scores", "hate", "entity_type", "score",
        "choices", "message", "content", "finish_reason", "stop", "reason", "refusal",
    ]
) | st.text(max_size=3)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
answers = st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode())


def readings(body: bytes) -> list[Callable[[], RemoteAnswer]]:
    """Return every reader, about to read *body*."""
    return [
        lambda: webhook.read_answer(body, asking(WebhookSettings(ENDPOINT), *TEXTS)),
        lambda: moderation.read_answer(body, asking(MODERATION, *TEXTS), MODERATION),
        lambda: presidio.read_answer(body, asking(PRESIDIO, *TEXTS), PRESIDIO),
        lambda: llm_judge.read_answer(body, JUDGE),
        lambda: grpc_guardrail.read_answer(body, asking(GrpcSettings(ENDPOINT), *TEXTS)),
    ]


def assert_sound(answer: RemoteAnswer) -> None:
    """Every span is of a text, not empty, and cuts no character."""
    assert answer.verdict in {"pass", "flag", "redact", "block"}
    assert (answer.verdict == "redact") <= bool(answer.findings)
    for one in answer.findings:
        content = TEXTS[one.part].encode()
        assert 0 <= one.start < one.end <= len(content)
        content[one.start : one.end].decode()


@given(answers)
def test_any_bytes_are_an_answer_or_an_error(body: bytes) -> None:
    """For every type: no other exception, and no answer out of form."""
    for read in readings(body):
        with contextlib.suppress(RemoteCheckError):
            assert_sound(read())


@given(
    st.sampled_from(["pass", "flag", "redact", "block"]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), max_size=3),
)
def test_two_servers_that_say_the_same_are_understood_the_same(
    verdict: str, spans: list[tuple[int, int, int]]
) -> None:
    """A webhook and a gRPC server differ in nothing but the wire."""
    spoken = {
        "verdict": verdict,
        "findings": [{"text": t, "start": s, "end": e, "type": "NAME"} for t, s, e in spans],
    }
    message = guardrail.CheckResponse(
        verdict=getattr(guardrail, f"VERDICT_{verdict.upper()}"),
        findings=[guardrail.Finding(text=t, start=s, end=e, type="NAME") for t, s, e in spans],
    )
    as_json, *_, as_message = (
        readings(orjson.dumps(spoken))[0],
        readings(message.SerializeToString())[-1],
    )
    assert _outcome(as_json) == _outcome(as_message)


def _outcome(read: Callable[[], RemoteAnswer]) -> RemoteAnswer | None:
    try:
        return read()
    except RemoteCheckError:
        return None


@given(st.data(), st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_spans_in_bytes_hold_the_same_characters(data: Any, texts: list[str]) -> None:
    """In any script, for any number of spans of any texts, in any order."""
    findings = []
    for _ in range(data.draw(st.integers(0, 5))):
        part = data.draw(st.integers(0, len(texts) - 1))
        start = data.draw(st.integers(0, len(texts[part]) - 1))
        end = data.draw(st.integers(start + 1, len(texts[part])))
        findings.append(Finding("g", "X", part, start, end))
    found = with_byte_offsets(findings, parts_of(texts))
    assert [texts[one.part].encode()[one.start : one.end].decode() for one in found] == [
        texts[one.part][one.start : one.end] for one in findings
    ]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.floats(0, 1))
def test_a_score_counts_exactly_from_its_threshold_on(
    scores: list[float], threshold: float
) -> None:
    """Of a category, of an entity, of a rating."""
    asked = asking(MODERATION, *TEXTS, action=Action.BLOCK)
    settings = ModerationSettings(ENDPOINT, thresholds=(("hate", threshold),))
    results = [
        {"flagged": False, "categories": {"hate": False}, "category_scores": {"hate": score}}
        for score in scores
    ]
    said = moderation.read_answer(orjson.dumps({"results": results}), asked, settings)
    places = (0, 2)  # the text between them is empty, and was not sent
    expected = [place for place, s in zip(places, scores, strict=True) if s >= threshold]
    assert [finding.part for finding in said.findings] == expected
