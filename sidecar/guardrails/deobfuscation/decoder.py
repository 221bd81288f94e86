"""Decoders: from a text to the text that it hides.

A decoder finds runs in a view that hide text (base64, escapes, spaced letters), and returns one
more view, in which each run is replaced by its text. Spans in the hidden text map back to the
whole run.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

from typing_extensions import override

from sidecar.domain.cooperative import SLICE_BYTES, Cooperative
from sidecar.guardrails.matching.database import SEPARATOR
from sidecar.guardrails.matching.rule import KEY_BYTES, Expression, every_match, occurs
from sidecar.guardrails.matching.text_views import ByteSpan, OffsetMap, TextView, ViewKind

REACH_BYTES: Final = 2_048
"""Text on either side of a run that is searched with it; few findings are longer."""

MAX_UNITS: Final = 16_384
"""Escapes or letters that are matched in one go, in a millisecond or two; a slice has fewer."""

SLICE_RUNS: Final = 512
"""Runs decoded between two interruptions: a millisecond or less."""


class Decoder(Protocol):
    """One way to hide text, and how to read it.

    `trigger` is an expression of the shared database that occurs in every text with something to
    decode. `ascii` is False for a decoder that changes nothing in ASCII text.
    """

    trigger: Expression | None = None
    ascii: bool = True

    def applies(self, content: bytes) -> bool:
        """Return whether *content* may hide text; decides alone if there is no trigger."""
        ...

    def read(self, view: TextView) -> Cooperative[tuple[TextView, ...]]:
        """Return the views of the texts hidden in *view*, if any."""
        ...


def matches(
    expression: Any,
    content: bytes,
    *,
    least: int,
    more: Any = None,
    likely: Any = None,
    begins: Any = None,
) -> Iterator[ByteSpan | None]:
    """Yield the spans of *expression*, and None wherever work may be interrupted.

    *begins*, of RE2, matches wherever a match begins; *likely*, which costs less, in each window
    with one. Most windows end with *likely*: without it texts full of findings take longer.
    The text is searched in windows. A match that ends within *least* bytes of a window's end is
    matched anew, without that end; *least* bytes of a match are enough to match. If *expression*
    has an end of its own, *more* goes on with the rest of a long match, as spans of their own.
    """
    position, count = 0, 0
    while position < len(content):
        limit = min(len(content), position + SLICE_BYTES)
        next_position = limit if limit == len(content) else limit - least
        is_likely = likely is None or occurs(likely, content, position, limit)
        found_here = every_match(expression, content, position, limit, likely=begins)
        for found in found_here if is_likely else ():
            start, end = found[0]
            if end > limit - least:
                match = expression.match(content, start)
                if match is None:
                    continue  # it only seemed to end
                end = match.end()
            yield start, end
            while more is not None and end >= limit and (match := more.match(content, end)):
                yield None
                start, end = match.span()
                yield start, end
            count += 1
            if not count % SLICE_RUNS:
                yield None
            next_position = max(next_position, end)
            if end >= limit:
                break
        position = next_position
        if position < len(content):
            yield None


def begins_key(text: bytes | bytearray) -> bool:
    """Return whether *text* may have the header of a private key, whose end is far behind it."""
    return b"PRIVATE" in text or b"User-Key-File" in text


class DecodedText:
    """Builds the decoded view of a text: the texts hidden in runs, and the text around them."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._text = bytearray()
        # Arrays: a text may have two million runs, and an object for each takes 300 bytes.
        self._starts = array("Q")
        self._origins = array("Q"), array("Q"), bytearray()
        self._at = 0

    def __bool__(self) -> bool:
        """Return whether there is any text."""
        return bool(self._text)

    def add(self, text: bytes, start: int, end: int) -> None:
        """Add the *text* hidden in the run from *start* to *end*."""
        self._put(text, start, end, is_literal=False)
        self._at = end

    def add_up_to(self, end: int) -> None:
        """Add the text between the last run and *end* as it is, without its middle if long."""
        start = self._at
        reach = self._reach()
        if end - start > REACH_BYTES + reach:
            if self._text:
                stop = self._boundary(start + reach)
                self._put(self._content[start:stop], start, stop)
            start = self._boundary(end - REACH_BYTES)
            if self._text:
                self._put(SEPARATOR, start, start, is_literal=False)
        self._put(self._content[start:end], start, end)
        self._at = end

    def add_behind(self, text: bytes, start: int, end: int) -> None:
        """Do both: a text may have two million runs, so mostly without a further call."""
        at, whole = self._at, self._text
        if start - at > 2 * REACH_BYTES or not text:
            self.add_up_to(start)
            self.add(text, start, end)
            return
        begins, ends, literals = self._origins
        if start > at:
            self._starts.append(len(whole))
            whole += self._content[at:start]
            begins.append(at)
            ends.append(start)
            literals.append(1)
        self._starts.append(len(whole))
        whole += text
        begins.append(start)
        ends.append(end)
        literals.append(0)
        self._at = end

    def add_rest(self) -> None:
        """Add the text behind the last run."""
        end = min(len(self._content), self._boundary(self._at + self._reach()))
        self._put(self._content[self._at : end], self._at, end)
        self._at = end

    def as_view(self, source: TextView, kind: ViewKind) -> TextView:
        """Return the text as a view that leads back through *source*."""
        self._starts.append(len(self._text))
        offsets = _RunsMap(self._starts, self._origins, source.offsets)
        kinds = frozenset({kind, ViewKind.FOLDED})
        content = as_utf8(bytes(self._text))
        return TextView(source.part, kinds, content, source.length, offsets)

    def _reach(self) -> int:
        """Return how much text behind the last run is searched with it."""
        return KEY_BYTES if begins_key(self._text[-REACH_BYTES:]) else REACH_BYTES

    def _boundary(self, at: int) -> int:
        """Return the offset of the first character at or behind *at*."""
        while at < len(self._content) and self._content[at] & 0xC0 == 0x80:  # noqa: PLR2004 - UTF-8
            at += 1
        return at

    def _put(self, text: bytes, start: int, end: int, *, is_literal: bool = True) -> None:
        if text:
            self._starts.append(len(self._text))
            self._text += text
            begins, ends, literals = self._origins
            begins.append(start)
            ends.append(end)
            literals.append(is_literal)


