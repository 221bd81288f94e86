"""Which conversations share a worker, and how that worker is set up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.contract.recorded.answers import (
    every_restoration,
    every_stream,
    every_usage,
    every_whole_answer,
    streamed,
    whole,
)
from tests.contract.recorded.apis import as_json, chat
from tests.contract.recorded.conversation import (
    BUFFERED,
    DUPLEX,
    Answer,
    Conversation,
    Crowd,
    Exchange,
    Modes,
    Script,
    Send,
    opening_message,
    stream_metadata,
)
from tests.contract.recorded.faults import (
    bounds,
    every_fault,
    outage,
    while_a_key_is_loaded,
    while_content_is_checked,
)
from tests.contract.recorded.keys import KEYS, ORGANIZATIONS, TEAMS
from tests.contract.recorded.requests import (
    EMAIL,
    SECRET,
    asked,
    every_api,
    every_credential,
    every_guardrail,
    every_key,
    every_malformed_body,
    every_mode,
    everything_unscanned,
    exchange,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Conversations that one worker has, one after the other."""

    name: str
    conversations: tuple[Conversation, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    ends_at_once: bool = False
    """Whether the access log tells the end of each request before the next begins."""
    is_shared: bool = False
    """Whether the worker may have other groups as well; its keys are in the cache then."""

    def __post_init__(self) -> None:
        names = [one.name for one in self.conversations]
        if len(set(names)) < len(names):
            raise AssertionError(f"two of one name: {sorted(names)}")

    @property
    def keys(self) -> frozenset[str]:
        """The names of the keys that are presented."""
        sent = b"".join(message for one in self.conversations for message in _openings(one))
        return frozenset(
            name for name, row in KEYS.items() if f"egk_{row.key_id}_".encode() in sent
        )

    @property
    def policies(self) -> frozenset[str]:
        """The names of the policies that those keys are bound to."""
        rows = [KEYS[name] for name in self.keys]
        teams = [one for one in TEAMS if one["name"] in {row.team for row in rows}]
        owners = [one["organization"] for one in teams]
        organizations = [one for one in ORGANIZATIONS if one["name"] in owners]
        named = {row.policy for row in rows} | {one["policy"] for one in (*teams, *organizations)}
        return frozenset(name for name in named if name is not None)


def _openings(conversation: Conversation) -> list[bytes]:
    if isinstance(conversation, Script):
        return [step.message for step in conversation.steps if isinstance(step, Send)]
    played = conversation.played if isinstance(conversation, Crowd) else conversation
    return [opening_message(played)]


def first_use(key: str) -> Exchange:
    """Return a conversation that brings a key into a worker's cache; no trace of it is kept."""
    return exchange(
        f"first use of {key}",
        path="/v1/models",
        method="GET",
        body=None,
        of=key,
        metadata=stream_metadata("first use", is_sampled=False),
    )


def _limited() -> Iterator[Conversation]:
    """Every kind of limit until it is short, in every dialect that words it in its own way."""
    for number in range(3):
        yield asked(f"limits: requests {number}", of="limit-requests")
    for api in ("messages", "gemini", "converse", "azure chat", "embeddings"):
        yield asked(f"limits: requests, {api}", api=api, of="limit-requests")
    for name in ("tokens", "input", "output", "budget", "nothing", "once", "many"):
        for number in range(4):
            body = as_json({**chat(f"{number} " + "words " * 20), "max_tokens": 40})
            yield exchange(f"limits: {name} {number}", body=body, of=f"limit-{name}")
        yield asked(f"limits: {name}, messages", api="messages", of=f"limit-{name}")
        yield exchange(f"limits: {name}, no body", path="/v1/models", method="GET", body=None,
                       of=f"limit-{name}")  # fmt: skip
    yield asked("limits: refused otherwise", SECRET, of="limit-nothing")
    for number in range(2):
        yield asked(f"limits: model {number}", of="limit-scoped")
        yield asked(f"limits: operation {number}", api="embeddings", of="limit-scoped")
        yield asked(f"limits: neither {number}", api="messages", of="limit-scoped")
        yield asked(f"limits: team {number}", of="limit-team")
        yield asked(f"limits: team, other key {number}", of="limit-team-2")
    yield streamed("limits: a stream", "chat", ("Hello", " you"), of="limit-many")


def _settled() -> Iterator[Conversation]:
    """Limits whose reservations are corrected by what the access log says was used."""
    told: dict[str, Any] = {"of": "limit-many", "ended": {"input_tokens": "700"}}
    failed = {"status": "502", "input_tokens": "-", "output_tokens": "-", "usage_status": "-"}
    yield asked("settled: used more than was reserved", **told)
    yield asked("settled: less is left", of="limit-many")
    yield asked("settled: the provider failed", of="limit-many", ended=failed)
    yield asked("settled: it is given back", of="limit-many")
    for number in range(3):
        yield asked(f"settled: one after the other {number}", of="limit-once")
    yield asked("settled: a budget", of="limit-budget", ended={"output_tokens": "300"})
    yield asked("settled: a budget that is used up", of="limit-budget")


_NOTHING_TOLD: Final = {
    "usage_status": "-",
    "model": "-",
    "input_tokens": "-",
    "output_tokens": "-",
    "cached_input_tokens": "-",
    "reasoning_tokens": "-",
}
_ENDS: Final[dict[str, dict[str, str]]] = {
    "as usual": {},
    "nothing told": _NOTHING_TOLD,
    "a stream that told nothing": {**_NOTHING_TOLD, "content_type": "text/event-stream"},
    "an answer without bytes": {**_NOTHING_TOLD, "answer_bytes": "0", "sent_bytes": "0"},
    "an extraction that failed": {**_NOTHING_TOLD, "usage_status": "3"},
    "an error of the provider": {**_NOTHING_TOLD, "status": "500"},
    "a limit of the provider": {**_NOTHING_TOLD, "status": "429"},
    "no upstream": {**_NOTHING_TOLD, "status": "503", "upstream": "-", "flags": "UH"},
    "the client left": {**_NOTHING_TOLD, "status": "0", "flags": "DC"},
    "the client left within the answer": {**_NOTHING_TOLD, "flags": "DC"},
    "the upstream reset": {**_NOTHING_TOLD, "flags": "UR"},
    "a timeout of the upstream": {**_NOTHING_TOLD, "status": "504", "flags": "UT"},
    "another model": {"model": "claude-3-opus"},
    "a model without a price": {"model": "unknown-1"},
    "more cached than read": {"cached_input_tokens": "500"},
    "tokens written to a cache": {"cache_write_input_tokens": "30"},
    "tokens that are no numbers": {"input_tokens": "many", "output_tokens": "1e3"},
    "tokens below zero": {"input_tokens": "-5", "output_tokens": "-1"},
    "tokens beyond all bounds": {"input_tokens": "9" * 30},
    "fractions of tokens": {"input_tokens": "10.0", "output_tokens": "2.5"},
    "no times": {"duration_ms": "-", "duration_us": "-", "first_byte_us": "-", "output_us": "-"},
    "times that are no numbers": {"duration_ms": "x", "duration_us": "y"},
    "no status": {"status": "-"},
    "no method": {"method": "-"},
    "an odd id of the provider's": {"provider_request_id": "a b\t" * 40},
    "no metadata": {"egret": "-"},
    "metadata that is no JSON": {"egret": "{"},
    "metadata of nobody": {"egret": '{"request_id": "r"}'},
    "no name of the stream": {"stream": "-"},
    "nothing at all": dict.fromkeys(("egret", "stream", "status", "method"), ""),
}


def _ended() -> Iterator[Conversation]:
    """Ends of requests as Envoy's access log may tell them."""
    for name, ended in _ENDS.items():
        yield asked(f"end: {name}", ended=ended)
    stream = _NOTHING_TOLD | {"content_type": "text/event-stream"}
    for api in ("messages", "gemini stream", "embeddings", "images", "speech", "converse"):
        yield asked(f"end: {api}", api=api, ended={"model": "-"})
        yield asked(f"end: {api}, nothing told", api=api, ended=stream)
    yield asked("end: a redacted request", EMAIL, ended=_NOTHING_TOLD)
    yield asked("end: a refused request", SECRET, ended={"received_bytes": "-"})
    yield exchange("end: a list", path="/v1/models", method="GET", body=None, ended=_NOTHING_TOLD)


def _mutated() -> Iterator[Conversation]:
    """With `timing: mutation`, Egret writes its headers into every answer."""
    body = as_json({"choices": [{"message": {"content": "Hello."}}]})
    foreign = Answer(body=body, headers=(
        ("content-type", "application/json"), ("server-timing", "cdn;dur=1"),
        ("x-ratelimit-limit-requests", "9"), ("x-egret-request-id", "forged"),
        ("x-response-time", "1ms"), ("retry-after", "3"),
    ))  # fmt: skip
    both = Modes(request_body=BUFFERED, response_body=BUFFERED, response_headers=True)
    duplex = Modes(request_body=DUPLEX, response_body=DUPLEX, response_headers=True)
    for mode, modes in (("default", Modes()), ("buffered", both), ("duplex", duplex)):
        common: dict[str, Any] = {"modes": modes, "answer": foreign}
        yield asked(f"mutation, {mode}: allowed", **common)
        yield asked(f"mutation, {mode}: redacted", EMAIL, **common)
        yield asked(f"mutation, {mode}: blocked", SECRET, **common)
        yield asked(f"mutation, {mode}: keyless", credential=(), **common)
        yield asked(f"mutation, {mode}: nothing to judge", of="p-free", **common)
        yield asked(f"mutation, {mode}: limits", of="limit-many", **common)
        yield asked(f"mutation, {mode}: limits of Anthropic's", api="messages", of="limit-many",
                    **common)  # fmt: skip
        yield exchange(f"mutation, {mode}: list", path="/v1/models", method="GET", body=None,
                       **common)  # fmt: skip
        yield whole(f"mutation, {mode}: judged", EMAIL, of="p-out-redact", modes=modes)
        yield whole(f"mutation, {mode}: blocked answer", EMAIL, of="p-out-block", modes=modes)
        yield streamed(f"mutation, {mode}: stream", "chat", ("Hi ann@example.", "org"),
                       of="p-out-redact", modes=modes)  # fmt: skip
    yield asked("mutation: no answer comes")


def _routed() -> Iterator[Conversation]:
    """With `route_by_model`, Envoy is told the model in a header."""
    for mode, modes in (("default", Modes()), ("buffered", Modes(request_body=BUFFERED)),
                        ("duplex", Modes(request_body=DUPLEX))):  # fmt: skip
        for api in ("chat", "messages", "gemini", "converse", "embeddings"):
            yield asked(f"routed, {mode}: {api}", api=api, modes=modes)
        yield asked(f"routed, {mode}: nothing to judge", of="p-free", modes=modes)
        yield asked(f"routed, {mode}: redacted", EMAIL, modes=modes)
        yield asked(f"routed, {mode}: not allowed", of="one-model", modes=modes)
        yield exchange(f"routed, {mode}: no model", body=b'{"messages": []}', modes=modes)
        odd = as_json({**chat("hi"), "model": "a\nb\u00e9"})
        yield exchange(f"routed, {mode}: an odd model", body=odd, modes=modes)
        yield exchange(f"routed, {mode}: list", path="/v1/models", method="GET", body=None,
                       modes=modes)  # fmt: skip
        yield exchange(f"routed, {mode}: free, cut short", body=b"{", of="p-free", modes=modes)


def _remote() -> Iterator[Conversation]:
    """Webhooks with every verdict, and faults under both rules for them."""
    for policy in ("pass", "block", "flag", "redact", "error", "error-open", "hang", "hang-open",
                   "rubbish", "shadow", "and-local"):  # fmt: skip
        yield asked(f"webhook {policy}: a chat", "hello there", of=f"p-hook-{policy}")
        yield asked(f"webhook {policy}: an address", EMAIL, api="messages",
                    of=f"p-hook-{policy}")  # fmt: skip
    yield whole("webhook: a whole answer", "Hello.", of="p-hook-out")
    yield streamed("webhook: a streamed answer", "chat", ("Hel", "lo"), of="p-hook-out")


def _group(name: str, *conversations: Iterator[Conversation], **more: Any) -> Group:
    return Group(name=name, conversations=tuple(c for some in conversations for c in some), **more)


GROUPS: Final = (
    _group("apis", every_api(), every_malformed_body(), is_shared=True),
    _group("keys", every_credential(), every_key()),
    _group("modes", every_mode(), every_fault(), is_shared=True),
    _group("guardrails", every_guardrail(), everything_unscanned()),
    _group("answers", every_stream(), every_whole_answer(), is_shared=True),
    _group("restoration", every_restoration(), every_usage(), is_shared=True),
    _group("limits", _limited()),
    _group("ends", _ended()),
    _group("settled", _settled(), ends_at_once=True),
    _group("mutation", _mutated(), settings={"EXCHANGE__TIMING": "mutation"}),
    _group("routed", _routed(), settings={"EXCHANGE__ROUTE_BY_MODEL": "on"}),
    _group("remote", _remote(), is_shared=True),
    _group(
        "bounds",
        bounds(),
        settings={
            "EXCHANGE__MAX_EXCHANGES": "2",
            "EXCHANGE__MAX_BODY_BYTES": "2000",
            "EXCHANGE__MAX_HELD_BYTES": "4000",
            "EXCHANGE__BODY_IDLE_SECONDS": "0.3",
            "EXCHANGE__BODY_SECONDS": "0.6",
        },
    ),
    _group("slow", while_content_is_checked(), while_a_key_is_loaded()),
    _group("outage", outage(), settings={"CACHE__MAX_STALE_SECONDS": "3600"}),
)
