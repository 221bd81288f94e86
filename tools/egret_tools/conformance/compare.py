"""Compares the expectations of a case with the observation. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from egret_tools.conformance.case import SAME, Bounds, Case, Side
from egret_tools.conformance.case import Upstream as UpstreamSide
from egret_tools.conformance.envoy_setup import OPEN_STREAMS, SERVER_RESETS, Counters
from egret_tools.conformance.upstream import Answering, Arrived
from egret_tools.conformance.wire import HUNG_UP, Outgoing, RawHeaders, Received

SHOWN_BYTES: Final = 60

_NEVER: Final = Bounds(max=0)
ALWAYS: Final = {
    "failure_mode_allowed": _NEVER,
    "spurious_msgs_received": _NEVER,
    "message_timeouts": _NEVER,
    "streams_failed": _NEVER,
    "rejected_header_mutations": _NEVER,
    "override_message_timeout_ignored": _NEVER,
    "clear_route_cache_ignored": _NEVER,
    "streams_started": Bounds(min=1, max=1),
    # A stream that ends with OK before an answer lets the request pass (external_processor.proto).
    "stream_msgs_received": Bounds(min=1),
    SERVER_RESETS: _NEVER,
}
"""Counters of each request, unless a case has its own."""
NEW_COUNTERS: Final = frozenset({"immediate_responses_sent"})
"""Counters that an Envoy before 1.37 lacks; there the answer to the client must suffice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that came of one case."""

    sent: tuple[Outgoing, ...]
    answering: Answering
    received: tuple[Received, ...]
    arrived: tuple[Arrived, ...]
    unreadable: int
    counted: Counters


def differences(case: Case, seen: Seen) -> list[str]:
    """Yield the differences; none if the case conforms."""
    return [
        *_of_upstream(case, seen),
        *_of_answers(case, seen),
        *_of_counters(case, seen),
    ]


def _of_upstream(case: Case, seen: Seen) -> Iterator[str]:
    expected = case.expect.upstream
    times = len(seen.sent)
    least, most = expected.requests.least * times, expected.requests.most * times
    if not least <= len(seen.arrived) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        yield f"upstream: {len(seen.arrived)} requests instead of {wanted}"
        return
    if seen.unreadable:
        yield f"upstream: {seen.unreadable} times what followed a request was none"
    bodies = sorted(request.body for request in seen.sent)
    for arrived, body in zip(sorted(seen.arrived, key=_body_of), bodies, strict=False):
        sent = seen.sent[0]
        for what, got, wanted in (
            ("method", arrived.method, sent.method), ("path", arrived.path, sent.path),
        ):  # fmt: skip
            if got != wanted:
                yield f"upstream: {what} {got} instead of {wanted}"
        yield from _framing(arrived, expected)
        is_cut = not arrived.is_whole and expected.may_break_off
        same = body[: len(arrived.body)] if is_cut else body
        yield from _of_side("upstream", expected, _Got(arrived.headers, arrived.body, same))


def _body_of(arrived: Arrived) -> bytes:
    return arrived.body


def _framing(arrived: Arrived, expected: UpstreamSide) -> Iterator[str]:
    """Two ways of telling the end, or a wrong length, split one request into two."""
    if not arrived.is_whole and not expected.may_break_off:
        yield "upstream: a request that did not end"
    if arrived.all("content-length") and arrived.all("transfer-encoding"):
        yield "upstream: both content-length and transfer-encoding"


def _of_answers(case: Case, seen: Seen) -> Iterator[str]:
    expected = case.expect.answer
    for received in seen.received:
        if received == HUNG_UP:
            continue
        if not received.is_whole and not expected.may_break_off:
            yield f"answer: broken off after status {received.status}"
            continue
        if received.status not in expected.status:
            wanted = " or ".join(map(str, expected.status))
            yield f"answer: status {received.status} instead of {wanted}{_shown(received.body)}"
            continue
        got = _Got(received.headers, received.body, seen.answering.body)
        yield from _of_side("answer", expected, got)


@dataclass(frozen=True, slots=True)
class _Got:
    headers: RawHeaders
    body: bytes
    same: bytes

    def values(self, name: str) -> tuple[str, ...]:
        key = name.encode()
        return tuple(value.decode("latin-1") for header, value in self.headers if header == key)


def _of_side(side: str, expected: Side, got: _Got) -> Iterator[str]:
    if expected.body == SAME and got.body != got.same:
        yield f"{side}: {_how_bodies_differ(got)}"
    for text in expected.contains:
        if text.encode() not in got.body:
            yield f"{side}: the body lacks {text!r}{_shown(got.body)}"
    for text in expected.lacks:
        if text.encode() in got.body:
            yield f"{side}: the body holds {text!r}"
    yield from _of_headers(side, expected, got)


def _of_headers(side: str, expected: Side, got: _Got) -> Iterator[str]:
    for name, expression in expected.headers.items():
        values = got.values(name)
        if len(values) != 1 or not re.fullmatch(expression, values[0]):
            yield f"{side}: {name} is {_listed(values)}, not {expression}"
    for name, wanted in expected.values.items():
        # Envoy may join values that came apart: only the list counts (RFC 9110 section 5.3).
        values = tuple(part.strip() for value in got.values(name) for part in value.split(","))
        if values != wanted:
            yield f"{side}: {name} is {_listed(values)}, not {_listed(wanted)}"
    for name in expected.absent:
        if got.values(name):
            yield f"{side}: {name} is there"


def _how_bodies_differ(got: _Got) -> str:
    pairs = enumerate(zip(got.body, got.same, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), None)
    sizes = f"a body of {len(got.body)} bytes instead of {len(got.same)}"
    if place is None:
        return f"{sizes}, the same as far as both go"
    return f"{sizes}, different from byte {place} on{_shown(got.body[place:])}"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values) or "absent"


def _shown(body: bytes) -> str:
    return f": {body[:SHOWN_BYTES].decode('utf-8', 'replace')!r}" if body else ""


def _of_counters(case: Case, seen: Seen) -> Iterator[str]:
    times = len(seen.sent)
    for name, bounds in (ALWAYS | case.expect.counters).items():
        count = seen.counted.get(name)
        if count is None:
            if name not in NEW_COUNTERS:
                yield f"counters: Envoy has no {name}"
        elif not bounds.least * times <= count <= bounds.most * times:
            yield f"counters: {name} is {count}, not {_range(bounds, times)}"
    if seen.counted.get(OPEN_STREAMS):
        yield f"counters: {seen.counted[OPEN_STREAMS]} streams were left open"


def _range(bounds: Bounds, times: int) -> str:
    least, most = bounds.least * times, bounds.most * times
    if least == most:
        return str(least)
    return f"at least {least}" if bounds.most == Bounds().most else f"{least} to {most}"
