"""The phases of one ext_proc stream: which message may come in each, and which verdict.

docs/protocol.md is generated from these tables.
"""

from __future__ import annotations

import enum
from typing import Final

from sidecar.domain.errors import ErrorKind
from sidecar.extproc.codec import BodyMode, MessageKind


class Phase(enum.StrEnum):
    """The progress of one request and its answer."""

    AWAIT_HEADERS = "await headers"
    JUDGING_HEADERS = "judging headers"
    AWAIT_BODY = "await body"
    JUDGING_BODY = "judging body"
    AWAIT_ANSWER = "await answer"  # the request went on; its rest may still be passed on
    JUDGING_ANSWER_HEADERS = "judging answer headers"
    PASSING_ANSWER = "passing answer"
    AWAIT_PIECE = "await piece"
    JUDGING_PIECE = "judging piece"
    HOLDING_ANSWER = "holding answer"
    JUDGING_ANSWER = "judging answer"  # all of it is here; a refusal is still possible
    AWAIT_REQUEST_END = "await request end"  # the answer is complete, the request is not
    ENDED = "ended"


class Event(enum.Enum):
    """The decision that a message calls for."""

    NOTHING = enum.auto()
    REQUEST_HEADERS = enum.auto()
    REQUEST_BODY = enum.auto()
    ANSWER_HEADERS = enum.auto()
    ANSWER_PIECE = enum.auto()
    ANSWER_BODY = enum.auto()
    ENDED = enum.auto()  # nothing more is owed


_P, _M = Phase, MessageKind

TRANSITIONS: Final[dict[Phase, dict[MessageKind, tuple[Phase, ...]]]] = {
    _P.AWAIT_HEADERS: {
        _M.REQUEST_HEADERS: (_P.JUDGING_HEADERS, _P.ENDED),
        # Nothing was judged: request_header_mode is SKIP, or Envoy answered before it had headers.
        _M.RESPONSE_HEADERS: (_P.ENDED,),
        _M.RESPONSE_BODY: (_P.ENDED,),
        _M.RESPONSE_TRAILERS: (_P.ENDED,),
    },
    _P.JUDGING_HEADERS: {
        # Only FULL_DUPLEX_STREAMED sends a body while the headers wait for their answer.
        _M.REQUEST_BODY: (_P.JUDGING_HEADERS, _P.ENDED),
        _M.REQUEST_TRAILERS: (_P.ENDED,),
        # A local reply (413, timeout, no upstream) overtakes the judgement. Envoy answers the
        # client itself and the request goes nowhere, so nothing is left to judge.
        _M.RESPONSE_HEADERS: (_P.JUDGING_ANSWER_HEADERS,),
    },
    _P.AWAIT_BODY: {
        _M.REQUEST_BODY: (_P.AWAIT_BODY, _P.JUDGING_BODY, _P.ENDED),
        _M.REQUEST_TRAILERS: (_P.JUDGING_BODY, _P.ENDED),
        _M.RESPONSE_HEADERS: (_P.JUDGING_ANSWER_HEADERS,),
    },
    _P.JUDGING_BODY: {
        # Only the end of a streamed body once more, without bytes; it is ignored.
        _M.REQUEST_BODY: (_P.JUDGING_BODY,),
        _M.RESPONSE_HEADERS: (_P.JUDGING_ANSWER_HEADERS,),
    },
    _P.AWAIT_ANSWER: {
        _M.REQUEST_BODY: (_P.AWAIT_ANSWER, _P.ENDED),
        _M.REQUEST_TRAILERS: (_P.AWAIT_ANSWER, _P.ENDED),
        _M.RESPONSE_HEADERS: (_P.JUDGING_ANSWER_HEADERS,),
        # response_header_mode SKIP with a body mode: the body comes first. With trailers that
        # bring counts, they come first.
        _M.RESPONSE_BODY: (_P.PASSING_ANSWER, _P.AWAIT_REQUEST_END, _P.ENDED),
        _M.RESPONSE_TRAILERS: (_P.AWAIT_REQUEST_END, _P.ENDED),
    },
    _P.JUDGING_ANSWER_HEADERS: {
        _M.REQUEST_HEADERS: (_P.JUDGING_ANSWER_HEADERS,),  # left over from an overtaken request
        _M.REQUEST_BODY: (_P.JUDGING_ANSWER_HEADERS,),
        _M.REQUEST_TRAILERS: (_P.JUDGING_ANSWER_HEADERS,),
    },
    _P.PASSING_ANSWER: {
        _M.REQUEST_HEADERS: (_P.PASSING_ANSWER,),
        _M.REQUEST_BODY: (_P.PASSING_ANSWER,),
        _M.REQUEST_TRAILERS: (_P.PASSING_ANSWER,),
        _M.RESPONSE_BODY: (_P.PASSING_ANSWER, _P.AWAIT_REQUEST_END, _P.ENDED),
        _M.RESPONSE_TRAILERS: (_P.AWAIT_REQUEST_END, _P.ENDED),
    },
    _P.AWAIT_PIECE: {
        _M.REQUEST_BODY: (_P.AWAIT_PIECE,),
        _M.REQUEST_TRAILERS: (_P.AWAIT_PIECE,),
        _M.RESPONSE_BODY: (_P.JUDGING_PIECE,),
        _M.RESPONSE_TRAILERS: (_P.JUDGING_PIECE,),
    },
    _P.JUDGING_PIECE: {
        _M.REQUEST_BODY: (_P.JUDGING_PIECE,),
        _M.REQUEST_TRAILERS: (_P.JUDGING_PIECE,),
    },
    _P.HOLDING_ANSWER: {
        _M.REQUEST_BODY: (_P.HOLDING_ANSWER,),
        _M.REQUEST_TRAILERS: (_P.HOLDING_ANSWER,),
        _M.RESPONSE_BODY: (_P.HOLDING_ANSWER, _P.JUDGING_ANSWER, _P.ENDED),
        _M.RESPONSE_TRAILERS: (_P.JUDGING_ANSWER,),
    },
    _P.JUDGING_ANSWER: {
        _M.REQUEST_BODY: (_P.JUDGING_ANSWER,),
        _M.REQUEST_TRAILERS: (_P.JUDGING_ANSWER,),
    },
    _P.AWAIT_REQUEST_END: {
        _M.REQUEST_BODY: (_P.AWAIT_REQUEST_END, _P.ENDED),
        _M.REQUEST_TRAILERS: (_P.ENDED,),
    },
    _P.ENDED: {},
}
"""The messages that may come in each phase, and the phases they may lead to.

A message that Egret refuses leads to ENDED, by way of `refuse`. Messages of the request that come
behind `forward` are passed on."""

