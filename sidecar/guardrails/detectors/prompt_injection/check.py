"""The `prompt_injection` guardrail as a check over whole texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from typing_extensions import override

from sidecar.domain.finding import Finding, Found
from sidecar.domain.guardrail_settings import InjectionKind, PromptInjectionSettings, Threshold
from sidecar.guardrails.cooperative import Cooperative
from sidecar.guardrails.deobfuscation.decoders import TRIGGERS
from sidecar.guardrails.detectors.prompt_injection.scoring import RunningSum, Scorer, score
from sidecar.guardrails.detectors.whole_text import ScannedTexts, WholeTextCheck
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.matching.text_views import ASCII_VIEWS, TextView, ViewKind

INDIRECT_ROLES: Final = frozenset({"tool", "function"})
"""Roles of text that no user wrote: results of tools, and documents."""

SYSTEM_ROLES: Final = frozenset(
    {"system", "developer", "instructions", "systemInstruction", "system_instruction"}
)
"""Such text consists of rules for the model, so it takes more to be an attack.

It is itself the instructions to override and the prompt to extract: only a jailbreak counts.
"""

_SYSTEM_KINDS: Final = frozenset({InjectionKind.JAILBREAK})

_WORTH_READING: Final = frozenset(ViewKind) - {ViewKind.RAW, ViewKind.FOLDED}
"""Forms other than the part's own; words are without case anyway."""

_PARTS_A_STEP: Final = 32


@dataclass(frozen=True, slots=True)
class _Cutoff:
    """The thresholds of a sum: `least` makes a finding, `medium` a score of one half.

    `without_terms` is the score of most texts.
    """

    least: int
    medium: int
    without_terms: float


class PromptInjectionCheck(WholeTextCheck):
    """A text whose best passage reaches its role's threshold is the finding, whole."""

    def __init__(self, settings: PromptInjectionSettings, scorer: Scorer) -> None:
        self._scorer = scorer
        self._chosen = frozenset(settings.kinds or InjectionKind)
        model, level, indirect = scorer.model, settings.threshold, settings.indirect_threshold
        self._cutoff = _cutoff(model.thresholds, level)
        self._cutoffs = dict.fromkeys(INDIRECT_ROLES, _cutoff(model.thresholds, indirect))
        self._cutoffs |= dict.fromkeys(SYSTEM_ROLES, _cutoff(model.system_thresholds, level))

    @property
    @override
    def expressions(self) -> tuple[Expression, ...]:
        # Signs of hidden text, which is read then; terms have a database of their own, of words.
        return TRIGGERS

    @override
    def load(self) -> None:
        self._scorer.load()

    @override
    def judge(self, texts: ScannedTexts, *, guardrail: str) -> Found | Cooperative[Found]:
        if texts.joined is None:
            return self._judge_in_turns(texts, guardrail)
        sums = self._scorer.sums_of_joined(texts.joined, len(texts.parts))
        findings: dict[int, Finding] = {}
        highest = self._weigh(texts, texts.views, sums, guardrail, findings)
        return Found(tuple(findings.values()), round(highest, 4))

    def _judge_in_turns(self, texts: ScannedTexts, guardrail: str) -> Cooperative[Found]:
        findings: dict[int, Finding] = {}
        highest = 0.0
        views = _views_to_judge(texts)
        while some := tuple(islice(views, _PARTS_A_STEP)):
            sums = yield from self._scorer.sums([view.content for view in some])
            highest = max(highest, self._weigh(texts, some, sums, guardrail, findings))
            if len(some) == _PARTS_A_STEP:
                yield
        return Found(tuple(findings[part] for part in sorted(findings)), round(highest, 4))

    def _weigh(
        self,
        texts: ScannedTexts,
        views: Sequence[TextView],
        sums: Sequence[RunningSum],
        guardrail: str,
        findings: dict[int, Finding],
    ) -> float:
        """Add the parts whose sum reaches their role's threshold; return the highest score."""
        highest = 0.0
        for view, sum_ in zip(views, sums, strict=True):
            role, total = texts.parts[view.part].role, sum_.total
            cutoff = self._cutoffs.get(role, self._cutoff)
            highest = max(highest, score(total, cutoff.medium) if total else cutoff.without_terms)
            if total >= cutoff.least and view.part not in findings:
                kinds = sum_.best().kinds
                if kinds and ViewKind.DECODED in view.kinds:
                    kinds = (InjectionKind.ENCODED_PAYLOAD, *kinds)
                counting = self._chosen & _SYSTEM_KINDS if role in SYSTEM_ROLES else self._chosen
                kind = next((kind for kind in kinds if kind in counting), None)  # the foremost
                if kind is not None:
                    type_ = kind.value.upper()
                    if role in INDIRECT_ROLES:
                        type_ = f"INDIRECT_{type_}"
                    findings[view.part] = texts.whole_part(view.part, type_, guardrail=guardrail)
        return highest


def _cutoff(thresholds: Mapping[Threshold, int], level: Threshold) -> _Cutoff:
    medium = thresholds[Threshold.MEDIUM]
    return _Cutoff(thresholds[level], medium, score(0, medium))


def _views_to_judge(texts: ScannedTexts) -> Iterator[TextView]:
    """Yield each part once, in its plain form if that is another, and the text hidden in it."""
    plain = {
        view.part
        for view in texts.views
        if view.kinds is not ASCII_VIEWS and ViewKind.PLAIN in view.kinds
    }
    for view in texts.views:
        if (
            view.kinds is ASCII_VIEWS  # mostly; an enum's members are slow to look up
            or not view.kinds.isdisjoint(_WORTH_READING)
            or (ViewKind.RAW in view.kinds and view.part not in plain)
        ):
            yield view
