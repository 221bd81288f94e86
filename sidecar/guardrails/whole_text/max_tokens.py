"""The most tokens of one request, counted exactly: by the o200k vocabulary of OpenAI's models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from typing_extensions import override

from sidecar.guardrails.outcomes import NOTHING, Found
from sidecar.guardrails.rules.rule import Expression
from sidecar.guardrails.slices import Steps
from sidecar.guardrails.whole_text.check import Scanned, WholeTextCheck

SLICE_BYTES: Final = 16_384
"""Text counted between two interruptions: half a millisecond of the worst there is."""

_MAX_WORD: Final = 256


class VocabularyMissingError(Exception):
    """The package with the vocabulary is not installed: extra `tokens`."""


@dataclass(frozen=True, slots=True)
class MaxTokensCheck(WholeTextCheck):
    """Counts tokens over all parts; the part that goes over the limit is the finding.

    A token has a byte at least, so that what has no more bytes than the limit is not counted.
    """

    max_tokens: int

    @property
    @override
    def expressions(self) -> tuple[Expression, ...]:
        return ()

    @override
    def load(self) -> None:
        # Half a second and 65 MB. Where it is not installed, judging says so.
        with contextlib.suppress(VocabularyMissingError):
            _counter()

    @override
    def judge(self, scanned: Scanned) -> Steps[Found]:
        left = self.max_tokens
        if sum(len(part.content) for part in scanned.parts) <= left:
            return NOTHING
        count = _counter()
        for index, part in enumerate(scanned.parts):
            for text in _slices(part.content):
                left -= count(text)
                if left < 0:
                    return Found((scanned.whole_part(index, "MAX_TOKENS"),))
                yield
        return NOTHING


@cache
def _counter() -> Callable[[str], int]:
    try:
        import quicktok  # noqa: PLC0415 - an extra, and half a second to load
    except ImportError:
        raise VocabularyMissingError from None
    count: Callable[[str], int] = quicktok.get_encoding("o200k_base").count
    return count


def _slices(content: bytes) -> Iterator[str]:
    """Cut before a space, where no token goes across; in text without any, a token may be cut."""
    start = 0
    while start < len(content):
        end = min(len(content), start + SLICE_BYTES)
        if end < len(content):
            space = content.rfind(b" ", end - _MAX_WORD, end)
            end = space if space > start else _boundary(content, end)
        yield content[start:end].decode()
        start = end


def _boundary(content: bytes, at: int) -> int:
    while content[at] & 0xC0 == 0x80:  # noqa: PLR2004 - within a character, in UTF-8
        at -= 1
    return at
