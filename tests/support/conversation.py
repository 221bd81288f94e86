"""Talk to an exchange without any transport: tell it events, read what it wants done.

The short names build the events and values that most tests need; a test states only what it is
about. `str(talk)` is the transcript, event by event, for the reader of a failing test.
"""

from __future__ import annotations

from typing import Final

from typing_extensions import override

from sidecar.domain.http import HeaderMutation, Headers
from sidecar.domain.mutations import Refusal, RequestMutations
from sidecar.exchange import effects as do
from sidecar.exchange import events as on
from sidecar.exchange.events import BodyMode
from sidecar.exchange.machine import Exchange

REQUEST_HEADERS: Final = Headers(((":method", b"POST"), (":path", b"/v1/chat/completions")))
RESPONSE_HEADERS: Final = Headers(((":status", b"200"),))
STRIPPED: Final = HeaderMutation(remove_headers=("authorization",))
TIMED: Final = HeaderMutation(set_headers=(("x-response-time", b"1.000ms"),))
METADATA: Final = (("verdict", "allowed"), ("egret_us", 12.0))
REFUSAL: Final = Refusal(
    status=403,
    headers=(("content-type", b"application/json"),),
    body=b'{"error":{}}',
    details="egret_content_blocked",
)
MAX_BODY_BYTES: Final = 100


def opened(
    request: BodyMode = BodyMode.NONE, response: BodyMode = BodyMode.NONE
) -> on.ExchangeOpened:
    """Return the opening of a stream with these body modes in Envoy's configuration."""
    return on.ExchangeOpened(request_body_mode=request, response_body_mode=response)


def headers(*, ends: bool = False) -> on.RequestHeadersReceived:
    """Return request headers; `ends` means that no body follows."""
    return on.RequestHeadersReceived(REQUEST_HEADERS, end_of_stream=ends)


def body(piece: bytes, *, ends: bool = False) -> on.RequestBodyReceived:
    """Return a piece of the request body."""
    return on.RequestBodyReceived(piece, end_of_stream=ends)


def trailers() -> on.RequestTrailersReceived:
    """Return request trailers."""
    return on.RequestTrailersReceived()


def response_headers(*, ends: bool = False) -> on.ResponseHeadersReceived:
    """Return response headers; `ends` means that no body follows."""
    return on.ResponseHeadersReceived(RESPONSE_HEADERS, end_of_stream=ends)


def response_body(piece: bytes, *, ends: bool = False) -> on.ResponseBodyReceived:
    """Return a piece of the response body."""
    return on.ResponseBodyReceived(piece, end_of_stream=ends)


def cleared(new_body: bytes | None = None) -> on.RequestCleared:
    """Return a verdict that lets the request go on, with another body where one is given."""
    return on.RequestCleared(RequestMutations(headers=STRIPPED, body=new_body, metadata=METADATA))


def refused() -> on.RequestRefused:
    """Return a verdict that refuses, or the wording of a refusal."""
    return on.RequestRefused(REFUSAL)


class Talk:
    """One exchange and its transcript."""

    def __init__(
        self,
        *before: on.Event,
        max_body_bytes: int = MAX_BODY_BYTES,
        wants_response_headers: bool = False,
    ) -> None:
        """Start an exchange and tell it what happened *before* the test begins."""
        self.exchange = Exchange(
            max_body_bytes=max_body_bytes, wants_response_headers=wants_response_headers
        )
        self.lines: list[tuple[on.Event, list[do.Effect]]] = []
        self.tell(*before)

    def tell(self, *events: on.Event) -> list[do.Effect]:
        """Tell the exchange *events* and return all it wants done for them, in order."""
        wanted: list[do.Effect] = []
        for event in events:
            effects = self.exchange.receive(event)
            self.lines.append((event, effects))
            wanted += effects
        return wanted

    @property
    def effects(self) -> list[do.Effect]:
        """Everything the exchange wanted done so far."""
        return [effect for _, effects in self.lines for effect in effects]

    @override
    def __str__(self) -> str:
        return "\n".join(
            line
            for event, effects in self.lines
            for line in (f"> {event}", *(f"< {effect}" for effect in effects))
        )
