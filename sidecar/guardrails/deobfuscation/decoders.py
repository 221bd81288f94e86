"""The decoders in their order: encodings, escapes, letters spaced out, leetspeak."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from typing_extensions import override

from sidecar.domain.cooperative import SLICE_BYTES, Cooperative
from sidecar.domain.finding import TooMuchHiddenTextError
from sidecar.guardrails.deobfuscation.decoder import (
    MAX_UNITS,
    DecodedText,
    Decoder,
    as_utf8,
    begins_key,
    matches,
    replace_runs,
)
from sidecar.guardrails.deobfuscation.encodings import ENCODINGS
from sidecar.guardrails.deobfuscation.look_alikes import LOOK_ALIKES, SLICE_CHUNKS
from sidecar.guardrails.matching.database import SEPARATOR
from sidecar.guardrails.matching.rule import (
    KEY_BYTES,
    WINDOW_BYTES,
    Expression,
    compile_re2,
    occurs,
)
from sidecar.guardrails.matching.text_views import (
    ONE_VIEW,
    ByteSpan,
    ChunkedMap,
    ComposedMap,
    TableMap,
    TextView,
    ViewKind,
)

_ESCAPE: Final = re.compile(
    # One class first, so that the search skips to it.
    rb"([%&\\](?:(?<=%)[0-9A-Fa-f]{2}"
    rb"|(?<=&)(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});"
    rb"|(?<=\\)(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2})))"
)
_CUT_ESCAPE: Final = re.compile(rb"[%&\\][#0-9A-Za-z]{0,8}\Z")
"""Where an escape may begin that ends behind the text; none has more than ten bytes."""
_LONGEST_ESCAPE: Final = 10
_PERCENT: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_ENTITY: Final = re.compile(rb"&[#A-Za-z][0-9A-Za-z]{1,7};")
_BACKSLASH: Final = re.compile(rb"\\[ux][0-9A-Fa-f]{2}")
MAX_KEPT_ESCAPES: Final = 16_384


class _Unescaped(dict[bytes, bytes]):
    """The texts of escapes: a text has few different ones, each of them many times."""

    def __missing__(self, escape: bytes) -> bytes:
        if escape.startswith(b"&"):
            text = html.unescape(escape.decode("ascii")).encode("utf-8", "replace")
        else:
            code = int(escape.lstrip(b"%\\ux"), 16)
            is_character = escape.startswith(b"\\u")
            text = chr(code).encode("utf-8", "replace") if is_character else bytes((code,))
        if len(self) >= MAX_KEPT_ESCAPES:
            self.clear()
        self[escape] = text
        return text


_unescaped: Final = _Unescaped().__getitem__

CHUNK_BYTES: Final = 2_048
"""Text is unescaped in chunks. Those beside one with an escape are searched with it, and those
behind the header of a private key: few other findings are longer. Of all others, offsets of three
million escapes would take seconds."""


def _map_of_chunk(chunk: str) -> TableMap:
    """Map by escapes, and other text byte for byte."""
    changed: list[int] = []
    original: list[int] = []
    for at, piece in enumerate(_ESCAPE.split(chunk.encode())):
        is_escape = at % 2 == 1
        changed += (len(_unescaped(piece)),) if is_escape else (1,) * len(piece)
        original += (len(piece),) if is_escape else (1,) * len(piece)
    return TableMap(changed, original)


class EscapesDecoder(Decoder):
    """Decodes percent escapes, HTML entities and backslash escapes."""

    # One expression of the three: among the others it costs the pass over a text nothing.
    trigger: Expression | None = Expression(
        r"%[0-9A-Fa-f]{2}|&[#A-Za-z][0-9A-Za-z]{1,7};|\\[ux][0-9A-Fa-f]{2}"
    )

    @override
    def applies(self, content: bytes) -> bool:
        """Look for the first byte of each kind, which takes some nanoseconds a kilobyte."""
        return bool(
            (b"%" in content and _PERCENT.search(content))
            or (b"&" in content and _ENTITY.search(content))
            or (b"\\" in content and _BACKSLASH.search(content))
        )

    @override
    def read(self, view: TextView) -> Cooperative[tuple[TextView, ...]]:
        lengths: list[int] = []
        changed: list[bytes] = []
        wanted: set[int] = set()
        before = b""
        whole, start, index = view.content, 0, 0
        while start < len(whole):
            if index and not index % SLICE_CHUNKS:
                yield
            # A chunk cuts no escape and no character.
            end = min(start + CHUNK_BYTES, len(whole))
            cut = _CUT_ESCAPE.search(whole, max(end - _LONGEST_ESCAPE + 1, start), end)
            if cut is not None and (escape := _ESCAPE.match(whole, cut.start())):
                end = max(end, escape.end())
            while end < len(whole) and whole[end] & 0xC0 == 0x80:  # noqa: PLR2004 - UTF-8
                end += 1
            lengths.append(end - start)
            pieces = _ESCAPE.split(whole[start:end])  # every second is an escape
            if len(pieces) > 1:
                wanted |= {index - 1, index, index + 1}
                pieces[1::2] = map(_unescaped, pieces[1::2])
            text = b"".join(pieces)
            if begins_key(before + text):
                wanted.update(range(index, index + KEY_BYTES // CHUNK_BYTES + 2))
            before = text
            changed.append(text)
            start, index = end, index + 1
        if not wanted:
            return ()
        changed = [one if at in wanted else SEPARATOR for at, one in enumerate(changed)]
        above = ChunkedMap(view.content, _map_of_chunk, changed=changed, lengths=lengths)
        content = as_utf8(b"".join(changed))
        kinds = frozenset({ViewKind.UNESCAPED, ViewKind.FOLDED})
        return (
            TextView(view.part, kinds, content, view.length, ComposedMap(above, view.offsets)),
        )


ESCAPES: Final = EscapesDecoder()


_SPACED: Final = re.compile(
    rb"(?<![0-9A-Za-z])[0-9A-Za-z]([ \t\n._*|/,-])[0-9A-Za-z]\1(?:[!-~]\1){4,%d}[!-~]"
    rb"(?![0-9A-Za-z])" % MAX_UNITS
)
_MORE_SPACED: Final = re.compile(
    rb"(?<=([ \t\n._*|/,-])[!-~])(?:\1[!-~]){1,%d}(?![0-9A-Za-z])" % MAX_UNITS
)
_OTHER_SPACED: Final = re.compile(
    rb"(?<=([ \t\n._*|/,-])[0-9A-Za-z])(?!\1)([ \t\n._*|/,-])[0-9A-Za-z]\2"
    rb"(?:[!-~]\2){3,%d}[!-~](?![0-9A-Za-z])" % MAX_UNITS
)
"""Letters with other signs between them, the first of which is the last of the run before."""

_LEAST_SPACED: Final = 16
"""Bytes of a run that are enough to recognise it, with the one behind it."""
_BEGINS_SPACED: Final = Expression(
    # RE2 has no references back: each sign has a choice of its own.
    "|".join(
        rf"[0-9A-Za-z]{sign}[0-9A-Za-z]{sign}(?:[!-~]{sign}){{4}}[!-~]"
        for sign in ("[ ]", r"\t", r"\n", "[.]", "_", "[*]", "[|]", "/", ",", "-")
    )
)
_LIKELY_SPACED: Final = Expression(
    r"[0-9A-Za-z][ \t\n._*|/,-][0-9A-Za-z][ \t\n._*|/,-](?:[!-~][ \t\n._*|/,-]){4}[!-~]"
)
# Both forms have three letters or digits in a row among the first, without which no text is read.
_UNIT: Final = " {1,5}[!-~]"
_SIX_UNITS: Final = "|".join(
    _UNIT * before + " {1,5}[0-9A-Za-z] [0-9A-Za-z] [0-9A-Za-z]" + _UNIT * (3 - before)
    for before in range(3)
)
_EIGHT_ESCAPED: Final = "|".join(
    r"\\".join(("[\n -~]",) * before + ("[0-9A-Za-z]",) * 3 + ("[\n -~]",) * (5 - before))
    for before in range(5)
)
_SPELLED: Final = re.compile(
    # One class first, so that the search skips to it; then the end of six units, as few letters
    # of other texts have so many.
    rb"[A-Za-z\\](?:(?<![0-9A-Za-z].)(?<!\\)(?=%b(?![!-~]))(?=%b)(?: {1,5}[!-~]){6,%d}(?![!-~])"
    rb"|(?<=\\)(?=%b)[\n -~](?:\\[\n -~]){7,%d})"
    % (
        (_UNIT * 6).encode(),
        _SIX_UNITS.encode(),
        MAX_UNITS,
        _EIGHT_ESCAPED.encode(),
        MAX_UNITS - 1,
    )
)
_MORE_SPELLED: Final = re.compile(
    rb"(?<= [!-~])(?: {1,5}[!-~]){1,%d}(?![!-~])|(?<=\\[\n -~])(?:\\[\n -~]){1,%d}"
    % (MAX_UNITS, MAX_UNITS)
)
_LEAST_SPELLED: Final = 38
"""Of a letter, six more with five blanks in front of each, and the byte behind."""
_BEGINS_SPELLED: Final = Expression(
    # With the byte behind six units, or six in front of a word would cost a search each.
    rf"[A-Za-z](?:{_SIX_UNITS})(?:[^!-~]|\z)|\\(?:{_EIGHT_ESCAPED})"
)
_LIKELY_SPELLED: Final = Expression(r"[ \\](?:[0-9A-Za-z][ \\]){3}")
_WIDE: Final = re.compile(rb" {2,}")


def _words(run: bytes) -> bytes:
    if run.startswith(b"\\"):
        return run[1::2]
    return b" ".join([word.replace(b" ", b"") for word in _WIDE.split(run)])


def overlapping_runs(content: bytes, runs: Iterable[ByteSpan | None]) -> Iterator[ByteSpan | None]:
    """Yield *runs*, each with those that begin with the last letter of the one before."""
    behind = 0
    for run in runs:
        if run is None or run[1] > behind:  # else it is within one that began a letter earlier
            yield run
        if run is not None and run[1] > behind:
            behind = run[1]
            while other := _OTHER_SPACED.match(content, behind):
                yield other.span()
                yield None
                behind = other.end()


def join_letters(
    view: TextView, runs: Iterable[ByteSpan | None]
) -> Cooperative[tuple[TextView, ...]]:
    """Return *view* with the letters of each run joined, and with all but the first of them.

    The first may be a word of its own: `a s e c r e t`. The last may be the first of another
    run, with other signs: it is in both.
    """
    content = view.content
    whole, behind_first = DecodedText(content), DecodedText(content)
    behind_last = -1
    for run in overlapping_runs(content, runs):
        if run is None:
            yield
            continue
        start, end = run
        first = content[start : start + 1]
        if first.isalnum():
            whole.add_behind(content[start:end:2], start, end)
            if first.isalpha():
                behind_first.add_behind(content[start + 2 : end : 2], start + 2, end)
                behind_last = end
        elif first == content[start - 2 : start - 1]:  # the rest of a long run
            whole.add_behind(content[start + 1 : end : 2], start, end)
            if start == behind_last:
                behind_first.add_behind(content[start + 1 : end : 2], start, end)
                behind_last = end
        else:
            letters = content[start + 1 : end : 2]
            whole.add(b"".join((SEPARATOR, content[start - 1 : start], letters)), start - 1, end)
            behind_first.add_behind(letters, start + 1, end)
            behind_last = end
    texts = [text for text in (whole, behind_first) if text]
    for text in texts:
        text.add_rest()
    return tuple([text.as_view(view, ViewKind.UNSPACED) for text in texts])


class SpacingDecoder(Decoder):
    """Joins letters that are set apart: *join* returns views with the runs of *expression* joined.

    *more*, *likely*, *begins* and *least* are those of `matches`.
    """

    def __init__(
        self,
        expression: re.Pattern[bytes],
        join: Callable[[TextView, Iterable[ByteSpan | None]], Cooperative[tuple[TextView, ...]]],
        *,
        trigger: Expression,
        more: re.Pattern[bytes],
        likely: Expression,
        begins: Expression,
        least: int,
    ) -> None:
        self.trigger = trigger
        self._trigger = compile_re2(trigger)
        self._expression = expression
        self._join = join
        self._more = more
        self._likely = compile_re2(likely)
        self._begins = compile_re2(begins)
        self._least = least

    @override
    def applies(self, content: bytes) -> bool:
        return len(content) > WINDOW_BYTES or occurs(self._likely, content)

    @override
    def read(self, view: TextView) -> Cooperative[tuple[TextView, ...]]:
        content = view.content
        # In this very text: that of another would make a difference to what is found in this one.
        for start in range(0, len(content), SLICE_BYTES):
            end = min(start + SLICE_BYTES + self._least, len(content))
            if occurs(self._trigger, content, start, end):
                break
            yield
        else:
            return ()
        return (yield from self._join(view, self.runs(content)))

    def runs(self, content: bytes) -> Iterator[ByteSpan | None]:
        """Yield the spans of letters that are set apart, and None between slices of work."""
        return matches(
            self._expression,
            content,
            least=self._least,
            more=self._more,
            likely=self._likely,
            begins=self._begins,
        )


SPACING: Final = SpacingDecoder(
    _SPACED,
    join_letters,
    # Three in a row cost the pass over a text next to nothing; all seven would cost half of it.
    trigger=Expression(r"[ \t\n._*|/,-](?:[0-9A-Za-z][ \t\n._*|/,-]){3}"),
    more=_MORE_SPACED,
    likely=_LIKELY_SPACED,
    begins=_BEGINS_SPACED,
    least=_LEAST_SPACED,
)
"""Reads `s e c r e t`."""
SPELLING: Final = SpacingDecoder(
    _SPELLED,
    lambda view, runs: replace_runs(view, runs, _words, ViewKind.UNSPACED),
    trigger=_LIKELY_SPELLED,
    more=_MORE_SPELLED,
    likely=_LIKELY_SPELLED,
    begins=_BEGINS_SPELLED,
    least=_LEAST_SPELLED,
)
r"""Reads whole sentences: `o f   w o r d s`, or `\o\f\ \w\o\r\d\s`."""

_SIGN: Final = re.compile(rb"[0134578@$!|]")
_LETTER: Final = re.compile(rb"[A-Za-z]")
_TABLES: Final = tuple(  # a one is an i or an l
    bytes.maketrans(b"0345789@$1!|", b"oeastbgas" + letter * 3) for letter in (b"i", b"l")
)
LEET_KIND: Final = frozenset({ViewKind.LEET})
"""Such a view is not read again: letters leave no escape, and make other text of encodings."""


class LeetDecoder(Decoder):
    """Replaces the digits and signs of leetspeak by letters, as in `p4ssw0rd`."""

    @override
    def applies(self, content: bytes) -> bool:
        return _SIGN.search(content) is not None

    @override
    def read(self, view: TextView) -> Cooperative[tuple[TextView, ...]]:
        content = view.content
        tables = _TABLES if any(one in content for one in (b"1", b"!", b"|")) else _TABLES[:1]

        def has_letter(start: int, end: int) -> bool:
            return _LETTER.search(content, start, end) is not None

        found: list[TextView] = []
        for table in tables:
            changed = content.translate(table)
            found.append(view._replace(kinds=LEET_KIND, content=changed, accepts=has_letter))
            yield
        return tuple(found)


LEET: Final = LeetDecoder()


MAX_DEPTH: Final = 2
"""Text that is encoded twice is read; a model does not decode more unaided."""

FOR_ALL: Final = (ESCAPES, LOOK_ALIKES, ENCODINGS, SPACING, SPELLING)
FOR_WORDS: Final = (ESCAPES, LOOK_ALIKES, LEET, ENCODINGS, SPACING, SPELLING)

TRIGGERS: Final = tuple(one.trigger for one in FOR_WORDS if one.trigger is not None)

MAX_DECODED: Final = 20_000
"""Texts decoded of one body, at some 50 µs each with all that judges them: ten of each of 2,048
inputs. Letters in the place of digits do not count, since most texts have a digit."""

VIEWS_A_STEP: Final = 256
"""Views between two interruptions if there is little to decode in them."""


def sources(views: Sequence[TextView]) -> Sequence[TextView]:
    """Return the view of each part that may hide text: the plain one if there is one."""
    if all(view.kinds is ONE_VIEW for view in views):
        return tuple(views)
    best = {view.part: view for view in views if ViewKind.RAW in view.kinds}
    best |= {view.part: view for view in views if ViewKind.PLAIN in view.kinds}
    return (*best.values(), *[view for view in views if ViewKind.TAGS in view.kinds])


def read(views: Iterable[TextView], chosen: Collection[Decoder]) -> Cooperative[list[TextView]]:
    """Return the views that the decoders *chosen* make of *views*.

    Raises:
        TooMuchHiddenTextError: they are more than `MAX_DECODED`.
    """
    found: list[TextView] = []
    decoded = 0
    if not chosen:
        return found
    for count, view in enumerate(views, start=1):
        is_read = False
        for decoder in chosen:
            if decoder.applies(view.content):
                more = yield from decoder.read(view)
                found += more
                decoded += len(more) if decoder is not LEET else 0
                is_read = True
        if decoded > MAX_DECODED:
            raise TooMuchHiddenTextError
        if is_read or not count % VIEWS_A_STEP:
            yield
    return found
