"""What one event of a stream costs in a worker's own code, without gRPC, Envoy or kernel.

By the same policies as `bench_stream`: *window* for events that differ in their text alone, as
OpenAI's do; *window, unlike* where something else differs as well and each event is parsed;
*window, new text* where no stream repeats another: our own documentation, word by word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import orjson

from loadtest.figures import percentile
from loadtest.results import ROOT
from loadtest.texts import benign_text
from sidecar.apis.response_structure import AnswerForm
from sidecar.apis.stream_usage import UsageHider
from sidecar.checks.answer_judgement import AnswerJudgement, AnswerSetting
from sidecar.domain.finding import NOTHING_REDACTED
from sidecar.domain.policy import UnscannedAction
from sidecar.domain.principal import PolicyBinding
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest
from sidecar.guardrails.runner import InspectionSubject, Inspector
from sidecar.mutations.placeholders import Placeholders
from sidecar.policy.parse import parse_policies
from sidecar.policy.snapshot import EffectivePolicy, build_snapshot

EVENTS: Final = 500
ROUNDS: Final = 15

Take = Callable[[bytes], object]


class _NoRemote:
    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        raise NotImplementedError(request.guardrail.name)


def judging_us(guardrails: str) -> dict[str, float]:
    """Return the microseconds of one event, by what is done to it."""
    text = f"name: default\nguardrails: {guardrails}\n"
    policy = build_snapshot(parse_policies(text)).effective(PolicyBinding())
    if not isinstance(policy, EffectivePolicy):
        raise TypeError("there is no default policy")
    words = benign_text(EVENTS * 8).split()[:EVENTS]
    alike, unlike = list(_events(words)), list(_events(words, differ=True))
    new = [list(_events(words)) for words in _new_words()]
    return {
        "window": _median_us(lambda: _window(policy), [alike] * ROUNDS),
        "window, unlike": _median_us(lambda: _window(policy), [unlike] * ROUNDS),
        "window, new text": _median_us(lambda: _window(policy), new),
        "hide": _median_us(_hide, [alike] * ROUNDS),
    }


def _new_words() -> Iterator[list[str]]:
    """Yield the words of each stream, none twice: decisions have no examples of personal data."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    words = " ".join(page.read_text(encoding="utf-8") for page in pages).split()
    for start in range(0, len(words) - EVENTS, EVENTS):
        yield words[start : start + EVENTS]


def _events(words: Sequence[str], *, differ: bool = False) -> Iterator[bytes]:
    for number, word in enumerate(words):
        choice = {"index": 0, "delta": {"content": f" {word}"}, "finish_reason": None}
        document = {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "created": 1764064800,
            "model": "gpt-4o-mini-2024-07-18",
            "service_tier": "default",
            "system_fingerprint": f"fp_{number}" if differ else "fp_bench",
            "choices": [choice],
            "usage": None,
        }
        yield b"data: " + orjson.dumps(document) + b"\n\n"


def _window(policy: EffectivePolicy) -> Take:
    setting = AnswerSetting(
        policy=policy.answers,
        unscanned=UnscannedAction.BLOCK,
        restoration=NOTHING_REDACTED,
        placeholders=Placeholders(hash_key=None, taken=frozenset()),
        inspector=Inspector(remote=_NoRemote(), clock=time.monotonic),
        about=InspectionSubject(request_id="bench", key_id="bench", model="gpt-4o-mini"),
        clock=time.monotonic,
    )
    judgement = AnswerJudgement(AnswerForm.SSE, setting)
    return lambda event: judgement.take(event, is_last=False)


def _hide() -> Take:
    hider = UsageHider()
    return lambda event: hider.take(event, is_last=False)


def _median_us(begin: Callable[[], Take], streams: Sequence[Sequence[bytes]]) -> float:
    """Return microseconds of CPU time an event, of whole streams: the middle one of them."""
    taken: list[float] = []
    for events in streams:
        take = begin()
        started_at = time.thread_time()
        for event in events:
            take(event)
        taken.append((time.thread_time() - started_at) / len(events) * 1e6)
    return percentile(taken, 50)
