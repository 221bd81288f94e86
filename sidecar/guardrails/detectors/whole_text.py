"""Checks over all texts of a request: size and token limits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple, Protocol

from typing_extensions import override

from sidecar.domain.finding import NOTHING, Finding, Found
from sidecar.domain.subject import TextPart
from sidecar.guardrails.cooperative import SLICE_BYTES, Cooperative
from sidecar.guardrails.matching.database import Hits
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.matching.text_views import TextView


class ScannedTexts(NamedTuple):
    """The texts of one request after the one pass over them.

    `views` are the parts in the order they were scanned; a part that is not plain ASCII has
    several. `ends` has the end of each view, its separator included. `hits` are the database's.
    `joined` are all parts with separators between them if they are short plain ASCII, which has
    one view a part and hides nothing; it is None otherwise.
    """

    parts: Sequence[TextPart]
    views: Sequence[TextView]
    ends: Sequence[int]
    hits: Hits
    joined: bytes | None = None

    def whole_part(self, part: int, type_: str, *, guardrail: str) -> Finding:
        """Return all of a part as a finding."""
        return Finding(guardrail, type_, part, 0, len(self.parts[part].content))


class WholeTextCheck(Protocol):
    """Judges the texts of one request together; built once a policy, so keeps nothing of them."""

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Expressions for the shared database to look for."""
        return ()

    def load(self) -> None:
        """Read large tables before the first text, once a process."""
        return

    def judge(self, texts: ScannedTexts, *, guardrail: str) -> Found | Cooperative[Found]:
        """Return the findings, as spans of parts: at once if the texts are short.

        Work that takes longer yields at least every millisecond.
        """
        ...


_CONTINUATION: Final = bytes(range(0x80, 0xC0))
"""Bytes that are no character's first, in UTF-8."""


@dataclass(frozen=True, slots=True)
class MaxInputCheck(WholeTextCheck):
    """Counts characters over all parts; the part that goes over the limit is the finding."""

    max_characters: int

    @override
    def judge(self, texts: ScannedTexts, *, guardrail: str) -> Cooperative[Found]:
        characters = 0
        for index, part in enumerate(texts.parts):
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
                return Found((texts.whole_part(index, "MAX_INPUT", guardrail=guardrail),))
        return NOTHING


TOKEN_SLICE_BYTES: Final = 16_384
"""Text counted between two interruptions: half a millisecond at worst."""

_MAX_WORD: Final = 256


class VocabularyMissingError(Exception):
    """The package with the vocabulary is not installed: extra `tokens`."""


@dataclass(frozen=True, slots=True)
class MaxTokensCheck(WholeTextCheck):
    """Counts tokens over all parts; the part that goes over the limit is the finding.

    A token has a byte at least, so texts of no more bytes than the limit are not counted.
    """

    max_tokens: int

    @override
    def load(self) -> None:
        # Half a second and 65 MB. If it is not installed, judging raises.
        with contextlib.suppress(VocabularyMissingError):
            _counter()

    @override
    def judge(self, texts: ScannedTexts, *, guardrail: str) -> Cooperative[Found]:
        left = self.max_tokens
        if sum(len(part.content) for part in texts.parts) <= left:
            return NOTHING
        count = _counter()
        for index, part in enumerate(texts.parts):
            content, start = part.content, 0
            while start < len(content):
                # Cut before a space, which no token crosses; without one, a token may be cut.
                end = min(len(content), start + TOKEN_SLICE_BYTES)
                if end < len(content):
                    space = content.rfind(b" ", end - _MAX_WORD, end)
                    if space > start:
                        end = space
                    else:
                        while content[end] & 0xC0 == 0x80:  # noqa: PLR2004 - within a character, in UTF-8
                            end -= 1
                left -= count(content[start:end].decode())
                start = end
                if left < 0:
                    return Found((texts.whole_part(index, "MAX_TOKENS", guardrail=guardrail),))
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
