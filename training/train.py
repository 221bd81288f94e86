"""`python -m training.train`: the corpora of training sources in, the committed model out.

Deterministic: no chance is involved, and weights are rounded to thousandths.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

from sidecar.guardrails.detectors.prompt_injection import model as model_module
from sidecar.guardrails.detectors.prompt_injection.model import write_model
from training.folds import FOLDS, bars_of, read_corpus, train, unseen_sums
from training.samples import SAMPLES, read_samples

OUTPUT: Final = Path(model_module.__file__).with_name(model_module.FILE)


def main() -> None:
    """Train, choose the bars, write the model."""
    console = Console()
    if not SAMPLES.exists():
        sys.exit("no corpora here yet: python -m training.fetch")
    with console.status("Terms"):
        corpus = read_corpus(tuple(read_samples()))
    console.print(f"{len(corpus.texts):,} texts, {len(corpus.terms):,} candidate terms")
    sums: dict[int, int] = {}
    for own in track(unseen_sums(corpus), "Unseen families", total=FOLDS, console=console):
        sums |= own
    model = replace(train(corpus), bars=bars_of(corpus, sums))
    OUTPUT.write_text(write_model(model), encoding="utf-8")
    console.print(f"{len(model.terms):,} terms in {OUTPUT.name}")


if __name__ == "__main__":
    main()
