"""Plays conversations to a worker's socket as Envoy's ext_proc filter does."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

import grpc

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes_pb,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from tests.contract.recorded.conversation import (
    BUFFERED,
    DUPLEX,
    NONE,
    Answer,
    BodyMode,
    Conversation,
    Crowd,
    Exchange,
    Fields,
    HalfClose,
    Modes,
    Pause,
    Read,
    Reset,
    Script,
    Send,
    Sql,
    opening_message,
    pieces_of,
    request_body,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
    stream_metadata,
)

PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ANSWER_SECONDS: Final = 15.0
"""Longer than any budget that a group of conversations sets."""
END_SECONDS: Final = 3.0
"""How long Envoy is willing to wait for an end that the server owes nobody."""

PAUSE_SECONDS: Final = 0.15
CROWD_SECONDS: Final = 0.3
"""Until the server has noticed that streams have begun."""

RunSql = Callable[[str], None]
Line = str | ext.ProcessingResponse


@dataclass
class Transcript:
    """Messages in the order in which they were sent (names) and received, and the end."""

    lines: list[Line] = field(default_factory=list)
    code: str = ""
    details: str = ""

    @property
    def answers(self) -> list[ext.ProcessingResponse]:
        """The server's messages alone."""
        return [line for line in self.lines if isinstance(line, ext.ProcessingResponse)]


def play(channel: grpc.Channel, conversation: Conversation, run_sql: RunSql) -> Transcript:
    """Hold one conversation to its end; blocks."""
    if isinstance(conversation, Crowd):
        return _play_crowd(channel, conversation, run_sql)
    metadata = conversation.metadata
    if metadata is None:
        metadata = stream_metadata(conversation.name)
    stream = _Stream(channel, metadata)
    if isinstance(conversation, Script):
        _play_script(stream, conversation, run_sql)
    else:
        _Filter(stream, conversation).play()
    return stream.finish()


def _play_crowd(channel: grpc.Channel, crowd: Crowd, run_sql: RunSql) -> Transcript:
    waiting = [_Stream(channel, ()) for _ in range(crowd.waiting)]
    time.sleep(CROWD_SECONDS)
    try:
        return play(channel, crowd.played, run_sql)
    finally:
        for stream in waiting:
            stream.half_close()
            stream.finish()


