"""Attempts to override a model's instructions, scored text by text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from typing_extensions import override

from sidecar.domain.finding import Finding
from sidecar.domain.local_guardrails import InjectionKind, PromptInjectionSettings, Threshold
from sidecar.guardrails.outcomes import Found
from sidecar.guardrails.prompt_injection.scoring import Scorer, Stretch, score
from sidecar.guardrails.readings.catalogue import TRIGGERS
from sidecar.guardrails.rules.rule import Expression
from sidecar.guardrails.slices import Steps
from sidecar.guardrails.text_views import Piece, View
from sidecar.guardrails.whole_text.check import Scanned, WholeTextCheck

INDIRECT_ROLES: Final = frozenset({"tool", "function"})
"""What no user wrote: results of tools, and documents."""

SYSTEM_ROLES: Final = frozenset(
    {"system", "developer", "instructions", "systemInstruction", "system_instruction"}
)
"""Rules for the model are what such text is about, so it takes more to be an attack.

It has nobody's instructions to override and is the prompt to extract: only a jailbreak counts.
"""

_SYSTEM_KINDS: Final = frozenset({InjectionKind.JAILBREAK})

_WORTH_READING: Final = frozenset(View) - {View.RAW, View.FOLDED}
"""Forms other than the part's own; words are without case anyway."""

_PARTS_A_STEP: Final = 32


@dataclass(frozen=True, slots=True)
class PromptInjectionCheck(WholeTextCheck):
    """A text whose best stretch reaches its role's threshold is the finding, whole."""

    settings: PromptInjectionSettings
    scorer: Scorer

    @property
    @override
    def expressions(self) -> tuple[Expression, ...]:
        # Signs of hidden text, which is read then; terms have a database of their own, of words.
        return TRIGGERS

    @override
    def judge(self, scanned: Scanned) -> Steps[Found]:
        findings: dict[int, Finding] = {}
        highest = 0.0
        for number, piece in enumerate(_readings(scanned), start=1):
            if not number % _PARTS_A_STEP:
                yield
            role = scanned.parts[piece.part].role
            thresholds = self._thresholds(role)
            least = thresholds[self._level(role)]
            stretch = yield from self.scorer.stretch(piece.content, least=least)
            highest = max(highest, score(stretch.total, thresholds[Threshold.MEDIUM]))
            if stretch.total >= least:
                if View.DECODED in piece.views and stretch.kinds:
                    kinds = (InjectionKind.ENCODED_PAYLOAD, *stretch.kinds)
                    stretch = replace(stretch, kinds=kinds)
                kind = self._kind(stretch, role)
                if kind is not None and piece.part not in findings:
                    findings[piece.part] = scanned.whole_part(piece.part, _type(kind, role))
        return Found(tuple(findings[part] for part in sorted(findings)), round(highest, 4))

    def _thresholds(self, role: str) -> Mapping[Threshold, int]:
        model = self.scorer.model
        return model.system_thresholds if role in SYSTEM_ROLES else model.thresholds

    def _level(self, role: str) -> Threshold:
        settings = self.settings
        return settings.indirect_threshold if role in INDIRECT_ROLES else settings.threshold

    def _kind(self, stretch: Stretch, role: str) -> InjectionKind | None:
        """Return the foremost kind that counts here, if one does."""
        chosen = frozenset(self.settings.kinds or InjectionKind)
        counting = chosen & _SYSTEM_KINDS if role in SYSTEM_ROLES else chosen
        return next((kind for kind in stretch.kinds if kind in counting), None)


def _readings(scanned: Scanned) -> Iterator[Piece]:
    """Return each part once, in its plain form where that is another, and what is hidden in it."""
    plain = {piece.part for piece in scanned.pieces if View.PLAIN in piece.views}
    for piece in scanned.pieces:
        if not piece.views.isdisjoint(_WORTH_READING) or (
            View.RAW in piece.views and piece.part not in plain
        ):
            yield piece


def _type(kind: InjectionKind, role: str) -> str:
    name = kind.value.upper()
    return f"INDIRECT_{name}" if role in INDIRECT_ROLES else name
