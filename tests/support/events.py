"""The messages and verdicts that tests play to a protocol, as values."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import (
    NO_CHANGE,
    HeaderMutation,
    Headers,
    Refusal,
)
from sidecar.extproc.phases import BodyMode

Metadata = tuple[tuple[str, str | float], ...]
"""Names and values of dynamic metadata in namespace `egret`."""


@dataclass(frozen=True, slots=True)
class RequestMutations:
    """Changes to a request that goes on; `body` replaces the whole body, None leaves it."""

    headers: HeaderMutation
    body: bytes | None = None
    metadata: Metadata = ()
    clear_route_cache: bool = False


@dataclass(frozen=True, slots=True)
class ExchangeOpened:
    """The body modes in force, from the first message of a stream.

    In observability mode Envoy goes on without our answers, so nothing can be refused.
    """

    request_body_mode: BodyMode
    response_body_mode: BodyMode
    observability_mode: bool = False


@dataclass(frozen=True, slots=True)
class RequestHeadersReceived:
    """Envoy sent the request headers; `end_of_stream` means there is no body.

    `source_address` is the client's, without a port, by Envoy's own knowledge; None where Envoy
    was not told to send it, or the client has none.
    """

    headers: Headers
    end_of_stream: bool
    source_address: str | None = None


@dataclass(frozen=True, slots=True)
class RequestBodyReceived:
    """Envoy sent a piece of the request body, or all of it when buffered."""

    body: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class RequestTrailersReceived:
    """The request ended with trailers; the piece of body before had no end_of_stream."""


@dataclass(frozen=True, slots=True)
class ResponseHeadersReceived:
    """Response headers, the upstream's or those of a local reply by Envoy itself."""

    headers: Headers
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class ResponseBodyReceived:
    """A piece of the response body."""

    body: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class ResponseTrailersReceived:
    """The response ended with trailers."""


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """Envoy half-closed the stream: it will send nothing more. A reset cancels us instead."""


@dataclass(frozen=True, slots=True)
class BodyRequired:
    """The key is good; the verdict waits for the body.

    `headers` is what must change whatever the body says: where Envoy wants an answer before it
    sends the body (BUFFERED), a request that ends in trailers instead would otherwise leave with
    the client's credentials.
    """

    headers: HeaderMutation = NO_CHANGE
    judges_answer: bool = False
    """Whether the answer must pass through here as well."""


@dataclass(frozen=True, slots=True)
class RequestCleared:
    """The request may go on, changed like this; `judges_answer` that its answer passes here."""

    mutations: RequestMutations
    judges_answer: bool = False


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The client is answered from here."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class ResponseCleared:
    """The response may go on, its headers changed like this; nobody looks at its body."""

    headers: HeaderMutation


@dataclass(frozen=True, slots=True)
class ResponseStreamed:
    """The response headers may go on; each piece of the body is judged as it comes."""

    headers: HeaderMutation


@dataclass(frozen=True, slots=True)
class ResponseHeld:
    """Nothing of the response may go on before all of it is judged.

    Without room it is refused; `unheld` are the changes to its headers if it goes on then.
    """

    unheld: HeaderMutation | None = None


@dataclass(frozen=True, slots=True)
class ResponsePieceJudged:
    """These bytes may go on now; `ends` that they are the last, whatever the upstream sends."""

    body: bytes
    ends: bool = False
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class ResponseJudged:
    """All of a held response may go on; `body` replaces its body, None leaves it."""

    headers: HeaderMutation
    body: bytes | None = None
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """What the exchange waited for took longer than its budget."""


@dataclass(frozen=True, slots=True)
class Faulted:
    """Something of ours raised, or Envoy sent what it may not."""

    kind: ErrorKind = ErrorKind.INTERNAL_ERROR


EnvoyEvent = (
    ExchangeOpened
    | RequestHeadersReceived
    | RequestBodyReceived
    | RequestTrailersReceived
    | ResponseHeadersReceived
    | ResponseBodyReceived
    | ResponseTrailersReceived
    | StreamClosed
)
ResponseVerdict = (
    ResponseCleared | ResponseStreamed | ResponseHeld | ResponsePieceJudged | ResponseJudged
)
ResponseReceived = ResponseHeadersReceived | ResponseBodyReceived | ResponseTrailersReceived
ResponseEvent = ResponseReceived | ResponseVerdict
ChecksEvent = BodyRequired | RequestCleared | RequestRefused | ResponseVerdict
Event = EnvoyEvent | ChecksEvent | DeadlinePassed | Faulted
