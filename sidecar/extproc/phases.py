"""The messages and phases of one ext_proc stream, and its state between two messages.

Tables say which message and which action may come in each phase; docs/protocol.md is generated
from them.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol, TypeAlias

import msgspec

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderMutation, Headers
from sidecar.domain.usage import TokenCounts

Answer: TypeAlias = bytes | tuple[bytes | memoryview, ...]
"""An encoded answer; one with a long body in parts, to be sent one behind the other."""


class BodyMode(enum.Enum):
    """How Envoy sends a body, by the names of its `ProcessingMode.BodySendMode`."""

    NONE = "NONE"
    STREAMED = "STREAMED"
    BUFFERED = "BUFFERED"
    BUFFERED_PARTIAL = "BUFFERED_PARTIAL"
    FULL_DUPLEX_STREAMED = "FULL_DUPLEX_STREAMED"
    GRPC = "GRPC"


class MessageKind(enum.StrEnum):
    """The kinds of `ProcessingRequest`, by the names of its `oneof`."""

    REQUEST_HEADERS = "request_headers"
    REQUEST_BODY = "request_body"
    REQUEST_TRAILERS = "request_trailers"
    RESPONSE_HEADERS = "response_headers"
    RESPONSE_BODY = "response_body"
    RESPONSE_TRAILERS = "response_trailers"


class Message(msgspec.Struct, frozen=True):
    """One message of Envoy.

    A long `body` is a view of its message. `ends` is its `end_of_stream`. `source_address` is the
    client's, without a port; None where Envoy was not configured to send it, or the client has
    none. `modes` are the body modes of request and response in force, which the first message of
    a stream states. In observability mode Envoy goes on without an answer, so nothing can be
    refused. `usage` are the counts and the model that Envoy's AI filter found, with the trailers.
    """

    kind: MessageKind
    headers: Headers | None = None
    body: bytes | memoryview = b""
    ends: bool = False
    source_address: str | None = None
    modes: tuple[BodyMode, BodyMode] | None = None
    is_observed: bool = False
    usage: tuple[TokenCounts, str] | None = None


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
        # JUDGING_PIECE if there is no room to hold it, and nothing judges it.
        _M.RESPONSE_BODY: (_P.HOLDING_ANSWER, _P.JUDGING_ANSWER, _P.JUDGING_PIECE, _P.ENDED),
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

ACTIONS: Final[dict[str, dict[Phase, tuple[Phase, ...]]]] = {
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
        _P.PASSING_ANSWER: (_P.ENDED,),  # if the gateway buffers it, and has not had its verdict
    },
    "pass_answer": {
        _P.JUDGING_ANSWER_HEADERS: (_P.PASSING_ANSWER, _P.AWAIT_REQUEST_END, _P.ENDED)
    },
    "stream_answer": {_P.JUDGING_ANSWER_HEADERS: (_P.AWAIT_PIECE,)},
    "hold_answer": {_P.JUDGING_ANSWER_HEADERS: (_P.HOLDING_ANSWER,)},
    "send_piece": {_P.JUDGING_PIECE: (_P.AWAIT_PIECE, _P.AWAIT_REQUEST_END, _P.ENDED)},
    "send_answer": {_P.JUDGING_ANSWER: (_P.PASSING_ANSWER, _P.AWAIT_REQUEST_END, _P.ENDED)},
}
"""The calls of the pipeline that each phase allows, and the phases they lead to."""

LATE: Final = {
    Phase.AWAIT_HEADERS: ErrorKind.AUTHORIZATION_UNAVAILABLE,
    Phase.JUDGING_HEADERS: ErrorKind.AUTHORIZATION_UNAVAILABLE,
    Phase.AWAIT_BODY: ErrorKind.BODY_TIMEOUT,
    Phase.JUDGING_BODY: ErrorKind.GUARDRAIL_UNAVAILABLE,
    Phase.JUDGING_PIECE: ErrorKind.GUARDRAIL_UNAVAILABLE,
    Phase.JUDGING_ANSWER: ErrorKind.GUARDRAIL_UNAVAILABLE,
}
"""The refusal of a wait that takes too long. In other phases Envoy's own timers rule.