def as_utf8(text: bytes) -> bytes:
    """Return *text* with `?` for each byte that is not UTF-8, which Hyperscan needs."""
    if text.isascii():
        return text
    return text.decode("utf-8", "surrogateescape").encode("utf-8", "replace")


def replace_runs(
    view: TextView,
    found: Iterable[ByteSpan | None],
    decode: Callable[[bytes], bytes],
    kind: ViewKind,
) -> Cooperative[tuple[TextView, ...]]:
    """Return *view* with each run *found* in it decoded, in the text around it; none without runs.

    Yields wherever *found* has None.
    """
    content = view.content
    text = DecodedText(content)
    for span in found:
        if span is None:
            yield
            continue
        start, end = span
        text.add_behind(decode(content[start:end]), start, end)
    if not text:
        return ()
    text.add_rest()
    return (text.as_view(view, kind),)


class _RunsMap(OffsetMap):
    """Maps literal text byte for byte, and the text hidden in a run to the whole run."""

    def __init__(
        self,
        starts: array[int],
        origins: tuple[array[int], array[int], bytearray],
        below: OffsetMap,
    ) -> None:
        """Take where texts start in the view, and its end; starts, ends and kinds of origins."""
        self._starts = starts
        self._begins, self._ends, self._literals = origins
        self._below = below

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        count = len(self._begins)
        first = bisect_right(self._starts, start, hi=count) - 1
        last = bisect_left(self._starts, end, hi=count) - 1
        begin, stop = self._begins[first], self._ends[last]
        if self._literals[first]:
            begin += start - self._starts[first]
        if self._literals[last]:
            stop -= self._starts[last + 1] - end
        return self._below.span(begin, stop)
