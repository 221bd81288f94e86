"""`python -m training.train`: the corpora of training sources in, the committed model out.

Deterministic: no chance is involved, and weights are rounded to thousandths.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from rich.console import Console
from rich.progress import track

from sidecar.guardrails.detectors.prompt_injection.model import write_model
from training import folds
from training.samples import FOLDS, SAMPLES, read_samples


def main() -> None:
    """Train, choose the bars, write the model."""
    console = Console()
    if not SAMPLES.exists():
        sys.exit("no corpora here yet: python -m training.fetch")
    samples = tuple(read_samples())
    with console.status("Terms"):
        corpus = folds.read_corpus(samples)
    console.print(f"{len(corpus.texts):,} texts, {len(corpus.terms):,} candidate terms")
    sums: dict[int, int] = {}
    for own in track(folds.unseen_sums(corpus), "Unseen families", total=FOLDS, console=console):
        sums |= own
    model = replace(folds.train(corpus), bars=folds.bars_of(samples, sums))
    folds.MODEL.write_text(write_model(model), encoding="utf-8")
    console.print(f"{len(model.terms):,} terms in {folds.MODEL.name}")
    folds.write_sums(sums)


if __name__ == "__main__":
    main()
