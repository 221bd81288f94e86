"""The body of a request as it comes: how it is sent to us, how far it is, how it goes on."""

from __future__ import annotations

from sidecar.exchange import effects as do
from sidecar.exchange import events as on
from sidecar.exchange.body import BodyBuffer, cut

GATING_BODY_MODES = frozenset(
    {on.BodyMode.NONE, on.BodyMode.BUFFERED, on.BodyMode.FULL_DUPLEX_STREAMED}
)
"""STREAMED sends headers upstream before any body verdict, BUFFERED_PARTIAL passes the rest of a
long body unseen, GRPC is not implemented in Envoy: none of them can be a gate."""


class RequestBody:
    """Collects one request body, and words the pieces that go on."""

    __slots__ = ("_buffer", "is_complete", "is_expected", "mode", "trailers_seen")

    def __init__(self, *, max_body_bytes: int) -> None:
        """Start before the request headers; `mode` is that of the filter's configuration."""
        self._buffer = BodyBuffer(limit_bytes=max_body_bytes)
        self.mode = on.BodyMode.NONE
        self.is_expected = False
        self.is_complete = False
        self.trailers_seen = False

    @property
    def is_streamed(self) -> bool:
        """Whether Envoy sends it piece by piece and takes back what we send."""
        return self.mode is on.BodyMode.FULL_DUPLEX_STREAMED

    @property
    def is_buffered(self) -> bool:
        """Whether Envoy sends it in one message and keeps it."""
        return self.mode is on.BodyMode.BUFFERED

    @property
    def held_bytes(self) -> int:
        """How much of it is kept."""
        return self._buffer.size_bytes

    def begin(self, *, is_expected: bool) -> None:
        """The headers are there."""
        self.is_expected = is_expected
        self.is_complete = not is_expected

    def take(self, event: on.RequestBodyReceived) -> bool:
        """Keep a piece; return whether it fits under the limit."""
        if not self._buffer.may_take(event.body):
            return False
        self._buffer.take(event.body)
        # A BUFFERED body is one message, whatever its end_of_stream: trailers may follow it.
        self.is_complete = event.end_of_stream or self.is_buffered
        self.trailers_seen = self.is_complete and not event.end_of_stream
        return True

    def end_by_trailers(self) -> None:
        """No more pieces come."""
        self.is_complete = self.trailers_seen = True

    def joined(self) -> bytes:
        """Return what has come so far."""
        return self._buffer.joined()

    def drop(self) -> None:
        """Let go of what has come."""
        self._buffer.drop()

    def sent_on(self, body: bytes) -> list[do.Effect]:
        """Stream *body*, which is all that has come so far."""
        if body or self.is_complete:
            return _streamed(body, end_of_stream=self.is_complete)
        return []

    def passed_on(self, event: on.RequestBodyReceived) -> list[do.Effect]:
        """Answer a piece of a request that is cleared already."""
        if self.is_buffered:
            return [do.ContinueRequestBody()]
        return _streamed(event.body, end_of_stream=event.end_of_stream)


def _streamed(body: bytes, *, end_of_stream: bool) -> list[do.Effect]:
    return [
        do.StreamRequestBody(piece, end_of_stream=is_last and end_of_stream)
        for piece, is_last in cut(body)
    ]