VERDICTS: Final[dict[str, dict[Phase, tuple[Phase, ...]]]] = {
    "require_body": {_P.JUDGING_HEADERS: (_P.AWAIT_BODY, _P.JUDGING_BODY)},
    "forward": {
        _P.JUDGING_HEADERS: (_P.AWAIT_ANSWER, _P.ENDED),
        _P.JUDGING_BODY: (_P.AWAIT_ANSWER, _P.ENDED),
    },
    "refuse": {
        _P.AWAIT_HEADERS: (_P.ENDED,),
        _P.JUDGING_HEADERS: (_P.ENDED,),
        _P.AWAIT_BODY: (_P.ENDED,),
        _P.JUDGING_BODY: (_P.ENDED,),
        _P.JUDGING_ANSWER_HEADERS: (_P.ENDED,),
        _P.HOLDING_ANSWER: (_P.ENDED,),
        _P.JUDGING_ANSWER: (_P.ENDED,),
    },
    "pass_answer": {
        _P.JUDGING_ANSWER_HEADERS: (_P.PASSING_ANSWER, _P.AWAIT_REQUEST_END, _P.ENDED)
    },
    "stream_answer": {_P.JUDGING_ANSWER_HEADERS: (_P.AWAIT_PIECE,)},
    "hold_answer": {_P.JUDGING_ANSWER_HEADERS: (_P.HOLDING_ANSWER,)},
    "send_piece": {_P.JUDGING_PIECE: (_P.AWAIT_PIECE, _P.AWAIT_REQUEST_END, _P.ENDED)},
    "send_answer": {_P.JUDGING_ANSWER: (_P.PASSING_ANSWER, _P.AWAIT_REQUEST_END, _P.ENDED)},
}
"""The verdicts that may be given in each phase, and the phases they lead to."""

LATE: Final = {
    Phase.JUDGING_HEADERS: ErrorKind.AUTHORIZATION_UNAVAILABLE,
    Phase.AWAIT_BODY: ErrorKind.BODY_TIMEOUT,
    Phase.JUDGING_BODY: ErrorKind.GUARDRAIL_UNAVAILABLE,
    Phase.JUDGING_ANSWER: ErrorKind.GUARDRAIL_UNAVAILABLE,
}
"""The refusal of a wait that takes too long. In other phases Envoy's own timers rule."""

GATING_BODY_MODES: Final = frozenset(
    {BodyMode.NONE, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED}
)
"""Request body modes in which a verdict can stop the request.

Of the others, STREAMED sends headers upstream before any body verdict, BUFFERED_PARTIAL passes the
rest of a long body unseen, and GRPC is not implemented in Envoy."""

HOLDING_BODY_MODES: Final = frozenset({BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED})
"""Response body modes in which an answer can still be refused: STREAMED has sent its headers."""

REST_OF_REQUEST: Final = frozenset({_M.REQUEST_BODY, _M.REQUEST_TRAILERS})
JUDGING: Final = frozenset({_P.JUDGING_HEADERS, _P.JUDGING_BODY, _P.JUDGING_ANSWER})
UNANSWERED: Final = frozenset(
    {_P.AWAIT_HEADERS, _P.JUDGING_HEADERS, _P.AWAIT_BODY, _P.JUDGING_BODY}
)
HELD: Final = frozenset({_P.JUDGING_ANSWER_HEADERS, _P.HOLDING_ANSWER, _P.JUDGING_ANSWER})
OWING: Final = UNANSWERED | HELD | {_P.AWAIT_PIECE, _P.JUDGING_PIECE}
"""Something that Envoy waits for has no answer yet."""
