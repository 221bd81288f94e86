"""`prompt_injection` on texts whose family no model has seen: the figures that aims go by.

Each family of sources, and each variant of a generator, is left out of the training in turn, and
judged by the model of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evaluation.intervals import Share
from evaluation.own import OwnDetector
from loadtest.results import Grid
from sidecar.domain.guardrail_settings import Threshold
from sidecar.guardrails.detectors.prompt_injection.model import Bars
from sidecar.guardrails.detectors.prompt_injection.scoring import score
from training.occurrences import author_of, bucket_of
from training.samples import Kind, Label, Sample, Split

HOME: Final = Path(__file__).parent
LEVEL: Final = Threshold.MEDIUM
INDEPENDENT: Final = "independent"
LANGUAGES: Final = ("de", "fr", "es", "pt", "zh", "ja", "ar", "ru")
LENGTHS: Final = {
    "under 1 KB": 1024,
    "1 to 4 KB": 4096,
    "4 to 16 KB": 16384,
    "above 16 KB": math.inf,
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """A text, the thresholds at which it is flagged, and its score."""

    sample: Sample
    levels: frozenset[Threshold]
    score: float

    @property
    def found(self) -> bool:
        """Whether it is flagged at the threshold that policies have unless they name another."""
        return LEVEL in self.levels


Slice = tuple[str, bool, Callable[[Sample], bool]]
"""A name, whether it is of attacks, and the texts that it holds."""


def independent() -> Iterator[Sample]:
    """Return attacks and harmless texts that were written for measuring alone."""
    for name in ("attacks", "harmless"):
        path = HOME / "independent" / f"{name}.tsv"
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                kind, language, role, text = line.split("\t")
                yield Sample(
                    text.replace("\\n", "\n"),
                    Label(kind) if name == "attacks" else Label.BENIGN,
                    INDEPENDENT,
                    Split.TEST,
                    role,
                    language,
                    Kind.PROMPT if name == "attacks" else Kind(kind),
                    INDEPENDENT,
                )


def judged_unseen(
    samples: Sequence[Sample], sums: Mapping[int, int], bars: Mapping[tuple[str, Threshold], Bars]
) -> tuple[Judgement, ...]:
    """Judge each text by its sum, which is of a model that its family had no part in.

    The bars come from the sums of all harmless texts. So the shares of these are where the bars
    were put; the shares of attacks are the result.
    """
    return tuple(_judged(bars, samples[one], total) for one, total in sums.items())


def _judged(bars: Mapping[tuple[str, Threshold], Bars], sample: Sample, total: int) -> Judgement:
    author, bucket = author_of(sample), bucket_of(len(sample.text.encode("utf-8", "replace")))
    levels = frozenset(level for level in Threshold if total >= bars[author, level][bucket])
    return Judgement(sample, levels, score(total, bars[author, Threshold.MEDIUM][bucket]))


def judged_shipped(
    samples: Sequence[Sample], levels: Sequence[Threshold] = (LEVEL,)
) -> tuple[Judgement, ...]:
    """Judge *samples* by the shipped guardrail at these thresholds."""
    detectors = {
        level: OwnDetector(f"type: prompt_injection, threshold: {level.value}") for level in levels
    }
    judged: list[Judgement] = []
    for sample in samples:
        own = {level: one.judge(sample.text, role=sample.role) for level, one in detectors.items()}
        found = frozenset(level for level, one in own.items() if one.findings)
        judged.append(Judgement(sample, found, own[levels[0]].score))
    return tuple(judged)


def slices() -> Iterator[Slice]:
    """Return the kinds, languages, roles and lengths that are reported."""
    for label in Label:
        if label is not Label.BENIGN:
            yield label.value, True, lambda one, label=label: one.label is label  # type: ignore[misc]  # the default binds the loop's value
    for language in LANGUAGES:
        yield (
            f"overrides in {language}", True,
            lambda one, language=language: (one.label, one.language) == (Label.OVERRIDE, language),  # type: ignore[misc]  # as above
        )  # fmt: skip
    for is_attack, word in ((True, "attacks"), (False, "harmless")):
        for role in ("user", "tool", "system")[: 2 if is_attack else 3]:
            yield f"{word}, role {role}", is_attack, _of_role(role)
        for at, length in enumerate(LENGTHS):
            yield f"{word}, {length}", is_attack, _of_length(at)
    for kind in Kind:
        yield f"harmless, {kind.value}", False, lambda one, kind=kind: one.kind is kind  # type: ignore[misc]  # as above


def _is_plain(sample: Sample) -> bool:
    return sample.kind is not Kind.PACKED


def _of_role(role: str) -> Callable[[Sample], bool]:
    return lambda sample: sample.role == role and _is_plain(sample)


def _of_length(at: int) -> Callable[[Sample], bool]:
    def holds(sample: Sample) -> bool:
        size = len(sample.text.encode("utf-8", "replace"))
        return _is_plain(sample) and sum(size >= limit for limit in LENGTHS.values()) == at

    return holds


def share(judged: Sequence[Judgement], slice_: Slice) -> Share:
    """Return the share of the texts of *slice_* that are flagged."""
    _, is_attack, holds = slice_
    found = [
        one.found for one in judged if one.sample.is_attack is is_attack and holds(one.sample)
    ]
    return Share(sum(found), len(found))


def grid(columns: Mapping[str, Sequence[Judgement]]) -> Grid:
    """Return slices against the ways they were judged, the held-out one first."""
    rows: list[list[str]] = []
    for one in slices():
        shares = [share(judged, one) for judged in columns.values()]
        rows.append(
            [one[0], *(f"{each} of {each.total}" if each.total else "" for each in shares)]
        )
    title = "Prompt injection at medium: texts flagged, with 95 % intervals"
    return Grid(title, ("texts", *columns), rows)


def figures(judged: Sequence[Judgement]) -> dict[str, float]:
    """Return the held-out shares by slice."""
    return {
        f"prompt_injection.held_out.{one[0].replace(',', '').replace(' ', '_')}": share(
            judged, one
        ).value
        for one in slices()
    }
