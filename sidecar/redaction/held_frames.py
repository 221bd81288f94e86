"""Events of an answer that wait for their verdict, in order, and how they leave.

Texts that are redacted are changed in place: every other byte of their JSON stays.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from sidecar.apis.frames import Frame
from sidecar.apis.response_text import without_logprobs
from sidecar.domain.cooperative import SLICE_CANDIDATES, Cooperative
from sidecar.guardrails.streaming.transcript import TokenText
from sidecar.jsontext import tokens as json_text
from sidecar.jsontext.tokens import OffsetMap, Token

EVENT_BYTES: Final = 128
"""Memory that an event takes beside its bytes: an empty comment is one of three bytes."""


class _Held(msgspec.Struct, frozen=True):
    frame: Frame
    pieces: Sequence[TokenText]
    has_logprobs: bool
    is_unread: bool

    def changed(self) -> bytes:
        """Return the event with the edits of its texts, which are forgotten then."""
        edits = [
            TokenEdit(
                piece.location,
                edit.start,
                edit.end,
                edit.text,
                is_json=piece.window.is_json,
                is_bare=edit.is_bare,
            )
            for piece in self.pieces
            for edit in piece.window.take_edits(piece.start, piece.end)
        ]
        frame = self.frame
        if not edits or frame.payload is None:
            return frame.raw
        return frame.with_payload(edited(frame.payload, edits, has_logprobs=self.has_logprobs))


class HeldFrames:
    """A queue: an event leaves once all of its texts are judged, and never before an older one.

    `size_bytes` is about the memory that the events take.
    """

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
        self.size_bytes += len(frame.raw) + EVENT_BYTES

    def release(self, *, unread: bool, most: int = -1) -> bytes:
        """Return the events that may leave now, byte for byte unless something was redacted.

        They are *most* events at most, if that is not negative. Unless `unread` is set, an event
        that cannot be judged stays, and all behind it.
        """
        released: list[bytes] = []
        waiting = self._held
        while waiting and most:
            held = waiting[0]
            if held.is_unread and not unread:
                break
            has_edits = False
            for piece in held.pieces:
                window = piece.window
                if piece.end > window.settled:
                    return b"".join(released)
                if window.edits:
                    has_edits = True
            del waiting[0]
            most -= 1
            raw = held.frame.raw
            self.size_bytes -= len(raw) + EVENT_BYTES
            released.append(held.changed() if has_edits else raw)
        return b"".join(released)

    def release_in_turns(self) -> Cooperative[tuple[bytes]]:
        """Do the same for the events of a whole answer, also for those that cannot be judged."""
        released: list[bytes] = []
        before = 0
        while before != self.size_bytes:  # until none is left, or none may leave
            before = self.size_bytes
            released.append(self.release(unread=True, most=SLICE_CANDIDATES))
            if self.size_bytes:
                yield
        return (b"".join(released),)

    def drop(self) -> None:
        """Drop all events; none of them leaves."""
        self._held.clear()
        self.size_bytes = 0


class TokenEdit(msgspec.Struct, frozen=True, gc=False):
    """Puts `text` in the place of a span of the token at `location` (see `AnswerText`).

    `start` and `end` are byte offsets into its decoded content. Of a number the whole token is
    replaced, by a string. With `is_json` the token is JSON text, in which quotes of `text` are
    escaped once more, unless it *is bare*: a string that replaces a number without quotes there.
    """

    location: int
    start: int
    end: int
    text: bytes
    is_json: bool = False
    is_bare: bool = False


def edited(payload: bytes, edits: Sequence[TokenEdit], *, has_logprobs: bool) -> bytes:
    """Return *payload* with its texts changed and without the tokens that would repeat them."""
    by_location: defaultdict[int, list[TokenEdit]] = defaultdict(list)
    for edit in sorted(edits, key=attrgetter("start")):
        by_location[edit.location].append(edit)
    spans: list[tuple[int, int, bytes]] = []
    strings = json_text.pick_strings(payload, {at for at in by_location if at >= 0})
    for location, token in strings.items():  # each is decoded once, however many its edits
        spans += _in_string(payload, token, by_location[location])
    numbers = json_text.pick_numbers(payload, {-1 - at for at in by_location if at < 0})
    for number, token in numbers.items():
        spans += [
            (token.start, token.end, b'"' + edit.text + b'"') for edit in by_location[-1 - number]
        ]
    pieces: list[bytes] = []
    position = 0
    for start, end, text in sorted(spans):
        if start >= position:  # else it was widened over the one before, which stands for both
            pieces += (payload[position:start], text)
        position = max(position, end)
    payload = b"".join((*pieces, payload[position:]))
    return without_logprobs(payload) if has_logprobs else payload


def _in_string(
    payload: bytes, token: Token, edits: Sequence[TokenEdit]
) -> Iterator[tuple[int, int, bytes]]:
    raw = payload[token.start : token.end]
    offsets = OffsetMap(raw)
    content = json_text.decode(raw) if any(edit.is_json for edit in edits) else b""
    for edit in edits:
        start, end, text = edit.start, edit.end, edit.text
        if edit.is_json:
            start, end = json_text.whole_units(content, start, end)
        if edit.is_json and not edit.is_bare:
            text = _escaped(text)
        start, end = offsets.raw_range(start, end)
        yield token.start + start, token.start + end, _escaped(text)


def _escaped(text: bytes) -> bytes:
    return json_text.quoted(text)[1:-1]
