"""The most text of one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from sidecar.guardrails.outcomes import NOTHING, Found
from sidecar.guardrails.rules.rule import Expression
from sidecar.guardrails.slices import SLICE_BYTES, Steps
from sidecar.guardrails.whole_text.check import Scanned, WholeTextCheck

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
    def judge(self, scanned: Scanned) -> Steps[Found]:
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
