"""Taking the counts of a stream out again that Egret asked for and its client did not.

A provider that is asked for them says `usage: null` in every event, and tells them in one of its
own, whose `choices` are empty. Without both a stream is what it would have been, to the byte.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import orjson

from sidecar.dialects.frames import Frame, Opaque
from sidecar.dialects.sse import SseFramer
from sidecar.dialects.stream_usage import Member, members
from sidecar.dialects.strict_json import JsonValue

_USAGE: Final = b"usage"
_NAMED: Final = b'"usage"'
_NULL_MEMBER: Final = re.compile(rb',\s*+"usage"\s*+:\s*+null(?=\s*+[,}])')
"""Never within a string, where its quotes would be escaped."""


class UsageHider:
    """Takes the counts out of one stream of server-sent events, however it is cut."""

    def __init__(self) -> None:
        self._framer = SseFramer()
        self._events = EventsWithoutUsage()
        self._is_beyond = False

    def take(self, chunk: bytes, *, is_last: bool) -> bytes:
        """Return what of the stream may go on now."""
        if self._is_beyond:
            return chunk
        frames = self._framer.feed(chunk)
        if is_last:
            frames += self._framer.finish()
        shown = b"".join([self._events.shown(frame).raw for frame in frames])
        # An event that never ends is nothing that tells counts.
        self._is_beyond = self._framer.fault is not None
        return shown + self._framer.rest() if self._is_beyond else shown


class EventsWithoutUsage:
    """Takes the counts out of the events of one stream, in their order.

    A chunk may end between the CR and the LF of a blank line. The event goes on with the CR, and
    its LF is found at the head of the next one: it must share the fate of the event it belongs to.
    """

    __slots__ = ("_is_half_ended", "_was_dropped")

    def __init__(self) -> None:
        self._is_half_ended = False
        self._was_dropped = False

    def shown(self, frame: Frame) -> Frame:
        """Return the event as had nobody asked; without bytes where there would be none."""
        begins_with_rest = self._is_half_ended and frame.raw.startswith(b"\n")
        rest_is_dropped = self._was_dropped
        shown = _without_usage(frame)
        self._is_half_ended = frame.raw.endswith(b"\r")
        self._was_dropped = not shown.raw
        if not begins_with_rest:
            return shown
        if not shown.raw:
            return shown if rest_is_dropped else Opaque(b"\n", None)
        return replace(shown, raw=shown.raw.removeprefix(b"\n")) if rest_is_dropped else shown


def _without_usage(frame: Frame) -> Frame:
    """Return the event as it would be had nobody asked; without bytes where it would not be.

    Counts that stand beside a choice stay: a provider that tells them there tells them anyway,
    and no client breaks on them.
    """
    payload = frame.payload
    if payload is None or _NAMED not in payload:
        return frame
    try:
        document: JsonValue = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return frame
    if not isinstance(document, dict) or "usage" not in document:
        return frame
    if document["usage"] is None:
        return _with_payload(frame, payload, _without_null(payload))
    return Opaque(b"", None) if document.get("choices") == [] else frame


def _without_null(payload: bytes) -> bytes:
    """Take the member out with its comma; the quick way is right where it leaves none."""
    shorter = _NULL_MEMBER.sub(b"", payload, count=1)
    if "usage" not in orjson.loads(shorter):
        return shorter
    before: Member | None = None
    told = members(payload, 0)
    for one in told:
        if one.name == _USAGE:
            if before is not None:
                return payload[: before.end] + payload[one.end :]
            behind = next(told, None)
            return payload[: one.at] + payload[one.end if behind is None else behind.at :]
        before = one
    return payload


def _with_payload(frame: Frame, old: bytes, new: bytes) -> Frame:
    start = frame.raw.find(old)
    # Data over several lines is one payload and many pieces: its line ends become our own.
    raw = (
        frame.with_payload(new)
        if start < 0
        else frame.raw[:start] + new + frame.raw[start + len(old) :]
    )
    return type(frame)(raw, new, frame.event)