class _Stream:
    """One ext_proc call that keeps its transcript.

    The library's blocking client: its asynchronous one takes a message that the server no longer
    wants for an error of the call, and loses the status that the server gave.
    """

    def __init__(self, channel: grpc.Channel, metadata: Fields) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._has_ended = False
        self.transcript = Transcript()
        method = channel.stream_stream(PROCESS, bytes, bytes)
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        self._reader = threading.Thread(target=self._keep_reading, daemon=True)
        self._reader.start()

    def _keep_reading(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for message in self._call:
                self._answers.put(message)
        self._answers.put(None)

    def send(self, label: str, *messages: bytes) -> None:
        """Send messages without a pause, unless the call has ended."""
        if not self._has_ended:
            self.transcript.lines.append(f"> {label}")
            for message in messages:
                self._requests.put(message)

    def read(self) -> ext.ProcessingResponse | None:
        """Return the next answer, or None once the call has ended."""
        try:
            return self._read(ANSWER_SECONDS)
        except queue.Empty:
            self.transcript.lines.append("! no answer in time")
            self.reset()
            return None

    def _read(self, seconds: float) -> ext.ProcessingResponse | None:
        message = None if self._has_ended else self._answers.get(timeout=seconds)
        if message is None:
            self._has_ended = True
            return None
        answer = ext.ProcessingResponse.FromString(message)
        self.transcript.lines.append(answer)
        return answer

    def half_close(self) -> None:
        """Send nothing more."""
        if not self._has_ended:
            self.transcript.lines.append("> half-close")
            self._requests.put(None)

    def reset(self) -> None:
        """Cancel the call."""
        self.transcript.lines.append("> reset")
        self._has_ended = True
        self._call.cancel()  # type: ignore[no-untyped-call] # grpc-stubs

    def finish(self) -> Transcript:
        """Read to the end; an Envoy that waits for nothing more half-closes."""
        try:
            while self._read(END_SECONDS) is not None:
                pass
        except queue.Empty:
            self.half_close()
            while self.read() is not None:
                pass
        self._requests.put(None)
        self._reader.join()
        self.transcript.code = self._call.code().name
        is_ours = self._call.code() is grpc.StatusCode.CANCELLED
        self.transcript.details = "" if is_ours else self._call.details() or ""
        return self.transcript


def _play_script(stream: _Stream, script: Script, run_sql: RunSql) -> None:
    for step in script.steps:
        match step:
            case Send(message, label):
                stream.send(label, message)
            case Read(count):
                for _ in range(count):
                    stream.read()
            case HalfClose():
                stream.half_close()
            case Reset():
                stream.reset()
            case Pause():
                time.sleep(PAUSE_SECONDS)
            case Sql(statement):
                run_sql(statement)
            case _:
                assert_never(step)


class _Filter:
    """One HTTP request in Envoy's ext_proc filter: a mode, which the server may override."""

    def __init__(self, stream: _Stream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange
        self._modes: Modes = exchange.modes

    def play(self) -> None:
        """Show the request, then the answer, as far as the mode says."""
        self._stream.send("request_headers", opening_message(self._exchange))
        if self._request():
            self._response()

    def _read(self) -> ext.ProcessingResponse | None:
        """Return the next answer that goes on; None where the request ends here."""
        answer = self._stream.read()
        if answer is None or answer.HasField("immediate_response"):
            return None
        if answer.HasField("mode_override"):
            self._modes = _overridden(self._modes, answer.mode_override)
        return answer

    def _request(self) -> bool:
        body, mode = self._exchange.body, self._modes.request_body
        if body is not None and mode == DUPLEX:
            self._stream_request()
            return self._is_through("request_body", "request_trailers")
        answer = self._read()
        if answer is None:
            return False
        if answer.WhichOneof("response") is None:
            self._stream_request()
            return self._is_through("request_body", "request_trailers")
        if body is None or mode == NONE:
            return True
        return self._send_buffered(body)

    def _send_buffered(self, body: bytes) -> bool:
        has_trailers = self._exchange.has_trailers
        self._stream.send(f"request_body {len(body)}", request_body(body, ends=not has_trailers))
        if self._read() is None:
            return False
        if has_trailers:
            self._stream.send("request_trailers", request_trailers())
            return self._read() is not None
        return True

    def _stream_request(self) -> None:
        exchange = self._exchange
        pieces = pieces_of(exchange.body or b"", exchange.cut)
        ends = [False] * (len(pieces) - 1) + [not exchange.has_trailers]
        messages = [request_body(piece, ends=end) for piece, end in zip(pieces, ends, strict=True)]
        self._stream.send(f"request_body in {len(messages)}", *messages)
        if exchange.has_trailers:
            self._stream.send("request_trailers", request_trailers())

    def _is_through(self, body: str, trailers: str) -> bool:
        """Read until a streamed body, or the trailers after it, has come back."""
        while (answer := self._read()) is not None:
            kind = answer.WhichOneof("response")
            if kind == trailers:
                return True
            if kind == body:
                common = getattr(answer, body).response
                if common.body_mutation.streamed_response.end_of_stream:
                    return True
        return False

    def _response(self) -> None:
        answer, mode = self._exchange.answer, self._modes.response_body
        if not self._modes.response_headers and mode == NONE:
            return
        if answer is None:
            self._stream.half_close()
            return
        if self._modes.response_headers:
            self._stream.send("response_headers", response_headers(answer))
        if answer.body and mode == DUPLEX:
            self._stream_response(answer)
            self._is_through("response_body", "response_trailers")
            return
        if self._modes.response_headers and self._read() is None:
            return
        if answer.body and mode != NONE:
            self._send_response(answer, mode)

    def _send_response(self, answer: Answer, mode: BodyMode) -> None:
        cut = 1 if mode == BUFFERED else answer.cut
        pieces = pieces_of(answer.body, cut)
        for place, piece in enumerate(pieces):
            ends = place + 1 == len(pieces) and not answer.has_trailers
            self._stream.send(f"response_body {len(piece)}", response_body(piece, ends=ends))
            if self._read() is None:
                return
        if answer.has_trailers:
            self._stream.half_close()

    def _stream_response(self, answer: Answer) -> None:
        pieces = pieces_of(answer.body, answer.cut)
        ends = [False] * (len(pieces) - 1) + [not answer.has_trailers]
        messages = [
            response_body(piece, ends=end) for piece, end in zip(pieces, ends, strict=True)
        ]
        self._stream.send(f"response_body in {len(messages)}", *messages)
        if answer.has_trailers:
            self._stream.send("response_trailers", response_trailers())


def _overridden(modes: Modes, override: modes_pb.ProcessingMode) -> Modes:
    """Return the mode that rules from now on; what an override leaves out stays (Envoy 1.40)."""
    headers = {modes_pb.ProcessingMode.SEND: True, modes_pb.ProcessingMode.SKIP: False}
    return replace(
        modes,
        request_body=override.request_body_mode or modes.request_body,
        response_body=override.response_body_mode or modes.response_body,
        response_headers=headers.get(override.response_header_mode, modes.response_headers),
    )
