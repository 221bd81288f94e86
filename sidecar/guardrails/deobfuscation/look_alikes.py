"""Maps confusable characters to the ASCII letters they look like."""

from __future__ import annotations

import unicodedata
from itertools import groupby
from typing import Final

from typing_extensions import override

from sidecar.domain.cooperative import Cooperative
from sidecar.guardrails.deobfuscation.decoder import Decoder, begins_key
from sidecar.guardrails.matching.database import SEPARATOR
from sidecar.guardrails.matching.rule import (
    KEY_BYTES,
    WINDOW_BYTES,
    Expression,
    compile_re2,
    occurs,
)
from sidecar.guardrails.matching.text_views import (
    CHUNK_CHARACTERS,
    ChunkedMap,
    ComposedMap,
    TableMap,
    TextView,
    ViewKind,
    chunks_of,
)

_LATIN: Final = {
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420": "ABEKMHOP",  # Cyrillic
    "\u0421\u0422\u0423\u0425": "CTYX",
    "\u0405\u0406\u0408\u0430\u0435\u043e\u0440\u0441": "SIJaeopc",
    "\u0443\u0445\u0455\u0456": "yxsi",
    "\u0458\u04bb\u0501\u051b\u051d\u0475\u051c\u051a": "jhdqwvWQ",
    "\u04cf\u04c0\u043a\u043c": "lIkm",
    "\u0442\u043d\u0432\u0433\u0417\u0437": "thbr33",
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c": "ABEZHIKM",  # Greek
    "\u039d\u039f\u03a1\u03a4": "NOPT",
    "\u03a5\u03a7\u03bf\u03b1\u03bd\u03c1\u03c5\u03b9": "YXoavpui",
    "\u03ba\u03c4\u03f2\u03f3": "ktcj",
    "\u03b5\u03b3\u03c7\u03b7\u03c9": "eyxnw",
    "\u0585\u057d\u054f\u0570\u0566\u0581\u053c\u0578": "ouShqgLn",  # Armenian
    "\u13aa\u13f4\u13df\u13a0\u13ac\u13c0\u13bb\u13ab": "ABCDEGHJ",  # Cherokee
    "\u13e6\u13de\u13b7\u13e2": "KLMP",
    "\u13d2\u13da\u13a2\u13d9\u13d4\u13c3": "RSTVWZ",
    "\ua4d0\ua4d1\ua4d3\ua4d4\ua4d6\ua4d7\ua4d9\ua4da": "BPDTGKJC",  # Lisu
    "\ua4dc\ua4dd\ua4df\ua4e0": "ZFMN",
    "\ua4e1\ua4e2\ua4e3\ua4e6\ua4e7\ua4ea\ua4eb\ua4ec": "LSRVHWXY",
    "\ua4ee\ua4f0\ua4f2\ua4f3": "AEIO",
    "\ua4f4": "U",
    "\u0131\u0251\u0261\u1d00\u0299\u1d04\u1d05\u1d07": "iagabcde",  # Phonetic
    "\u0262\u029c\u026a\u1d0a": "ghij",
    "\u1d0b\u029f\u1d0d\u0274\u1d0f\u1d18\u0280\ua731": "klmnoprs",
    "\u1d1b\u1d1c\u1d20\u1d21": "tuvw",
    "\u028f\u1d22": "yz",
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2212": "-------",  # Dashes
}
LAST_LETTERS: Final = 0x20000
"""Behind it there are only ideographs, tags and private use; a search costs 100 ms a start."""
_DIGITS: Final = {
    code: str(unicodedata.digit(character))
    for code in range(0x80, LAST_LETTERS)
    if unicodedata.category(character := chr(code)) == "Nd"
}
_BYTE: Final = "\\x{:02x}".format
_DIGIT: Final = "|".join(
    "".join(map(_BYTE, before)) + "[" + "".join(_BYTE(one[-1]) for one in digits) + "]"
    for before, digits in groupby((chr(code).encode() for code in _DIGITS), lambda one: one[:-1])
)
"""One digit of any script, in UTF-8."""
_MARKS: Final = dict.fromkeys(map(chr, range(0x300, 0x370)), "")
_TABLE: Final = (
    {one: latin for own, latins in _LATIN.items() for one, latin in zip(own, latins, strict=True)}
    | {chr(code): digit for code, digit in _DIGITS.items()}
    | _MARKS
)
_CHARACTERS: Final = frozenset(_TABLE)
SLICE_CHUNKS: Final = 8
"""Chunks read between two interruptions: 0.2 ms, or 1.5 of nothing but different look-alikes."""