A streamed answer has begun when a piece of it is late: its last event states the refusal."""

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
BUFFERED_ANSWER: Final = frozenset({_P.HOLDING_ANSWER, _P.PASSING_ANSWER})
"""The body of an answer comes next, in one message if the gateway buffers it."""
OWING: Final = UNANSWERED | HELD | {_P.AWAIT_PIECE, _P.JUDGING_PIECE}
"""Something that Envoy waits for has no answer yet."""


class ProtocolViolationError(Exception):
    """A message or an action came in a phase that does not expect it. Nothing has changed."""

    def __init__(self, phase: Phase, name: str) -> None:
        """Name both sides of the mismatch."""
        super().__init__(f"{name} in phase {phase.name}")
        self.phase = phase


class RefusedError(Exception):
    """The request cannot go on; `refuse` is owed, with a refusal of this kind."""

    def __init__(self, kind: ErrorKind) -> None:
        super().__init__(kind.value)
        self.kind = kind


class Room(Protocol):
    """Counts the bytes that a worker keeps."""

    def hold(self, size: int) -> bool:
        """Count *size* bytes more; return False, and count nothing, if there is no room."""
        ...

    def release(self, size: int) -> None:
        """Stop counting *size* bytes."""
        ...


class SharedRoom(Protocol):
    """The room of all streams of a worker, shared by their owners, with a reserve for answers."""

    def hold(self, size: int, owner: str) -> bool:
        """Count *size* bytes more; return False, and count nothing, if there is no room."""
        ...

    def hold_buffered(self, size: int, owner: str) -> bool:
        """Count *size* bytes more of an answer that Envoy keeps, in the reserve as well."""
        ...

    def assign(self, size: int, owner: str) -> bool:
        """Count *size* bytes without an owner as those of *owner*; return whether it has room."""
        ...

    def release(self, size: int, owner: str) -> None:
        """Stop counting *size* bytes."""
        ...


class ProtocolState(msgspec.Struct, kw_only=True, eq=False):
    """The phase of a request and its answer, the pieces kept of them, and the messages owed.

    `outgoing` holds the messages for Envoy, in order; the owner sends and clears it. `headers`,
    `has_body` and `source_address` are the request's, `answer_headers` those of its answer;
    `piece` is the last piece of a streamed answer, and `piece_is_last` whether no other follows.
    `held_bytes` of request or answer are kept until they are judged, and `arriving_bytes` are
    those of a long message that is not whole. Both count as those of `owner`, the organization of
    the key; it is empty until the key is known. `usage` are the counts that came with the answer's
    trailers, `has_trailers` whether those came. `_unheld` are the changes to the headers of a held
    answer that goes on if it has no room; without them it is refused. `_is_kept` while the gateway
    keeps an answer that is not judged until its body is here.
    """

    # A struct, since each request builds one: its fields are set in C.
    max_body_bytes: int
    wants_answer_headers: bool
    room: SharedRoom
    phase: Phase = Phase.AWAIT_HEADERS
    outgoing: list[Answer] = []
    is_answered: bool = False
    is_aborted: bool = False
    modes: tuple[BodyMode, BodyMode] | None = None
    request_mode: BodyMode = BodyMode.NONE
    response_mode: BodyMode = BodyMode.NONE
    headers: Headers = Headers()
    has_body: bool = False
    source_address: str | None = None
    answer_headers: Headers = Headers()
    answer_has_body: bool = False
    piece: bytes = b""
    piece_is_last: bool = False
    held_bytes: int = 0
    arriving_bytes: int = 0
    owner: str = ""
    usage: tuple[TokenCounts, str] | None = None
    has_trailers: bool = False
    _pieces: list[bytes | bytearray | memoryview] = []
    _is_body_complete: bool = False
    _has_request_ended: bool = False
    _trailers_follow: bool = False
    _is_half_closed: bool = False
    _is_overridden: bool = False
    _passes_request: bool = False
    _judges_answer: bool = False
    _unheld: HeaderMutation | None = None
    _is_kept: bool = False
    _awaits_usage: bool = False
    _answer_ends: bool = False

    @property
    def may_judge_answer(self) -> bool:
        """Return whether Envoy sends the answer, or can be made to, in a mode with refusals."""
        return (
            self.request_mode is BodyMode.NONE
            or self._is_overridden
            or self.response_mode in HOLDING_BODY_MODES
        )

    @property
    def may_stream_answer(self) -> bool:
        """Return whether pieces of the answer can go on one by one."""
        return self.response_mode is BodyMode.FULL_DUPLEX_STREAMED

    def _repeats_end(self, message: Message) -> bool:
        """Return whether *message* is the end of a streamed body once more, without bytes.

        Envoy 1.35 to 1.39 may send it twice. It adds nothing to a body that is judged, as bytes or
        trailers would.
        """
        is_empty_end = message.kind is MessageKind.REQUEST_BODY and message.ends
        return self._has_request_ended and is_empty_end and not message.body
