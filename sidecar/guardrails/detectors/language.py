"""The `language` guardrail: which language a text is written in."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from typing_extensions import override

from sidecar.domain.cooperative import Cooperative
from sidecar.domain.finding import GuardrailResult
from sidecar.domain.subject import TextPart
from sidecar.guardrails.detectors.whole_text import Texts, WholeTextCheck, whole_parts

_CODES: Final = (
    "af am an ar as az ba be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr"
    " fy ga gd gl gu ha he hi hr ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lg"
    " ln lo lt lv mg mk ml mn mr ms mt my ne nl nn no oc om or pa pl ps pt qu ro ru rw sa"
    " se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz vi vo wa xh yo"
    " zh zu"
)
LANGUAGES: Final = frozenset(_CODES.split())
"""The languages that the model distinguishes, by ISO 639-1."""

WINDOW_CHARACTERS: Final = 1_000
"""Text judged at a time."""
SAMPLE_CHARACTERS: Final = 160
"""The middle of a window, which is judged first: the rest is only if the middle is foreign.

The time grows with the text, and most text is in an allowed language.
"""
MAX_WINDOWS: Final = 8
"""Windows of one text that are judged, the first and the last among them."""
MIN_LETTERS: Final = 20
MIN_MARGIN: Final = 0.5
"""By how much a letter a foreign language must be likelier than every allowed one (natural log).

A sentence of another language has 0.9 and more, English with code, names or a quotation in it 0.1
and less.
"""

_NO_LANGUAGE: Final = "zxx"


class ModelMissingError(Exception):
    """The package with the model is not installed: extra `language`."""


@dataclass(frozen=True, slots=True)
class LanguageCheck(WholeTextCheck):
    """Judges each part by itself; a part with a window in another language is the finding."""

    allowed: tuple[str, ...]

    @override
    def load(self) -> None:
        # Half a second and 80 MB. If it is not installed, judging raises.
        with contextlib.suppress(ModelMissingError):
            _identifier()

    @override
    def judge(
        self, parts: Sequence[TextPart], texts: Texts, passing: GuardrailResult
    ) -> Cooperative[GuardrailResult]:
        foreign: dict[int, str] = {}
        for index, part in enumerate(parts):
            for window in _windows(part.content):
                start = (len(window) - SAMPLE_CHARACTERS) // 2
                middle = window[start : start + SAMPLE_CHARACTERS] if start > 0 else window
                if sum(map(str.isalpha, middle)) < MIN_LETTERS:
                    middle = window
                if self._is_foreign(middle) and (middle is window or self._is_foreign(window)):
                    foreign[index] = "LANGUAGE"
                    break
                yield
        return whole_parts(parts, foreign, passing) if foreign else passing

    def _is_foreign(self, text: str) -> bool:
        letters = sum(map(str.isalpha, text))
        if letters < MIN_LETTERS:
            return False
        likeliest, score = _identifier().classify(text)
        if likeliest == _NO_LANGUAGE or likeliest in self.allowed:
            return False
        scores: dict[str, float] = dict(_identifier().rank(text))
        margin: float = score - max(scores[one] for one in self.allowed)
        return margin > MIN_MARGIN * letters


@cache
def _identifier() -> Any:
    try:
        from py3langid import langid  # noqa: PLC0415 - an extra, and 80 MB
    except ImportError:
        raise ModelMissingError from None
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    # Lists of a hundred thousand numbers lie all over the memory: with cold caches, as between
    # two requests, a classification takes a third less time with arrays.
    identifier.tk_output = array("i", identifier.tk_output)
    identifier._rowbase = array("I", identifier._rowbase)  # noqa: SLF001 - made of `tk_row`
    return identifier


def _windows(content: bytes) -> Iterator[str]:
    """Yield the windows to judge: all of a text, or evenly spaced ones of a long text."""
    most = 4 * WINDOW_CHARACTERS  # bytes
    if len(content) <= MAX_WINDOWS * WINDOW_CHARACTERS:
        starts: Sequence[int] = range(0, len(content), WINDOW_CHARACTERS)
    else:
        last = len(content) - WINDOW_CHARACTERS
        starts = [last * number // (MAX_WINDOWS - 1) for number in range(MAX_WINDOWS)]
    for start in starts:
        text = content[start : start + most].decode("utf-8", "ignore")
        yield text[:WINDOW_CHARACTERS]
