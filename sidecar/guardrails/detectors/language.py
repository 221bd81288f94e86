"""The `language` guardrail: which language a text is written in."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import compress, pairwise
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from sidecar.domain.cooperative import Cooperative
from sidecar.domain.finding import GuardrailResult
from sidecar.domain.subject import TextPart
from sidecar.guardrails.detectors.whole_text import Texts, WholeTextCheck, whole_parts

if TYPE_CHECKING:
    from numpy import float32, intp
    from numpy.typing import NDArray

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
WINDOWS_AT_ONCE: Final = 64
"""Windows whose middles are judged together: some 1 ms. Fewer of them if they are judged whole."""
MIN_LETTERS: Final = 20
MIN_MARGIN: Final = 0.5
"""Minimum log-likelihood margin per letter of a foreign language over every allowed one.

A sentence of another language has 0.9 and more, English with code, names or a quotation in it 0.1
and less.
"""

_NO_LANGUAGE: Final = "zxx"
SHORT_BYTES: Final = 512
"""So much text is read byte by byte: numpy's steps would take longer."""
_LANE_BYTES: Final = 32
"""Texts are read in pieces of this length side by side: numpy takes as long for one as for ten."""
_FEATURE_BYTES: Final = 6
"""Length of the longest feature of the model: so many bytes before a piece are read as well."""
_NO_TEXT: Final = b"\xff"
"""A byte that is not in UTF-8. No feature has it, so it parts texts."""
_FRACTION: Final = 512
"""The model's weights are multiples of 1/512: 16-bit floats between -15 and -2."""


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
            _model()

    @override
    def judge(
        self, parts: Sequence[TextPart], texts: Texts, passing: GuardrailResult
    ) -> Cooperative[GuardrailResult]:
        foreign: dict[int, str] = {}
        for batch in _batches(parts):
            suspects = self._are_foreign([sample for _, _, sample in batch])
            for index, window, sample in compress(batch, suspects):
                if index in foreign:
                    continue
                if sample is not window:
                    yield
                if sample is window or self._are_foreign([window])[0]:
                    foreign[index] = "LANGUAGE"
            yield
        return whole_parts(parts, foreign, passing) if foreign else passing

    def _are_foreign(self, texts: Sequence[str]) -> list[bool]:
        """Return of each text whether another language is clearly likelier than all allowed."""
        letters = [sum(map(str.isalpha, text)) for text in texts]
        judged = [text for text, count in zip(texts, letters, strict=True) if count >= MIN_LETTERS]
        margins = iter(_model().margins(judged, self.allowed) if judged else ())
        return [count >= MIN_LETTERS and next(margins) > MIN_MARGIN * count for count in letters]


