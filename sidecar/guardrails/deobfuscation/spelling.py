"""Undoes spaced-out letters and leetspeak."""

from __future__ import annotations

import re
from typing import Final

from typing_extensions import override

from sidecar.guardrails.cooperative import Cooperative
from sidecar.guardrails.deobfuscation.decoder import Decoder, matches, replace_runs
from sidecar.guardrails.matching.rule import Expression, compile_re2
from sidecar.guardrails.matching.text_views import TextView, ViewKind

_RUN: Final = re.compile(
    rb"(?<![0-9A-Za-z])[0-9A-Za-z]([ ._*|/,-])[0-9A-Za-z]\1(?:[!-~]\1){4,}[!-~](?![0-9A-Za-z])"
)

_SHORTEST: Final = 13
_LEAST: Final = 16
"""Bytes of a run that are enough to recognise it, with the one behind it."""
_LIKELY: Final = compile_re2(
    Expression(r"\b[0-9A-Za-z][ ._*|/,-][0-9A-Za-z][ ._*|/,-](?:[!-~][ ._*|/,-]){4}[!-~]")
)


class SpacingDecoder(Decoder):
    """Joins letters that are spaced out, as in `s e c r e t`."""

    # Three in a row cost the pass over a text next to nothing; all seven would cost half of it.
    trigger: Expression | None = Expression(
        r"[ ._*|/,-][0-9A-Za-z][ ._*|/,-][0-9A-Za-z][ ._*|/,-][0-9A-Za-z][ ._*|/,-]"
    )

    @override
    def applies(self, content: bytes) -> bool:
        return len(content) >= _SHORTEST

    @override
    def read(self, view: TextView) -> Cooperative[tuple[TextView, ...]]:
        found = matches(_RUN, view.content, least=_LEAST, likely=_LIKELY)
        return replace_runs(view, found, lambda run: run[::2], ViewKind.UNSPACED)


SPACING: Final = SpacingDecoder()

_SIGN: Final = re.compile(rb"[0134578@$!|]")
_LETTER: Final = re.compile(rb"[A-Za-z]")
_TABLES: Final = tuple(  # a one is an i or an l
    bytes.maketrans(b"0345789@$1!|", b"oeastbgas" + letter * 3) for letter in (b"i", b"l")
)
_LEET_KIND: Final = frozenset({ViewKind.LEET})


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
            found.append(view._replace(kinds=_LEET_KIND, content=changed, accepts=has_letter))
            yield
        return tuple(found)


LEET: Final = LeetDecoder()
