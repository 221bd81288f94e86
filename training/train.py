"""`python -m training.train`: the corpora of training sources in, the committed model out.

Deterministic: no chance is involved, and weights are rounded to thousandths.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

from sidecar.domain.guardrail_settings import Threshold
from sidecar.guardrails.detectors.prompt_injection import model as model_module
from sidecar.guardrails.detectors.prompt_injection.model import Model, Term, write_model
from sidecar.guardrails.detectors.prompt_injection.scoring import INDEX_BITS, add_up
from training.fit import Array, fit
from training.occurrences import (
    WINDOW_BYTES,
    Text,
    candidate_terms,
    kinds_of,
    read_texts,
    with_hits,
)
from training.samples import SAMPLES, Split, read_samples

OUTPUT: Final = Path(model_module.__file__).with_name(model_module.FILE)
THOUSAND: Final = 1000
DRIFT: Final = 5
"""Thousandths a byte: 0.03 a word, and 2.4 a window."""

FALSE_POSITIVES: Final = {Threshold.LOW: 0.03, Threshold.MEDIUM: 0.01, Threshold.HIGH: 0.002}
"""The share of harmless texts over each threshold, each by a model without their source."""

FOLDS: Final = 5
_NONE: Final = dict.fromkeys(Threshold, 0)


def main() -> None:
    """Train, choose the thresholds, write the model."""
    console = Console()
    if not SAMPLES.exists():
        sys.exit("no corpora here yet: python -m training.fetch")
    samples = [sample for sample in read_samples() if sample.split is Split.TRAIN]
    read = read_texts(samples)
    terms = candidate_terms(read)
    texts = with_hits(read, terms)
    console.print(f"{len(texts):,} texts, {len(terms):,} candidate terms")
    sums = dict(_unseen_sums(texts, terms, console))
    model = _model(texts, terms, fit(texts, terms), thresholds=_thresholds(sums, texts))
    OUTPUT.write_text(write_model(model), encoding="utf-8")
    console.print(f"{len(model.terms):,} terms in {OUTPUT.name}, thresholds {_shown(model)}")


def _unseen_sums(
    texts: Sequence[Text], terms: Sequence[str], console: Console
) -> Iterator[tuple[int, int]]:
    """Score each harmless text by a model that has not seen its source."""
    sources = sorted({text.sample.source for text in texts if not text.sample.is_attack})
    fold_of = {source: number % FOLDS for number, source in enumerate(sources)}
    for fold in track(range(FOLDS), "Unseen sources", console=console):
        held = {source for source in sources if fold_of[source] == fold}
        seen = [one for one in texts if one.sample.is_attack or one.sample.source not in held]
        model = _model(seen, terms, fit(seen, terms), thresholds=(_NONE, _NONE))
        index = {term.name: number for number, term in enumerate(model.terms)}
        for number, text in enumerate(texts):
            if not text.sample.is_attack and text.sample.source in held:
                own = [
                    end << INDEX_BITS | index[name]
                    for end, term in text.hits
                    if (name := terms[term]) in index
                ]
                yield number, add_up(model, own)[0]


def _thresholds(
    sums: Mapping[int, int], texts: Sequence[Text]
) -> tuple[dict[Threshold, int], dict[Threshold, int]]:
    """Return the thresholds for all texts but system messages, and for those."""
    by_role: defaultdict[bool, list[int]] = defaultdict(list)
    for number, total in sums.items():
        by_role[texts[number].sample.role == "system"].append(total)
    direct, system = (_quantiles(sorted(by_role[role])) for role in (False, True))
    return direct, {one: max(direct[one], system[one]) for one in Threshold}


def _quantiles(ordered: Sequence[int]) -> dict[Threshold, int]:
    return {
        threshold: ordered[int(len(ordered) * (1 - share))] + 1
        for threshold, share in FALSE_POSITIVES.items()
    }


def _model(
    texts: Sequence[Text],
    terms: Sequence[str],
    weights: Array,
    *,
    thresholds: tuple[Mapping[Threshold, int], Mapping[Threshold, int]],
) -> Model:
    kinds = kinds_of(terms, texts)
    rounded = [round(float(weight) * THOUSAND) for weight in weights]
    chosen = (
        Term(name, kind, weight)
        for name, kind, weight in zip(terms, kinds, rounded, strict=True)
        if weight
    )
    direct, system = thresholds
    return Model(tuple(chosen), DRIFT, WINDOW_BYTES, direct, system)


def _shown(model: Model) -> str:
    return ", ".join(f"{one.value} {model.thresholds[one]}" for one in Threshold)


if __name__ == "__main__":
    main()
