"""What an exchange wants done: questions to the checks, answers to Envoy."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import NO_CHANGE, HeaderMutation, Headers
from sidecar.domain.mutations import Metadata, Refusal


@dataclass(frozen=True, slots=True)
class JudgeHeaders:
    """Authorize; answer with `BodyRequired`, `RequestCleared` or `RequestRefused`."""

    headers: Headers
    has_body: bool
    source_address: str | None = None


@dataclass(frozen=True, slots=True)
class JudgeBody:
    """Inspect the whole body; answer with `RequestCleared` or `RequestRefused`.

    `may_judge_answer` tells whether the answer comes here, or can still be made to.
    """

    body: bytes
    may_judge_answer: bool = True


@dataclass(frozen=True, slots=True)
class WordRefusal:
    """Word a refusal of this kind in the client's dialect; answer with `RequestRefused`."""

    kind: ErrorKind


@dataclass(frozen=True, slots=True)
class JudgeResponseHeaders:
    """Say what becomes of the response.

    Answer with `ResponseCleared`, `ResponseStreamed`, `ResponseHeld` or `RequestRefused`.
    """

    headers: Headers
    has_body: bool
    may_stream: bool
    """Whether pieces may be let on one by one; else a body can only be held or let on whole."""


@dataclass(frozen=True, slots=True)
class JudgeResponsePiece:
    """Judge the next piece of a streamed body; answer with `ResponsePieceJudged`, at once."""

    body: bytes
    is_last: bool


@dataclass(frozen=True, slots=True)
class JudgeResponseBody:
    """Judge a held body; answer with `ResponseJudged` or `RequestRefused`."""

    body: bytes


@dataclass(frozen=True, slots=True)
class AbandonJudgement:
    """Nobody waits for the checks any more: cancel what still runs."""


@dataclass(frozen=True, slots=True)
class OverrideMode:
    """Standalone `mode_override`: stream the request body to us while the headers are held.

    Envoy 1.40 accepts FULL_DUPLEX_STREAMED only, with trailers SEND; response modes start from
    the configuration again, so the whole mode is always stated.
    """

    response_headers: bool
    response_body: bool = False


@dataclass(frozen=True, slots=True)
class ContinueRequestHeaders:
    """Answer the request headers.

    `response_headers` and `response_body` ask for those phases where they are off. Where an
    override came before, `request_body` says its part once more, since Envoy starts from its
    configuration again.
    """

    headers: HeaderMutation = NO_CHANGE
    metadata: Metadata = ()
    response_headers: bool = False
    response_body: bool = False
    request_body: bool = False
    clear_route_cache: bool = False


@dataclass(frozen=True, slots=True)
class ContinueRequestBody:
    """Answer a BUFFERED request body; `body` replaces it, None leaves it."""

    headers: HeaderMutation = NO_CHANGE
    body: bytes | None = None
    metadata: Metadata = ()
    clear_route_cache: bool = False


@dataclass(frozen=True, slots=True)
class StreamRequestBody:
    """Send a piece of the request body on (FULL_DUPLEX_STREAMED)."""

    body: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class ContinueRequestTrailers:
    """Answer the request trailers."""


@dataclass(frozen=True, slots=True)
class ContinueResponseHeaders:
    """Answer the response headers."""

    headers: HeaderMutation = NO_CHANGE
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class ContinueResponseBody:
    """Answer a piece of the response body that Envoy keeps (BUFFERED, STREAMED).

    `body` replaces it, None leaves it; headers can change in BUFFERED only.
    """

    headers: HeaderMutation = NO_CHANGE
    body: bytes | None = None
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class StreamResponseBody:
    """Send a piece of the response body on (FULL_DUPLEX_STREAMED)."""

    body: bytes
    end_of_stream: bool
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class ContinueResponseTrailers:
    """Answer the response trailers."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer the client from here with an `ImmediateResponse`."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class EndStream:
    """Nothing more is owed: end the stream with OK."""


@dataclass(frozen=True, slots=True)
class AbortStream:
    """End the stream with an error, so that Envoy fails closed (a plain end would fail open)."""


Question = (
    JudgeHeaders
    | JudgeBody
    | WordRefusal
    | JudgeResponseHeaders
    | JudgeResponsePiece
    | JudgeResponseBody
)
Reply = (
    OverrideMode
    | ContinueRequestHeaders
    | ContinueRequestBody
    | StreamRequestBody
    | ContinueRequestTrailers
    | ContinueResponseHeaders
    | ContinueResponseBody
    | StreamResponseBody
    | ContinueResponseTrailers
    | Refuse
)
Effect = Question | Reply | AbandonJudgement | EndStream | AbortStream
