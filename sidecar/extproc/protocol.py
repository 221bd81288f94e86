"""The rules of one ext_proc stream: which message may come when, and its one answer.

One object tracks one HTTP request and its answer. It receives Envoy's messages as bytes, and
verdicts by method calls; the bytes for Envoy gather in `outgoing`. It does no I/O and reads no
clock, so that every order of messages can be played in a test.

Its invariants:

- A message that the phase does not expect raises and changes nothing.
- Nothing of a request goes on before `forward`, nothing of a judged answer before its verdict.
- The request is answered exactly once. The stream ends with OK only behind the last answer that is
  owed: ext_proc fails open, so that Envoy would let an unanswered request go on.
- Body modes that cannot be a gate are refused at the first message.

`phases` has the tables of what may come when, which docs/protocol.md shows as a diagram, and the
state between two messages.
"""

from __future__ import annotations

from typing import assert_never

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import (
    NO_CHANGE,
    HeaderFields,
    HeaderMutation,
    HeaderName,
    MetadataFields,
    Refusal,
    content_length,
)
from sidecar.extproc import codec
from sidecar.extproc.phases import (
    ACTIONS,
    BUFFERED_ANSWER,
    GATING_BODY_MODES,
    HELD,
    JUDGING,
    OWING,
    REST_OF_REQUEST,
    TRANSITIONS,
    UNANSWERED,
    BodyMode,
    Event,
    Message,
    MessageKind,
    Phase,
    ProtocolState,
    ProtocolViolationError,
    RefusedError,
)


