"""The modes in which Envoy sends a request to an ext_proc server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

DEFAULT_BUFFER_BYTES: Final = 64 * 1024
"""Buffer of a connection at an edge proxy (Envoy's own advice is 32 KiB)."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A processing mode by its fields; fields left out are NONE or SKIP.

    *behind* is the mode of another processor whose filter is before the server's, *before* that of
    one after it.
    """

    fields: dict[str, str] = field(default_factory=dict)
    may_override: bool = False
    buffer_bytes: int = DEFAULT_BUFFER_BYTES
    behind: dict[str, str] | None = None
    before: dict[str, str] | None = None


def whole_mode(fields: dict[str, str]) -> dict[str, str]:
    """Return all fields of a processing mode: two of Envoy's defaults are SEND."""
    return {
        "request_header_mode": "SEND",
        "response_header_mode": "SKIP",
        "request_body_mode": "NONE",
        "response_body_mode": "NONE",
        "request_trailer_mode": "SKIP",
        "response_trailer_mode": "SKIP",
    } | fields


_BUFFERED: Final = {"request_body_mode": "BUFFERED"}
_DUPLEX: Final = {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}
_DUPLEX_ANSWER: Final = {
    **_DUPLEX,
    "response_header_mode": "SEND",
    "response_body_mode": "FULL_DUPLEX_STREAMED",
    "response_trailer_mode": "SEND",
}

MODES: Final = {
    "headers": Mode(may_override=True),
    "headers-answer": Mode({"response_header_mode": "SEND"}, may_override=True),
    "buffered": Mode(_BUFFERED),
    "buffered-answer": Mode(
        {**_BUFFERED, "response_header_mode": "SEND", "response_body_mode": "BUFFERED"}
    ),
    "buffered-large": Mode(_BUFFERED, buffer_bytes=16 * 1024 * 1024),
    "duplex": Mode(_DUPLEX),
    "duplex-answer": Mode(_DUPLEX_ANSWER),
    "headers-behind": Mode(may_override=True, behind=_DUPLEX_ANSWER),
    "duplex-behind": Mode(_DUPLEX, behind=_DUPLEX_ANSWER),
    "duplex-before": Mode(_DUPLEX, before=_DUPLEX_ANSWER),
    # Neither can be a gate: the headers leave first, or the rest of a long body goes unseen.
    "streamed": Mode({"request_body_mode": "STREAMED"}),
    "partial": Mode({"request_body_mode": "BUFFERED_PARTIAL"}),
}

JUDGED_MODES: Final = (
    "headers",
    "headers-answer",
    "buffered",
    "buffered-answer",
    "duplex",
    "duplex-answer",
    "headers-behind",
    "duplex-behind",
    "duplex-before",
)
"""In which a request can be judged before it leaves."""