class LanguageModel:
    """py3langid's naive Bayes model, applied to many texts at once.

    An automaton finds the features of a text, which are runs of bytes; each has a weight for each
    language. py3langid itself takes one text at a time and reads it byte by byte in Python, which
    for the windows of a long conversation takes several times as long.

    Raises:
        ModelMissingError: py3langid is not installed.
    """

    def __init__(self) -> None:
        try:
            import numpy as np  # noqa: PLC0415 - an extra, and 80 MB
            from py3langid import langid  # noqa: PLC0415
        except ImportError:
            raise ModelMissingError from None
        model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
        self.names: list[str] = model.nb_classes
        # One has two columns, one for each of its scripts.
        self._columns = {
            name: [column for column, other in enumerate(self.names) if other == name]
            for name in self.names
        }
        self._encode = model._encode  # noqa: SLF001 - NFC, and capitals alone in lower case
        self._visit_counts = langid.visit_counts
        self._np = np
        self._priors = model.nb_pc
        # numpy converts 16-bit floats one by one, and integers many at a time.
        self._weights = (model.nb_ptc * np.float16(_FRACTION)).astype(np.int16)
        # Lists of a hundred thousand numbers lie all over the memory: with cold caches, as between
        # two requests, reading takes a third less time with arrays.
        rows = array("I", [row << 8 for row in model.tk_row])
        self._tables = model.tk_nextmove, rows, array("i", model.tk_output)
        self._moves, _, self._features = map(np.asarray, self._tables)
        self._rows = np.asarray(rows, np.intp)

    def margins(self, texts: Sequence[str], allowed: Sequence[str]) -> list[float]:
        """Return by how much another language is likelier than all *allowed* ones, of each text.

        In natural logarithms; 0 if one of them is the likeliest, or if the text is in none.
        """
        scores = self.scores(texts)
        own = [column for name in allowed for column in self._columns[name]]
        margins = scores.max(axis=1) - scores[:, own].max(axis=1)
        margins[scores.argmax(axis=1) == self._columns[_NO_LANGUAGE]] = 0
        return list(map(float, margins))

    def scores(self, texts: Sequence[str]) -> NDArray[float32]:
        """Return the log-likelihoods of `names` in a row for each text, 0 if it has no feature."""
        np = self._np
        pairs, counts = self._features_of([self._encode(text) for text in texts])
        numbers, features = np.divmod(pairs, len(self._weights))
        counted = np.log1p(counts, dtype=np.float32) / np.float32(_FRACTION)
        ends = np.searchsorted(numbers, range(len(texts) + 1)).tolist()
        scores: NDArray[float32] = np.zeros((len(texts), len(self.names)), np.float32)
        for number, (start, end) in enumerate(pairwise(ends)):
            if start < end:
                weights = self._weights.take(features[start:end], axis=0).astype(np.float32)
                # Not a product of matrices, for which numpy starts threads.
                sums = np.einsum("f,fn->n", counted[start:end], weights)
                scores[number] = sums + self._priors
        return scores

    def _features_of(self, texts: Sequence[bytes]) -> tuple[NDArray[intp], NDArray[intp]]:
        """Return the features of all texts in their order, and how often each has each.

        The number of a text times that of all features is added to each of its own.
        """
        np, size = self._np, len(self._weights)
        joined = _NO_TEXT.join(texts)
        if len(joined) <= SHORT_BYTES:
            found = [self._visit_counts(*self._tables, text) or {} for text in texts]
            pairs = [number * size + one for number, counts in enumerate(found) for one in counts]
            return np.array(pairs, np.intp), np.array(
                [count for counts in found for count in counts.values()], np.intp
            )
        lanes = len(joined) // _LANE_BYTES + 1
        padded = _NO_TEXT * _FEATURE_BYTES + joined.ljust(lanes * _LANE_BYTES, _NO_TEXT)
        # A column for each piece, which overlap. `sliding_window_view` takes three times as long,
        # which is a fifth of the work on one message.
        columns = np.ndarray(
            (_FEATURE_BYTES + _LANE_BYTES, lanes), np.uint8, padded, strides=(1, _LANE_BYTES)
        )
        state = np.zeros(lanes, np.intp)
        states = []
        for letters in columns.astype(np.intp, order="C"):
            state = self._moves.take(self._rows.take(state) + letters)
            states.append(state)
        # A state depends on the last bytes only, as many as the longest feature has.
        features = self._features.take(np.array(states[_FEATURE_BYTES:]).T.ravel())
        places = np.flatnonzero(features >= 0)
        ends = np.cumsum([len(text) + 1 for text in texts])
        numbers = np.searchsorted(ends, places, "right")
        unique: tuple[NDArray[intp], NDArray[intp]] = np.unique(
            numbers * size + features[places], return_counts=True
        )
        return unique


@cache
def _model() -> LanguageModel:
    return LanguageModel()


def _batches(parts: Sequence[TextPart]) -> Iterator[list[tuple[int, str, str]]]:
    """Yield windows that are judged together, with the index of their part and their sample.

    The sample is the middle of a window, or all of it if the middle has few letters.
    """
    batch: list[tuple[int, str, str]] = []
    characters = 0
    for index, part in enumerate(parts):
        for window in _windows(part.content):
            start = max(len(window) - SAMPLE_CHARACTERS, 0) // 2
            sample = window[start : start + SAMPLE_CHARACTERS]
            if sum(map(str.isalpha, sample)) < MIN_LETTERS:
                sample = window
            batch.append((index, window, sample))
            characters += len(sample)
            if len(batch) == WINDOWS_AT_ONCE or characters >= WINDOWS_AT_ONCE * SAMPLE_CHARACTERS:
                yield batch
                batch, characters = [], 0
    yield batch


def _windows(content: bytes) -> Iterator[str]:
    """Yield the windows to judge: all of a text, or evenly spaced ones of a long text."""
    if len(content) <= MAX_WINDOWS * WINDOW_CHARACTERS:
        text = content.decode("utf-8", "ignore")
        for start in range(0, len(text), WINDOW_CHARACTERS):
            yield text[start : start + WINDOW_CHARACTERS]
        return
    last = len(content) - WINDOW_CHARACTERS  # in bytes: the text is not decoded as a whole
    most = 4 * WINDOW_CHARACTERS
    for number in range(MAX_WINDOWS):
        start = last * number // (MAX_WINDOWS - 1)
        yield content[start : start + most].decode("utf-8", "ignore")[:WINDOW_CHARACTERS]
