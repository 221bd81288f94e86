"""How far off the estimate of a stream's tokens is, for texts and events of several kinds.

Tokens are counted by OpenAI's o200k vocabulary; a stream has an event for each of them, as
OpenAI's own have. Nothing is sent: the bytes are those that Envoy would have counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import quicktok
from egret_tools.benign_text import benign_text

from sidecar.domain.usage import AnswerEnd, DecisionKind, ExchangeEnded, JudgedRequest
from sidecar.usage.records import record_of

TEXTS: Final[Mapping[str, str]] = {
    "English": benign_text(4_000),
    "German": (
        "Die Rechnung vom letzten Monat ist noch offen; bitte überweisen Sie den fälligen Betrag "
        "bis Freitag auf das angegebene Konto und nennen Sie dabei die Kundennummer. "
    )
    * 20,
    "Chinese": "请在星期五之前把上个月的发票金额转到指定的账户。谢谢您的合作。" * 30,
    "code": (
        "def total(items: list[Item]) -> Decimal:\n"
        "    return sum((item.price * item.count for item in items), Decimal(0))\n\n"
    )
    * 20,
}


@dataclass(frozen=True, slots=True)
class EventForm:
    """The parts of an event beside its word."""

    name: str
    frame: Mapping[str, object]
    object: str = "chat.completion.chunk"


_IDS: Final = {"id": "chatcmpl-BqkP7ZvT0x1YhU2nWc4sLdEo8RfJg", "created": 1764064800}
FORMS: Final = (
    EventForm("chat", {**_IDS, "model": "gpt-4o-mini-2024-07-18"}),
    EventForm(
        "chat, with tier and padding",
        {
            **_IDS,
            "model": "gpt-4o-mini-2024-07-18",
            "service_tier": "default",
            "system_fingerprint": "fp_560af6e559",
            "obfuscation": "x7Qd0p",
        },
    ),
    EventForm("completions", {**_IDS, "model": "gpt-3.5-turbo-instruct"}, "text_completion"),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """One text in one form: tokens as counted and as estimated."""

    text: str
    form: str
    output: int
    estimated_output: int
    estimated_input: int

    @property
    def errors(self) -> tuple[float, float]:
        """By which share it is too high: of an answer with this text, and of a prompt."""
        return self.estimated_output / self.output - 1, self.estimated_input / self.output - 1


def estimates() -> Iterator[Estimate]:
    """Yield every text in every form."""
    encoding = quicktok.get_encoding("o200k_base")
    for name, text in TEXTS.items():
        tokens: list[int] = encoding.encode(text)
        # A character of several tokens comes in the event that completes it.
        words = [encoding.decode([token]) for token in tokens]
        for form in FORMS:
            yield _estimate(name, text, form, words)


def _estimate(name: str, text: str, form: EventForm, words: list[str]) -> Estimate:
    sent = sum(len(_event(form, word)) for word in words)
    request = JudgedRequest(
        request_id="estimate",
        occurred_at=datetime(2026, 11, 25, tzinfo=UTC),
        key_id="",
        team_id="",
        organization_id="",
        decision=DecisionKind.ALLOW,
        operation="chat",
        provider="openai",
        is_streamed=True,
        text_bytes=len(text.encode()),
    )
    ended = ExchangeEnded(
        request=request, status=200, end=AnswerEnd.COMPLETED, sent_bytes=sent, is_event_stream=True
    )
    tokens = record_of(ended).tokens
    return Estimate(name, form.name, len(words), tokens.output, tokens.input)


def _event(form: EventForm, word: str) -> bytes:
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": None}
    choice |= {"text": word} if form.object == "text_completion" else {"delta": {"content": word}}
    document = {**form.frame, "object": form.object, "choices": [choice]}
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return f"data: {data}\n\n".encode()
