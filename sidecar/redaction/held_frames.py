"""Events of an answer that wait for their verdict, in order, and how they leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.apis.frames import Frame
from sidecar.guardrails.streaming.transcript import TokenText
from sidecar.redaction.answer_edits import TokenEdit, edited


@dataclass(frozen=True, slots=True)
class _Held:
    frame: Frame
    pieces: Sequence[TokenText]
    has_logprobs: bool
    is_unread: bool


class HeldFrames:
    """A queue: an event leaves once all of its texts are judged, and never before an older one."""

    def __init__(self) -> None:
        self._held: deque[_Held] = deque()
        self.size_bytes = 0

    def add(
        self,
        frame: Frame,
        pieces: Sequence[TokenText] = (),
        *,
        has_logprobs: bool = False,
        is_unread: bool = False,
    ) -> None:
        """Add the next event; with `is_unread` some of it cannot be judged."""
        self._held.append(_Held(frame, pieces, has_logprobs, is_unread))
        self.size_bytes += len(frame.raw)

    def release(self, *, unread: bool) -> bytes:
        """Return the events that may leave now, byte for byte unless something was redacted.

        Unless `unread` is set, an event that cannot be judged stays, and all behind it.
        """
        released: list[bytes] = []
        while self._held:
            held = self._held[0]
            is_settled = all(piece.end <= piece.window.settled for piece in held.pieces)
            if not is_settled or (held.is_unread and not unread):
                break
            self._held.popleft()
            self.size_bytes -= len(held.frame.raw)
            edits = [
                TokenEdit(
                    piece.location,
                    edit.start,
                    edit.end,
                    edit.text,
                    is_json=piece.window.is_json,
                    is_bare=edit.is_bare,
                )
                for piece in held.pieces
                if piece.window.edits
                for edit in piece.window.edits_of(piece.start, piece.end)
            ]
            frame = held.frame
            if edits and frame.payload is not None:
                payload = edited(frame.payload, edits, has_logprobs=held.has_logprobs)
                released.append(frame.with_payload(payload))
            else:
                released.append(frame.raw)
            for piece in held.pieces:
                piece.window.forget_edits(piece.end)
        return b"".join(released)

    def drop(self) -> None:
        """Drop all events; none of them leaves."""
        self._held.clear()
        self.size_bytes = 0
