"""Checks over all texts of a request: size and token limits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

from typing_extensions import override

from sidecar.domain.cooperative import SLICE_BYTES, Cooperative
from sidecar.domain.finding import LOCAL_VERDICTS, Finding, GuardrailResult, Verdict
from sidecar.domain.policy import Guardrail
from sidecar.domain.subject import TextPart
from sidecar.guardrails.matching.text_views import TextView

Texts = bytes | Sequence[TextView]
"""The views of all parts. If short texts have one view each, and hide nothing: then all parts in
one, with separators between them.
"""


class WholeTextCheck(Protocol):
    """Judges the texts of one request together; built once a policy, so keeps nothing of them."""

    @property
    def most(self) -> int | None:
        """The sum over all texts that it allows, which is no more than their bytes.

        None if each text is judged by itself.
        """
        return None

    @property
    def reads_views(self) -> bool:
        """Whether it reads the views of texts, and not only the texts as they stand."""
        return False

    def load(self) -> None:
        """Read large tables before the first text, once a process."""
        return

    def passing(self, guardrail: Guardrail) -> GuardrailResult:
        """Return the result of most texts, which all requests share."""
        return GuardrailResult(guardrail, Verdict.PASS)

    def judge(
        self, parts: Sequence[TextPart], texts: Texts, passing: GuardrailResult
    ) -> GuardrailResult | Cooperative[GuardrailResult]:
        """Return the result, with spans of *parts*, or *passing*: at once if they are short.

        Work that takes longer yields at least every millisecond.
        """
        ...


def whole_parts(
    parts: Sequence[TextPart],
    types: Mapping[int, str],
    passing: GuardrailResult,
    *,
    score: float | None = None,
) -> GuardrailResult:
    """Return a result whose findings are whole parts: those whose index has a type."""
    guardrail = passing.guardrail
    findings = tuple(
        Finding(guardrail.name, type_, index, 0, len(parts[index].content))
        for index, type_ in sorted(types.items())
    )
    return GuardrailResult(guardrail, LOCAL_VERDICTS[guardrail.action], findings, score=score)


_CONTINUATION: Final = bytes(range(0x80, 0xC0))
"""Bytes that are no character's first, in UTF-8."""


@dataclass(frozen=True, slots=True)
class MaxInputCheck(WholeTextCheck):
    """Counts characters over all parts; the part that goes over the limit is the finding."""

    max_characters: int

    @property
    @override
    def most(self) -> int:
        return self.max_characters

    @override
    def judge(
        self, parts: Sequence[TextPart], texts: Texts, passing: GuardrailResult
    ) -> Cooperative[GuardrailResult]:
        left = self.max_characters
        fewer: list[tuple[int, float]] = []
        for index, part in enumerate(parts):
            if part.repeats:
                continue
            content = part.content
            if content.isascii():
                left -= len(content)
            else:
                characters = 0
                for start in range(0, len(content), SLICE_BYTES):
                    if start:
                        yield
                    chunk = content[start : start + SLICE_BYTES]
                    characters += len(chunk.translate(None, _CONTINUATION))
                left -= characters
                fewer.append((index, characters - len(content)))
            if left < 0:
                return whole_parts(parts, {index: "MAX_INPUT"}, passing)
        return passing._replace(part_values=tuple(fewer)) if fewer else passing


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

    @property
    @override
    def most(self) -> int:
        return self.max_tokens

    @override
    def load(self) -> None:
        # Half a second and 65 MB. If it is not installed, judging raises.
        with contextlib.suppress(VocabularyMissingError):
            _counter()

    @override
    def judge(
        self, parts: Sequence[TextPart], texts: Texts, passing: GuardrailResult
    ) -> Cooperative[GuardrailResult]:
        left = self.max_tokens
        if sum(len(part.content) for part in parts) <= left:
            return passing
        count = _counter()
        fewer: list[tuple[int, float]] = []
        for index, part in enumerate(parts):
            if part.repeats:
                continue
            content, start, before = part.content, 0, left
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
                    return whole_parts(parts, {index: "MAX_TOKENS"}, passing)
                yield
            fewer.append((index, before - left - len(content)))
        return passing._replace(part_values=tuple(fewer))


@cache
def _counter() -> Callable[[str], int]:
    try:
        import quicktok  # noqa: PLC0415 - an extra, and half a second to load
    except ImportError:
        raise VocabularyMissingError from None
    count: Callable[[str], int] = quicktok.get_encoding("o200k_base").count
    return count
