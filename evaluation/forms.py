"""`python -m evaluation.forms`: forms of the model by the same training, on families left out.

Prints what each finds at `medium`, where bars let pass as many harmless texts for all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Final

from rich.console import Console
from rich.progress import track

from evaluation import held_out
from sidecar.guardrails.detectors.prompt_injection.model import CONCEPT
from training.samples import read_samples

FORMS: Final[Mapping[str, Callable[[str], object]]] = {
    "words alone": lambda term: not CONCEPT.search(term),
    "concepts, each by itself": lambda term: len(CONCEPT.findall(term)) == 1,
    "concepts, combined": CONCEPT.search,
    "words and concepts": str.strip,
}


def main() -> None:
    """Train each form without each fold, and show what it finds."""
    argparse.ArgumentParser(prog="python -m evaluation.forms", description=__doc__).parse_args()
    # Here, since `--help` need not wait for packages that training alone requires.
    from training import folds  # noqa: PLC0415

    console = Console(width=200)
    with console.status("terms …"):
        corpus = folds.read_corpus(tuple(read_samples()))
    columns: dict[str, tuple[held_out.Judgement, ...]] = {}
    for name, form in FORMS.items():
        sums: dict[int, int] = {}
        parts = folds.unseen_sums(corpus, form)
        for own in track(parts, name, total=folds.FOLDS, console=console):
            sums |= own
        bars = folds.bars_of(corpus, sums)
        columns[name] = held_out.judged_unseen(corpus.texts, sums, bars)
    held_out.grid(columns).show(console)


if __name__ == "__main__":
    main()
