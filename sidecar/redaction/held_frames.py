"""Events of an answer that wait for their verdict, in order, and how they leave.

Texts that are redacted are changed in place: every other byte of their JSON stays.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import msgspec

from sidecar.apis.frames import Frame
from sidecar.apis.response_text import LOGPROBS
from sidecar.domain.cooperative import SLICE_CANDIDATES, Cooperative, run_sync
from sidecar.guardrails.streaming.transcript import TokenText
from sidecar.jsontext import tokens as json_text
from sidecar.jsontext.tokens import SLICE_TOKENS, WHOLE_STRING, JsonToken, RawOffsets

EVENT_BYTES: Final = 128
"""Memory that an event takes beside its bytes: an empty comment is one of three bytes."""


class _Held(msgspec.Struct, frozen=True):
    frame: Frame
    pieces: Sequence[TokenText]
    has_logprobs: bool
    is_unread: bool

    def changed(self) -> Cooperative[bytes]:
        """Return the event with the edits of its texts, which are forgotten then."""
        edits: list[TokenEdit] = []
        for piece in self.pieces:
            window = piece.window
            for edit in window.take_edits(piece.start, piece.end):
                edits.append(
                    TokenEdit(
                        piece.location,
                        edit.start,
                        edit.end,
                        edit.text,
                        is_json=window.is_json,
                        is_bare=edit.is_bare,
                    )
                )
                if not len(edits) % SLICE_CANDIDATES:
                    yield
        frame = self.frame
        if not edits or frame.payload is None:
            return frame.raw
        payload = yield from edited(frame.payload, edits, has_logprobs=self.has_logprobs)
        return frame.with_payload(payload)


class HeldFrames:
    """A queue: an event leaves once all of its texts are judged, and never before an older one.

    `size_bytes` is about the memory that the events take.
    """

    def __init__(self) -> None:
        self._held: deque[_Held] = deque()
        self._changing: _Held | None = None
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

        They are *most* events at most, if that is not negative, and end before one that is
        changed. Unless `unread` is set, an event that cannot be judged stays, and all behind it.
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
            if has_edits and most >= 0:
                self._changing = held
                break
            released.append(run_sync(held.changed()) if has_edits else raw)
        return b"".join(released)

    def release_in_turns(self, *, unread: bool) -> Cooperative[tuple[bytes]]:
        """Do the same for all events that may leave, in slices."""
        released: list[bytes] = []
        before = 0
        while before != self.size_bytes:  # until none is left, or none may leave
            before = self.size_bytes
            released.append(self.release(unread=unread, most=SLICE_CANDIDATES))
            if self._changing is not None:
                released.append((yield from self._changing.changed()))
                self._changing = None
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


def edited(
    payload: bytes, edits: Sequence[TokenEdit], *, has_logprobs: bool
) -> Cooperative[bytes]:
    """Return *payload* with its texts changed and without the tokens that would repeat them."""
    by_location: defaultdict[int, list[TokenEdit]] = defaultdict(list)
    for edit in sorted(edits, key=attrgetter("start")):
        by_location[edit.location].append(edit)
    spans: list[tuple[int, int, bytes]] = []
    strings = yield from json_text.pick_tokens(payload, {at for at in by_location if at >= 0})
    for count, (location, token) in enumerate(strings.items(), start=1):
        # Each is decoded once, however many its edits.
        spans += yield from _in_string(payload, token, by_location[location])
        if not count % SLICE_CANDIDATES:
            yield
    indexes = {-1 - at for at in by_location if at < 0}
    numbers = yield from json_text.pick_tokens(payload, indexes, are_numbers=True)
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
    return (yield from _without_logprobs(payload)) if has_logprobs else payload


def _in_string(
    payload: bytes, token: JsonToken, edits: Sequence[TokenEdit]
) -> Cooperative[list[tuple[int, int, bytes]]]:
    offsets = RawOffsets(payload[token.start : token.end])
    yield from offsets.decoded()
    spans: list[tuple[int, int, bytes]] = []
    for count, edit in enumerate(edits, start=1):
        text = _escaped(edit.text) if edit.is_json and not edit.is_bare else edit.text
        start, end = offsets.raw_range(edit.start, edit.end)
        spans.append((token.start + start, token.start + end, _escaped(text)))
        if not count % SLICE_CANDIDATES:
            yield
    return spans


def _escaped(text: bytes) -> bytes:
    return json_text.quoted(text)[1:-1]


_LOGPROB_KEYS: Final = frozenset(key.encode() for key in LOGPROBS)
_BEFORE_VALUE: Final = re.compile(rb'"[ \t\r\n]*+:[ \t\r\n]*+')
_TO_BRACKET: Final = re.compile(
    rb'[^"{}\[\]]*+(?:' + WHOLE_STRING + rb'[^"{}\[\]]*+)*+([{}\[\]])', re.DOTALL
)
_SCALAR: Final = re.compile(WHOLE_STRING + rb"|[^ \t\r\n,\]}]*+", re.DOTALL)


def _without_logprobs(payload: bytes) -> Cooperative[bytes]:
    """Return the event with null for the probabilities of its tokens: they repeat the text."""
    pieces: list[bytes] = []
    end = 0
    for count, token in enumerate(json_text.string_tokens(payload), start=1):
        if not count % SLICE_TOKENS:
            yield
        key = payload[token.start : token.end]
        if token.start < end or json_text.decode(key) not in _LOGPROB_KEYS:
            continue
        before = _BEFORE_VALUE.match(payload, token.end)
        if before is None:
            continue
        pieces += (payload[end : before.end()], b"null")
        end = before.end()
        if payload[end : end + 1] not in {b"{", b"["}:
            scalar = _SCALAR.match(payload, end)
            end = scalar.end() if scalar is not None else end
            continue
        depth = brackets = 0
        while depth or not brackets:
            bracket = _TO_BRACKET.match(payload, end)
            assert bracket is not None  # noqa: S101 - the event was read as JSON
            end = bracket.end()
            depth += 1 if bracket.group(1) in {b"{", b"["} else -1
            brackets += 1
            if not brackets % SLICE_TOKENS:
                yield
    return b"".join((*pieces, payload[end:]))
