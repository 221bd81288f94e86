"""Names the cause of a difference in a sentence, and groups results by it. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from egret_tools.conformance.suite import Result


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause with the sentence for people; `id` is for programs."""

    id: str
    sentence: str


_BY_PATTERN: Final = (
    (r"counters: stream_msgs_received is 0",
     Cause("no-answer", "your server ended the stream without an answer: Envoy lets such a "
           "request pass")),
    (r"counters: failure_mode_allowed", Cause("bypass", "a request passed unchecked")),
    (r"counters: message_timeouts",
     Cause("timeout", "your server did not answer a message within Envoy's message_timeout")),
    (r"counters: spurious_msgs_received",
     Cause("unexpected-message", "your server sent a message that Envoy was not waiting for")),
    (r"counters: rejected_header_mutations",
     Cause("rejected-mutation", "your server changed a header that Envoy protects")),
    (r"counters: streams_failed",
     Cause("failed-stream", "your server ended a stream with an error")),
    (r"counters: \d+ streams were left open",
     Cause("open-stream", "your server did not end a stream after Envoy had closed its side")),
    (r"counters: upstream_rq_rx_reset",
     Cause("reset", "your server reset a stream instead of ending it with a status")),
    (r"upstream: .*followed a request|upstream: both content-length",
     Cause("framing", "a body and its length do not fit: the rest is read as another request")),
    (r"answer: none within", Cause("hang", "an answer never came")),
    (r"upstream: a body of|upstream: the body",
     Cause("request-body", "your server changed a request body that should pass as it is")),
    (r"answer: a body of|answer: the body",
     Cause("response-body", "your server changed an answer that should pass as it is")),
    (r"upstream: \d+ requests instead of 0",
     Cause("not-refused", "a request reached the upstream that should not")),
    (r"answer: status", Cause("status", "the client received another status")),
    (r"upstream: \d+ requests instead",
     Cause("lost-request", "a request did not reach the upstream")),
    (r"(upstream|answer): \S+ is ",
     Cause("header", "your server changed a header that should pass as it is")),
)  # fmt: skip
"""Causes by the differences that show them, the most telling first."""
OTHER: Final = Cause("other", "an exchange went otherwise than expected")


def cause_of(result: Result) -> Cause:
    """Return the cause of a result that differs."""
    for pattern, cause in _BY_PATTERN:
        if any(re.match(pattern, line) for line in result.differences):
            return cause
    return OTHER


def unserved_modes(results: Iterable[Result]) -> tuple[str, ...]:
    """Return the modes in which all ordinary cases differ, so that the others were not run."""
    return tuple(dict.fromkeys(one.run.mode for one in results if not one.was_run))


def grouped(
    results: Iterable[Result], unserved: Iterable[str]
) -> Mapping[Cause, tuple[Result, ...]]:
    """Return the results that differ, by cause; those of unserved modes have theirs said once."""
    groups: dict[Cause, list[Result]] = {}
    for one in results:
        if one.differences and one.run.mode not in unserved:
            groups.setdefault(cause_of(one), []).append(one)
    return {cause: tuple(found) for cause, found in groups.items()}


def unserved_sentence(mode: str, diagnosis: str | None) -> str:
    """Return what is said once about a mode that a server does not serve."""
    reason = diagnosis or "its answers to single messages are right, but not through Envoy"
    return (
        f"all ordinary cases of mode {mode} differ: {reason}; the other cases were not run. "
        f"Leave the mode out by naming others with --mode, or run all of it with --mode {mode}"
    )