class ExtProcProtocol(ProtocolState, eq=False):
    """One HTTP request and its answer, as seen through ext_proc."""

    @property
    def may_refuse(self) -> bool:
        """Return whether a refusal can still be the answer."""
        is_kept = self._is_kept and self.phase is Phase.PASSING_ANSWER
        return self.phase in UNANSWERED or (self._judges_answer and self.phase in HELD) or is_kept

    def body(self) -> bytes:
        """Return the kept pieces of a body, joined."""
        whole = b"".join(self._pieces)
        if whole:
            self._pieces = [whole]
        return whole

    def hold(self, size: int) -> bool:
        """Count *size* bytes more of a message; return False if there is no room for them.

        An answer is paid for. One that Envoy keeps (BUFFERED) has a reserve beside the room.
        """
        is_buffered = self.response_mode is BodyMode.BUFFERED and self.phase in BUFFERED_ANSWER
        hold = self.room.hold_buffered if is_buffered else self.room.hold
        has_room = hold(size, self.owner)
        self.arriving_bytes += size if has_room else 0
        return has_room

    def release(self, size: int) -> None:
        """Stop counting *size* bytes of a message."""
        self.arriving_bytes -= size
        self.room.release(size, self.owner)

    # Messages of Envoy.

    def receive(self, data: bytes | memoryview) -> Event:  # noqa: C901 - a branch for each kind
        """Advance by one message and return the decision that it calls for.

        Raises:
            UnreadableMessageError: the bytes are no message; nothing has changed.
            ProtocolViolationError: the phase does not expect the message; nothing has changed.
            RefusedError: the request cannot go on.
        """
        message = codec.decode(data)
        kind, phase = message.kind, self.phase
        if message.modes is not None or self.modes is None:
            self._open(message)
        if kind not in TRANSITIONS[phase]:
            raise ProtocolViolationError(phase, kind)
        if phase is Phase.AWAIT_HEADERS and kind is not MessageKind.REQUEST_HEADERS:
            raise RefusedError(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
        if kind in REST_OF_REQUEST and phase in UNANSWERED:
            # More of a request comes only before its end, and once it is requested.
            is_streamed = self.request_mode is BodyMode.FULL_DUPLEX_STREAMED
            is_early = phase is Phase.JUDGING_HEADERS and not is_streamed
            if self._is_body_complete or is_early:
                if self._repeats_end(message):
                    return Event.NOTHING
                raise ProtocolViolationError(phase, kind)
        match kind:
            case MessageKind.RESPONSE_BODY:  # first, as an answer has hundreds of them
                return self._on_response_body(message)
            case MessageKind.REQUEST_HEADERS:
                return self._on_request_headers(message)
            case MessageKind.REQUEST_BODY:
                return self._on_request_body(message)
            case MessageKind.REQUEST_TRAILERS:
                return self._on_request_trailers()
            case MessageKind.RESPONSE_HEADERS:
                return self._on_response_headers(message)
            case MessageKind.RESPONSE_TRAILERS:
                return self._on_response_trailers(message)
            case _:
                assert_never(kind)

    def half_close(self) -> None:
        """Note that Envoy sends nothing more; a reset is no half-close, and cancels the stream."""
        if self.phase in JUDGING:
            # The peer may still wait for the verdict; Envoy resets the stream if it does not.
            self._is_half_closed = True
            return
        self.is_aborted = self.is_aborted or self.phase in OWING
        self._end()

    def abort(self) -> None:
        """End the stream with an error, so that Envoy fails closed."""
        self.is_aborted = True
        self._end()

    def _open(self, message: Message) -> None:
        """Read the body modes from the first message of a stream."""
        if self.phase is Phase.ENDED:
            return
        if self.modes is not None:
            raise ProtocolViolationError(self.phase, "protocol_config")
        if message.modes is None:
            # Observability mode leaves protocol_config out, and so do old Envoys.
            raise RefusedError(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
        self.modes = message.modes
        self.request_mode, self.response_mode = message.modes
        if message.is_observed or self.request_mode not in GATING_BODY_MODES:
            raise RefusedError(ErrorKind.UNSUPPORTED_PROCESSING_MODE)

    def _on_request_headers(self, message: Message) -> Event:
        if self.phase is not Phase.AWAIT_HEADERS:
            if self.is_answered:
                raise ProtocolViolationError(self.phase, message.kind)
            return Event.NOTHING
        self.phase = Phase.JUDGING_HEADERS
        self.has_body = not message.ends
        self._is_body_complete = message.ends
        self.headers = message.headers or self.headers
        self.source_address = message.source_address
        return Event.REQUEST_HEADERS

    def _on_request_body(self, message: Message) -> Event:
        has_ended = message.ends and self.request_mode is BodyMode.FULL_DUPLEX_STREAMED
        if self.phase not in UNANSWERED:
            event = self._pass_request_body(message)
            self._has_request_ended = has_ended
            return event
        self._has_request_ended = has_ended
        self._keep(message.body, ErrorKind.BODY_TOO_LARGE)
        # A BUFFERED body is one message, whatever its end_of_stream: trailers may follow it.
        self._is_body_complete = message.ends or self.request_mode is BodyMode.BUFFERED
        self._trailers_follow = self._is_body_complete and not message.ends
        if self._is_body_complete and self.phase is Phase.AWAIT_BODY:
            self.phase = Phase.JUDGING_BODY
            return Event.REQUEST_BODY
        return Event.NOTHING

    def _pass_request_body(self, message: Message) -> Event:
        if not self._passes_request:
            if self.is_answered and not self._repeats_end(message):
                raise ProtocolViolationError(self.phase, message.kind)
            return Event.NOTHING  # a local reply overtook it
        if self.request_mode is BodyMode.BUFFERED:
            if self._trailers_follow:  # it was judged, and another must not go with its verdict
                raise ProtocolViolationError(self.phase, message.kind)
            self.outgoing.append(codec.request_body_answer())
        else:
            self.outgoing += codec.streamed_request_body(message.body, ends=message.ends)
        if message.ends:
            self._request_is_through()
        return Event.NOTHING

    def _on_request_trailers(self) -> Event:
        if self.phase in UNANSWERED:
            if self.request_mode is BodyMode.FULL_DUPLEX_STREAMED:
                # Envoy 1.40 sends a body that was streamed back to it twice if trailers follow it
                # and the route may retry: the provider would read a body that was never judged.
                raise RefusedError(ErrorKind.REQUEST_TRAILERS)
            # BUFFERED, so Egret has requested the body: `receive` expects no trailers before.
            self._is_body_complete = self._trailers_follow = True
            self.phase = Phase.JUDGING_BODY
            return Event.REQUEST_BODY
        if self.is_answered:
            if self.phase is Phase.JUDGING_ANSWER and not self._passes_request:
                raise ProtocolViolationError(self.phase, MessageKind.REQUEST_TRAILERS)
            self.outgoing.append(codec.REQUEST_TRAILERS_ANSWER)
            if self._passes_request:
                self._request_is_through()
        return Event.NOTHING

    def _on_response_headers(self, message: Message) -> Event:
        if self.request_mode is not BodyMode.FULL_DUPLEX_STREAMED or not self._passes_request:
            # An upstream may answer before it has read a streamed request: then both go on.
            self._passes_request = False
            self.drop()
        self.phase = Phase.JUDGING_ANSWER_HEADERS
        self.answer_headers = message.headers or self.answer_headers
        self.answer_has_body = not message.ends
        is_bodiless = self.response_mode is BodyMode.NONE and not self._awaits_usage
        self._answer_ends = message.ends or is_bodiless
        self._is_body_complete = self._trailers_follow = False
        return Event.ANSWER_HEADERS

    def _on_response_body(self, message: Message) -> Event:
        if self.phase is Phase.AWAIT_PIECE:
            self.phase = Phase.JUDGING_PIECE
            self.piece, self.piece_is_last = bytes(message.body), message.ends
            return Event.ANSWER_PIECE
        if self.phase is Phase.HOLDING_ANSWER:
            self.piece_is_last = message.ends
            try:
                is_buffered = self.response_mode is BodyMode.BUFFERED
                self._keep(message.body, ErrorKind.UNSCANNED_CONTENT, is_buffered=is_buffered)
            except RefusedError:
                if self._unheld is None:
                    raise
                self._pieces.append(message.body)
                if self.may_stream_answer:  # else all of it is here
                    self.outgoing.append(codec.response_headers_answer(self._unheld))
                    self.phase, self.piece = Phase.JUDGING_PIECE, self.body()
                    self.drop()
                    return Event.ANSWER_PIECE
            # As of requests: trailers may follow a BUFFERED body.
            if not message.ends and self.response_mode is not BodyMode.BUFFERED:
                return Event.NOTHING
            self.phase = Phase.JUDGING_ANSWER
            return Event.ANSWER_BODY
        is_buffered_request = self._passes_request and self.request_mode is BodyMode.BUFFERED
        if self.phase is Phase.AWAIT_ANSWER and (self._judges_answer or is_buffered_request):
            raise ProtocolViolationError(self.phase, message.kind)
        if self.response_mode is BodyMode.FULL_DUPLEX_STREAMED:
            self.outgoing += codec.streamed_response_body(message.body, ends=message.ends)
        else:
            self.outgoing.append(codec.response_body_answer())
        self.phase, self._is_kept = Phase.PASSING_ANSWER, False
        if message.ends:
            self._answer_is_complete()
        return Event.NOTHING

    def _on_response_trailers(self, message: Message) -> Event:
        if self.phase is Phase.AWAIT_ANSWER and not self._awaits_usage:
            raise ProtocolViolationError(self.phase, message.kind)
        self.usage, self.has_trailers = message.usage, True
        match self.phase:
            case Phase.AWAIT_PIECE:
                self.phase = Phase.JUDGING_PIECE
                self._trailers_follow = True
                self.piece, self.piece_is_last = b"", True
                return Event.ANSWER_PIECE
            case Phase.HOLDING_ANSWER:
                self.phase = Phase.JUDGING_ANSWER
                self._trailers_follow = True
                return Event.ANSWER_BODY
            case _:
                self.outgoing.append(codec.RESPONSE_TRAILERS_ANSWER)
                self._answer_is_complete()
                return Event.NOTHING

    # Verdicts on the request.

    def require_body(
        self,
        removed: tuple[str, ...] = (),
        *,
        judges_answer: bool = False,
        awaits_usage: bool = False,
    ) -> None:
        """Ask for the request's body; with *judges_answer* its answer must come here as well.

        With *awaits_usage* the headers and trailers of the answer come, if Envoy follows.

        The headers *removed* go whatever the body holds: where Envoy wants an answer before it
        sends the body (BUFFERED), a request that ends in trailers instead would otherwise leave
        with the client's credentials.

        Raises:
            RefusedError: the body, or the answer, cannot come.
        """
        self._expect("require_body")
        if judges_answer and not self.may_judge_answer:
            raise RefusedError(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
        if self._is_body_complete:
            self.phase = Phase.JUDGING_BODY
            return
        if self._is_half_closed:
            raise RefusedError(ErrorKind.INVALID_BODY)  # the rest can no longer come
        declared = self.headers.by_name.get(HeaderName.CONTENT_LENGTH, b"0")
        try:
            is_too_large = int(declared) > self.max_body_bytes
        except ValueError:  # no number, or one of more digits than Python takes
            is_too_large = declared.isdigit()
        if is_too_large:
            raise RefusedError(ErrorKind.BODY_TOO_LARGE)
        self.phase = Phase.AWAIT_BODY
        if self.request_mode is BodyMode.BUFFERED:
            self.outgoing.append(codec.request_headers_answer((), removed))
        elif self.request_mode is BodyMode.NONE:
            # From here on Envoy holds the headers and streams the body (Envoy >= 1.40).
            self.request_mode = BodyMode.FULL_DUPLEX_STREAMED
            self._is_overridden = True
            if judges_answer:
                self.response_mode = BodyMode.FULL_DUPLEX_STREAMED
            wants_headers = self.wants_answer_headers or judges_answer or awaits_usage
            asked = wants_headers, judges_answer, awaits_usage and not judges_answer
            self.outgoing.append(codec.OVERRIDES[asked])

    def forward(
        self,
        *,
        removed: tuple[str, ...] = (),
        added: HeaderFields = (),
        body: bytes | None = None,
        metadata: MetadataFields = b"",
        clear_route_cache: bool = False,
        judges_answer: bool = False,
        awaits_usage: bool = False,
    ) -> None:
        """Let the request go on without the headers *removed* and with those *added*.

        *body* replaces its body; None leaves it. From *metadata* Envoy writes timing headers and
        its access log. With *clear_route_cache* it chooses the route anew, by the headers as they
        are then. With *judges_answer* the answer is judged here, with *awaits_usage* the stream
        stays for its trailers.

        Raises:
            RefusedError: the answer cannot come in a mode that could refuse it.
        """
        self._expect("forward")
        if judges_answer and not self.may_judge_answer:
            raise RefusedError(ErrorKind.UNSUPPORTED_PROCESSING_MODE)
        mode, has_body, is_body_complete = self.request_mode, self.has_body, self._is_body_complete
        is_buffered, is_unsent = mode is BodyMode.BUFFERED, mode is BodyMode.NONE
        if body is not None:
            added = (*added, content_length(body))
        if is_buffered and has_body and self.phase is Phase.JUDGING_BODY:
            answer = codec.request_body_answer(
                added, removed, body, metadata, clear_route_cache=clear_route_cache
            )
            self.outgoing.append(answer)
        else:
            # That the answer must come here may depend on the body: then ask once more.
            is_off = self.response_mode is BodyMode.NONE
            asks_again = judges_answer and self._is_overridden and is_off
            asks = is_unsent or asks_again
            if judges_answer and asks:
                self.response_mode = BodyMode.FULL_DUPLEX_STREAMED
            if body is not None:
                removed = (*removed, HeaderName.CONTENT_LENGTH)
            answer = codec.request_headers_answer(
                added,
                removed,
                metadata,
                response_headers=asks
                and (self.wants_answer_headers or judges_answer or awaits_usage),
                response_body=asks and judges_answer,
                response_trailers=asks and awaits_usage,
                request_body=asks_again,
                clear_route_cache=clear_route_cache,
            )
            self.outgoing.append(answer)
            if has_body and not is_unsent:
                sent = self.body() if body is None else body
                if sent or is_body_complete:
                    self.outgoing += codec.streamed_request_body(sent, ends=is_body_complete)
        self._judges_answer, self._awaits_usage = judges_answer, awaits_usage
        is_whole = is_body_complete and not (is_buffered and self._trailers_follow)
        is_through = is_whole or not has_body or is_unsent or self._is_half_closed
        self.is_answered = True
        self.drop()
        self.phase = Phase.AWAIT_ANSWER
        self._passes_request = not is_through
        if is_through:
            self._request_is_through()

    def refuse(self, refusal: Refusal) -> None:
        """Answer the client from here; nothing else is owed then."""
        if not self.may_refuse:
            raise ProtocolViolationError(self.phase, "refuse")
        self.outgoing.append(codec.immediate_response(refusal))
        self.is_answered = True
        self._end()

    # Verdicts on the answer.

    def pass_answer(self, headers: HeaderMutation = NO_CHANGE) -> None:
        """Let the answer go on, its headers changed like this; its body is not judged."""
        self._expect("pass_answer")
        self.outgoing.append(codec.response_headers_answer(headers))
        self.phase = Phase.PASSING_ANSWER
        self._is_kept = self.response_mode is BodyMode.BUFFERED
        if self._answer_ends:
            self._answer_is_complete()

    def stream_answer(self, headers: HeaderMutation = NO_CHANGE) -> None:
        """Let the headers of the answer go on; each piece of its body is judged as it comes."""
        self._expect("stream_answer")
        self.outgoing.append(codec.response_headers_answer(headers))
        self.phase = Phase.AWAIT_PIECE

    def hold_answer(self, unheld: HeaderMutation | None = None) -> None:
        """Let nothing of the answer go on before all of it is judged, or has no room."""
        self._expect("hold_answer")
        if self.response_mode is BodyMode.BUFFERED:
            # Envoy sends the body once the headers have their answer, and holds both.
            self.outgoing.append(codec.response_headers_answer())
        self._judges_answer, self._unheld = True, unheld
        self.phase = Phase.HOLDING_ANSWER

    def send_piece(
        self, body: bytes, *, ends: bool = False, metadata: MetadataFields = b""
    ) -> None:
        """Send bytes of a streamed answer on; *ends*: they are its last, whatever follows."""
        self._expect("send_piece")
        self.phase = Phase.AWAIT_PIECE
        is_last = ends or self.piece_is_last
        is_end = ends or (self.piece_is_last and not self._trailers_follow)
        if body or is_end:
            self.outgoing += codec.streamed_response_body(body, ends=is_end, metadata=metadata)
        if self._trailers_follow and not ends:
            self.outgoing.append(codec.RESPONSE_TRAILERS_ANSWER)
        if is_last:
            self._answer_is_complete()

    def send_answer(
        self,
        headers: HeaderMutation = NO_CHANGE,
        body: bytes | None = None,
        metadata: MetadataFields = b"",
    ) -> None:
        """Send a held answer on; *body* replaces its body, None leaves it."""
        self._expect("send_answer")
        is_buffered = self.response_mode is BodyMode.BUFFERED
        if body is not None:
            added = (*headers.set_headers, content_length(body))
            former = () if is_buffered else (HeaderName.CONTENT_LENGTH,)
            headers = HeaderMutation(added, (*headers.remove_headers, *former))
        if is_buffered:
            self.outgoing.append(codec.response_body_answer(headers, body, metadata))
            self.phase = Phase.PASSING_ANSWER
            self.drop()
            if self.piece_is_last:
                self._answer_is_complete()
            return
        self.outgoing.append(codec.response_headers_answer(headers, metadata))
        whole = self.body() if body is None else body
        if whole or not self._trailers_follow:
            self.outgoing += codec.streamed_response_body(whole, ends=not self._trailers_follow)
        if self._trailers_follow:
            self.outgoing.append(codec.RESPONSE_TRAILERS_ANSWER)
        self.drop()
        self._answer_is_complete()

    # Steps.

    def _expect(self, action: str) -> None:
        if self.phase not in ACTIONS[action]:
            raise ProtocolViolationError(self.phase, action)

    def _request_is_through(self) -> None:
        """Go on for the answer, or end if none comes here."""
        self._passes_request = False
        is_asked_for = self.wants_answer_headers or self._awaits_usage
        is_owed = is_asked_for or self.response_mode is not BodyMode.NONE
        is_over = self._is_half_closed or self.phase is Phase.AWAIT_REQUEST_END
        if is_over or (not is_owed and self.phase is Phase.AWAIT_ANSWER):
            self._end()

    def _answer_is_complete(self) -> None:
        if self._passes_request:
            self.phase = Phase.AWAIT_REQUEST_END
        else:
            self._end()

    def _end(self) -> None:
        self.phase = Phase.ENDED
        self.drop()

    def _keep(
        self, piece: bytes | memoryview, too_large: ErrorKind, *, is_buffered: bool = False
    ) -> None:
        """Keep a piece of a body until it is judged; raise if there is no room for it."""
        size = len(piece)
        held = self.held_bytes + size
        if held > self.max_body_bytes:  # also if there is no room for it
            raise RefusedError(too_large)
        hold = self.room.hold_buffered if is_buffered else self.room.hold
        if not hold(size, self.owner):
            raise RefusedError(ErrorKind.OVERLOADED)
        self.held_bytes = held
        if not size:
            return
        last = self._pieces[-1] if self._pieces else None
        if last is None or size > codec.LONG_BYTES:
            self._pieces.append(piece)
        elif isinstance(last, bytearray):  # an object for each of many short ones takes far more
            last += piece
        else:
            self._pieces.append(bytearray(piece))

    def drop(self) -> None:
        """Let go of the pieces: the memory of a body is not held to the end of the stream."""
        if self._pieces:  # of an answer without room, they are not counted
            self.room.release(self.held_bytes, self.owner)
            self.held_bytes, self._pieces = 0, []