# In UTF-8, since the built-in expressions match bytes: a character of the table beside a Latin
# letter or digit; a digit of another script beside a Latin one; or four such digits.
_FOREIGN: Final = (
    r"(?:\xc4\xb1|[\xc9\xca\xcc-\xd6][\x80-\xbf]|\xe1[\x8e\x8f\xb4][\x80-\xbf]"
    r"|\xea[\x93\x9c][\x80-\xbf]|\xe2\x80[\x90-\x95]|\xe2\x88\x92)"
)
_LIKELY: Final = compile_re2(
    Expression(
        rf"[0-9A-Za-z]{_FOREIGN}|{_FOREIGN}[0-9A-Za-z]"
        rf"|[0-9][ -]?(?:{_DIGIT})|(?:{_DIGIT})[ -]?[0-9]|(?:(?:{_DIGIT})[ -]?){{4}}"
    )
)


class LookAlikesDecoder(Decoder):
    """Replaces characters that look like Latin letters and digits, as in Cyrillic or Greek."""

    ascii = False

    @override
    def applies(self, content: bytes) -> bool:
        return not content.isascii() and (len(content) > WINDOW_BYTES or occurs(_LIKELY, content))

    @override
    def read(self, view: TextView) -> Cooperative[tuple[TextView, ...]]:
        """Read the chunks with a look-alike in a Latin word or number, and one on either side.

        The chunks behind the header of a private key are read as well.
        """
        chunks: list[str] = []
        for some in chunks_of(view.content):
            chunks += some
            yield
        wanted: set[int] = set()
        before = ""
        for index, chunk in enumerate(chunks):
            if not chunk.isascii() and occurs(_LIKELY, (before + chunk).encode()):
                wanted |= {index - 1, index, index + 1}
            before = chunk[-1:]
            if not index % SLICE_CHUNKS:
                yield
        if not wanted:
            return ()
        originals: list[int] = []
        changed: list[bytes] = []
        for index, chunk in enumerate(chunks):
            originals.append(len(chunk.encode()))
            changed.append(_read(chunk).encode() if index in wanted else SEPARATOR)
            if begins_key(b"".join(changed[-2:])):
                wanted.update(range(index, index + KEY_BYTES // CHUNK_CHARACTERS + 2))
            if not index % SLICE_CHUNKS:
                yield
        above = ChunkedMap(view.content, _table, changed=changed, lengths=originals)
        kinds = frozenset({ViewKind.LOOK_ALIKE, ViewKind.FOLDED})
        content = b"".join(changed)
        return (
            TextView(view.part, kinds, content, view.length, ComposedMap(above, view.offsets)),
        )


def _read(chunk: str) -> str:
    # One character after another: few differ in a chunk, and `translate` looks up each in turn.
    for one in _CHARACTERS.intersection(chunk):
        chunk = chunk.replace(one, _TABLE[one])
    return chunk


def _table(text: str) -> TableMap:
    """Map by characters; only a match across a chunk that was left out asks for its map."""
    return TableMap(
        [len(_TABLE.get(character, character).encode()) for character in text],
        [len(character.encode()) for character in text],
    )


LOOK_ALIKES: Final = LookAlikesDecoder()
