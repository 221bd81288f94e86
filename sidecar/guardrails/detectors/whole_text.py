"""Checks over all texts of a request: size and token limits."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

from typing_extensions import override

from sidecar.domain.finding import NOTHING, Finding, Found
from sidecar.domain.subject import TextPart
from sidecar.guardrails.cooperative import SLICE_BYTES, Cooperative
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.matching.text_views import TextView


@dataclass(frozen=True, slots=True)
class ScannedTexts:
    """The texts of one request after the one pass over them, for the guardrail of this name.

    `views` are the parts in their views, in the order they were scanned; a part that is not
    ASCII has several. `ends` has the end of each view, its separator included. `hits` has, by
    index into the check's own `expressions`, the ends of matches: the first one, or all of an
    expression that is `counted`.
    """

    guardrail: str
    parts: Sequence[TextPart]
    views: Sequence[TextView]
    ends: Sequence[int]
    hits: Mapping[int, Sequence[int]]

    def piece_at(self, end: int) -> TextView:
        """Return the view in which a match ends at *end*."""
        return self.views[min(bisect_right(self.ends, end), len(self.views) - 1)]

    def whole_part(self, part: int, type_: str) -> Finding:
        """Return all of a part as a finding."""
        return Finding(self.guardrail, type_, part, 0, len(self.parts[part].content))


class WholeTextCheck(Protocol):
    """Judges the texts of one request together; built once a policy, so keeps nothing of them."""

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """What the shared database looks for on its behalf."""
        ...

    def load(self) -> None:
        """Read what it judges by, if it is large: before the first text, and once a process."""
        return

    def judge(self, scanned: ScannedTexts) -> Cooperative[Found]:
        """Return what is found, as spans of parts; yield at least every millisecond of work."""
        ...


_CONTINUATION: Final = bytes(range(0x80, 0xC0))
"""Bytes that are no character's first, in UTF-8."""


@dataclass(frozen=True, slots=True)
class MaxInputCheck(WholeTextCheck):
    """Counts characters over all parts; the part that goes over the limit is the finding."""

    max_characters: int

    @property
    @override
    def expressions(self) -> tuple[Expression, ...]:
        return ()

    @override
    def judge(self, scanned: ScannedTexts) -> Cooperative[Found]:
        characters = 0
        for index, part in enumerate(scanned.parts):
            content = part.content
            if content.isascii():
                characters += len(content)
            else:
                for start in range(0, len(content), SLICE_BYTES):
                    if start:
                        yield
                    chunk = content[start : start + SLICE_BYTES]
                    characters += len(chunk.translate(None, _CONTINUATION))
            if characters > self.max_characters:
                return Found((scanned.whole_part(index, "MAX_INPUT"),))
        return NOTHING


TOKEN_SLICE_BYTES: Final = 16_384
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
    def judge(self, scanned: ScannedTexts) -> Cooperative[Found]:
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
        end = min(len(content), start + TOKEN_SLICE_BYTES)
        if end < len(content):
            space = content.rfind(b" ", end - _MAX_WORD, end)
            end = space if space > start else _boundary(content, end)
        yield content[start:end].decode()
        start = end


def _boundary(content: bytes, at: int) -> int:
    while content[at] & 0xC0 == 0x80:  # noqa: PLR2004 - within a character, in UTF-8
        at -= 1
    return at
