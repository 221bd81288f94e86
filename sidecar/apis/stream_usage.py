"""Asks for token counts in streams, reads them, and strips them for clients that did not ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson
from msgspec import structs

from sidecar.apis.frames import Frame, Opaque, SseFramer, with_payload_in_place
from sidecar.domain.subject import Dialect, Operation, RequestForm, Route
from sidecar.jsontext.strict import JsonValue
from sidecar.jsontext.tokens import WHOLE_STRING, decode

OPTIONS: Final = b"stream_options"
INCLUDE_USAGE: Final = b"include_usage"
_ASKED: Final = b'"include_usage":true'

_DIALECTS: Final = frozenset({Dialect.OPENAI, Dialect.AZURE_OPENAI})
_ASKABLE: Final = frozenset(
    {(Operation.CHAT, RequestForm.MESSAGES), (Operation.TEXT_COMPLETION, RequestForm.PROMPT)}
)
"""Not responses: their streams report usage anyway, and their options have no such field."""

_NAME: Final = re.compile(rb"[\s,]*+(" + WHOLE_STRING + rb")\s*+:\s*+", re.DOTALL)
_SCALAR: Final = re.compile(WHOLE_STRING + rb'|[^"\s,{}\[\]]++', re.DOTALL)


def _whole_inside(levels: int) -> bytes:
    """Return a pattern for the inside of an object or array, nested up to *levels* deep."""
    within = rb'[^"{}\[\]]++|' + WHOLE_STRING
    if levels:
        within += rb"|[{\[]" + _whole_inside(levels - 1) + rb"[}\]]"
    return rb"(?:" + within + rb")*+"


_INSIDE: Final = re.compile(_whole_inside(4), re.DOTALL)
"""Messages with parts with pictures, in one match: one for each bracket costs seconds where
someone sends ten megabytes of them."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object, from `text[at]` on; its value's bytes are `text[start:end]`."""

    name: bytes
    at: int
    start: int
    end: int


def can_ask_for_usage(route: Route) -> bool:
    """Return whether streams of *route* report usage only on request."""
    return route.dialect in _DIALECTS and (route.operation, route.form) in _ASKABLE


def ask_for_usage(body: bytes) -> bytes:
    """Return *body*, a valid JSON object with members, asking for the counts of its stream.

    All other bytes stay. Options that are no object are left alone: the provider refuses them.
    """
    options = next((one for one in members(body, 0) if one.name == OPTIONS), None)
    if options is None:
        end = body.rindex(b"}")
        return body[:end] + b',"stream_options":{' + _ASKED + b"}" + body[end:]
    value = body[options.start : options.end]
    if value == b"null":
        return body[: options.start] + b"{" + _ASKED + b"}" + body[options.end :]
    if not value.startswith(b"{"):
        return body
    asked = next((one for one in members(body, options.start) if one.name == INCLUDE_USAGE), None)
    if asked is not None:
        return body[: asked.start] + b"true" + body[asked.end :]
    begin = options.start + 1
    comma = b"" if next(members(body, options.start), None) is None else b","
    return body[:begin] + _ASKED + comma + body[begin:]


def members(text: bytes, start: int) -> Iterator[Member]:
    """Yield the members of the object that begins at or after *start* in valid JSON."""
    at = text.index(b"{", start) + 1
    while (name := _NAME.match(text, at)) is not None:
        start = name.end()
        if (scalar := _SCALAR.match(text, start)) is not None:
            at = scalar.end()
        else:
            at, depth = start + 1, 1
            while depth:
                inside = _INSIDE.match(text, at)
                at = at if inside is None else inside.end()
                depth += 1 if text[at] in b"{[" else -1
                at += 1
        yield Member(decode(name[1][1:-1]), name.start(1), start, at)


_USAGE: Final = b"usage"
_NAMED: Final = b'"usage"'
_NULL_MEMBER: Final = re.compile(rb',\s*+"usage"\s*+:\s*+null(?=\s*+[,}])')
"""Never within a string, where its quotes would be escaped."""


class UsageStripper:
    """Takes the counts out of one stream of server-sent events, however it is cut."""

    def __init__(self) -> None:
        self._framer = SseFramer()
        self._events = EventUsageStripper()
        self._is_beyond = False

    def take(self, chunk: bytes, *, is_last: bool) -> bytes:
        """Return the bytes of the stream that may be sent now."""
        if self._is_beyond:
            return chunk
        frames = self._framer.feed(chunk)
        if is_last:
            frames += self._framer.finish()
        shown = b"".join([self._events.shown(frame).raw for frame in frames])
        # An event that never ends reports no counts.
        self._is_beyond = self._framer.fault is not None
        return shown + self._framer.rest() if self._is_beyond else shown


class EventUsageStripper:
    """Takes the counts out of the events of one stream, in their order.

    A chunk may end between the CR and the LF of a blank line. The event goes on with the CR, and
    its LF is found at the head of the next one: it must share the fate of the event it belongs to.
    """

    __slots__ = ("_is_half_ended", "_was_dropped")

    def __init__(self) -> None:
        self._is_half_ended = False
        self._was_dropped = False

    def shown(self, frame: Frame) -> Frame:
        """Return the event as if usage had not been requested; empty if there would be none.

        Counts beside a choice stay: a provider that reports them there does so without a request,
        and no client breaks on them.
        """
        begins_with_rest = self._is_half_ended and frame.raw.startswith(b"\n")
        rest_is_dropped = self._was_dropped
        shown, payload = frame, frame.payload
        if payload is not None and _NAMED in payload:
            try:
                document: JsonValue = orjson.loads(payload)
            except orjson.JSONDecodeError:
                document = None
            if isinstance(document, dict) and "usage" in document:
                if document["usage"] is None:
                    new = _without_null(payload)
                    shown = type(frame)(with_payload_in_place(frame, new), new, frame.event)
                elif document.get("choices") == []:
                    shown = Opaque(b"", None)
        self._is_half_ended = frame.raw.endswith(b"\r")
        self._was_dropped = not shown.raw
        if not begins_with_rest:
            return shown
        if not shown.raw:
            return shown if rest_is_dropped else Opaque(b"\n", None)
        raw = shown.raw.removeprefix(b"\n") if rest_is_dropped else shown.raw
        return structs.replace(shown, raw=raw)


def _without_null(payload: bytes) -> bytes:
    """Take the member out with its comma; the quick way is right where it leaves none."""
    shorter = _NULL_MEMBER.sub(b"", payload, count=1)
    # A name that stands once, and is not written with escapes, is that of the member.
    is_only = payload.count(_NAMED) == 1 and b"\\u" not in payload and len(shorter) < len(payload)
    if is_only or "usage" not in orjson.loads(shorter):
        return shorter
    before: Member | None = None
    found = members(payload, 0)
    for one in found:
        if one.name == _USAGE:
            if before is not None:
                return payload[: before.end] + payload[one.end :]
            behind = next(found, None)
            return payload[: one.at] + payload[one.end if behind is None else behind.at :]
        before = one
    return payload
