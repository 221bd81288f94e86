"""The W3C trace context that Envoy puts into the gRPC metadata, read without ever raising.

Format: https://www.w3.org/TR/trace-context/ sections 3.2 and 3.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

_SAMPLED: Final = 0x01
_MAX_TRACESTATE_CHARACTERS: Final = 4096
"""Eight times what the specification asks everyone to carry; more is not looked at."""

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_VERSION_00_CHARACTERS: Final = 55
_UNSAMPLED: Final = re.compile(
    r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]"
)
_OT_MEMBER: Final = re.compile(r"[A-Za-z0-9:;._-]{1,256}")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The caller's span. `ot` is OpenTelemetry's own tracestate member, if it sent one.

    Other members are left out of our spans: Envoy carries them on, and they may hold anything a
    client wrote.
    """

    trace_id: int
    span_id: int
    flags: int
    ot: str | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether the caller records this trace; then so do we."""
        return bool(self.flags & _SAMPLED)

    def sampled(self) -> TraceParent:
        """Return it as if its caller had sampled it."""
        return replace(self, flags=self.flags | _SAMPLED)


def parse_trace_parent(traceparent: str | None, tracestate: str | None) -> TraceParent | None:
    """Return the caller's span, or None where there is none or it is malformed."""
    if not traceparent:
        return None
    matched = _TRACEPARENT.match(traceparent)
    if matched is None:
        return None
    version, trace_id, span_id, flags = matched.groups()
    if not _may_follow(version, traceparent[_VERSION_00_CHARACTERS:]):
        return None
    parent = TraceParent(int(trace_id, 16), int(span_id, 16), int(flags, 16), _ot(tracestate))
    return parent if parent.trace_id and parent.span_id else None


def sampled_trace_id(traceparent: str | None) -> str | None:
    """Return the trace id where the caller records the trace."""
    if traceparent is None or traceparent.endswith("-00"):
        return None  # without a look at the rest: this is asked of every request
    parent = parse_trace_parent(traceparent, None)
    return format_trace_id(parent.trace_id) if parent is not None and parent.is_sampled else None


def unsampled_trace_id(traceparent: str | None) -> str | None:
    """Return the trace id where the caller says in version 00 that it records nothing.

    It says what `parse_trace_parent` says, at a quarter of the cost: most requests are such.
    """
    matched = None if traceparent is None else _UNSAMPLED.fullmatch(traceparent)
    return None if matched is None else matched[1]


def format_trace_id(trace_id: int) -> str:
    """Return a trace id as everybody writes it."""
    return f"{trace_id:032x}"


def _may_follow(version: str, rest: str) -> bool:
    # A later version may append fields after a dash; ff is forbidden.
    return rest == "" if version == "00" else version != "ff" and rest[:1] in {"", "-"}


def _ot(tracestate: str | None) -> str | None:
    if not tracestate or len(tracestate) > _MAX_TRACESTATE_CHARACTERS:
        return None
    for member in tracestate.split(","):
        key, _, value = member.strip().partition("=")
        if key == "ot":
            return value if _OT_MEMBER.fullmatch(value) else None
    return None
