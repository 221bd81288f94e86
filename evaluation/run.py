"""What the guardrails find and what they flag wrongly, beside other detectors.

    python -m evaluation.run [--smoke] [--no-peers] [--markdown]

Wants the corpora of `python -m training.fetch`. Prints tables, writes build/bench/eval.json.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.progress import track

from evaluation import (
    held_out,
    injection,
    look_alikes,
    national_numbers,
    pii,
    postal_addresses,
    secrets_found,
)
from evaluation.code_chunks import code_chunks, folders
from evaluation.pii_sentences import sentences
from evaluation.roc import draw_roc
from evaluation.vendor_tokens import secret_texts
from loadtest.results import ROOT, Grid, circumstances, new_console, write_json, write_section
from sidecar.domain.guardrail_settings import Threshold
from training.samples import FOLDS, SAMPLES, Sample, Split, read_samples

PAGE: Final = ROOT / "docs" / "guardrail-quality.md"
PICTURE: Final = ROOT / "docs" / "images" / "prompt-injection-roc.svg"
SMOKE_PER_FAMILY: Final = 10
PROMPTS: Final = frozenset({
    "writing-tasks", "fresh-questions", "web-tasks", "terminal-tasks", "personal-questions",
    "chat-samples", "threat-reports", "support-customers",
})  # fmt: skip
"""Harmless prompts for `secrets`, whose rules are written and not trained: any split will do."""

CODE_CHUNKS: Final = 5_000


def main() -> int:
    """Evaluate, show and write; return the exit code."""
    options = _options()
    if not SAMPLES.exists():
        sys.exit("no corpora here yet: python -m training.fetch")
    console = new_console()
    console.width = max(console.width, 200)
    run = circumstances()
    peers = not options.no_peers
    judged = _unseen(console, smoke=options.smoke)
    with console.status("prompt injection …"):
        alone = held_out.judged_shipped(tuple(held_out.independent()))
        triggers = held_out.judged_shipped(tuple(injection.trigger_words()), tuple(Threshold))
        published = (one for one in judged if one.sample.split is Split.TEST)
        attacks = injection.evaluate_injection([*published, *triggers], peers=peers)
    with console.status("personal data …"):
        personal = pii.evaluate_pii(tuple(sentences()), peers=peers)
    with console.status("numbers and addresses …"):
        alike = look_alikes.evaluate_look_alikes(
            tuple(look_alikes.look_alikes()), tuple(look_alikes.random_runs())
        )
        national = national_numbers.evaluate_numbers(tuple(national_numbers.telephone_texts()))
        addresses = postal_addresses.evaluate_addresses(tuple(postal_addresses.addresses()))
    with console.status("secrets …"):
        found = secrets_found.evaluate_secrets(tuple(secret_texts()), harmless(), peers=peers)
        chunks = tuple(code_chunks(folders(), 500 if options.smoke else CODE_CHUNKS))
        code = secrets_found.evaluate_code(chunks)
    grids = (
        held_out.grid(
            {
                "families left out": judged,
                "written for measuring alone": alone,
            }
        ),
        injection.summary_grid(attacks),
        injection.source_grid(attacks, attacks=True),
        injection.source_grid(attacks, attacks=False),
        pii.grid(personal),
        look_alikes.grid(alike),
        national_numbers.grid(national),
        postal_addresses.grid(addresses),
        secrets_found.summary_grid(found),
        secrets_found.missed_grid(found),
        secrets_found.code_grid(code),
    )
    for grid in grids:
        grid.show(console)
    if options.markdown:
        draw_roc(attacks, PICTURE)
        write_section("eval", _section(run.as_sentence(), grids), page=PAGE)
    figures = held_out.figures(judged) | injection.figures(attacks)
    figures |= pii.figures(personal) | secrets_found.figures(found)
    figures |= secrets_found.code_figures(code)
    figures |= look_alikes.figures(alike) | national_numbers.figures(national)
    figures |= postal_addresses.figures(addresses)
    console.print(f"\nWritten to {write_json('eval', figures, run)}.")
    return 0


def _unseen(console: Console, *, smoke: bool) -> tuple[held_out.Judgement, ...]:
    """Judge each family by a model without it, by the sums that training stored if these fit."""
    # Here, since `--help` need not wait for packages that training alone requires.
    from training import folds  # noqa: PLC0415

    chosen: Counter[tuple[str, bool]] = Counter()
    samples: list[Sample] = []
    for sample in read_samples():
        chosen[sample.family, sample.is_attack] += 1
        if not smoke or chosen[sample.family, sample.is_attack] <= SMOKE_PER_FAMILY:
            samples.append(sample)
    sums = None if smoke else folds.stored_sums()
    if sums is None:
        with console.status("terms …"):
            corpus = folds.read_corpus(samples)
        parts = track(folds.unseen_sums(corpus), "models", total=FOLDS, console=console)
        sums = {number: total for own in parts for number, total in own.items()}
    return held_out.judged_unseen(samples, sums, folds.bars_of(samples, sums))


def harmless() -> list[str]:
    """Return harmless prompts of people, of both splits."""
    return [
        sample.text
        for sample in read_samples()
        if not sample.is_attack and sample.source in PROMPTS
    ]


def _section(sentence: str, grids: Sequence[Grid]) -> str:
    tables = [f"### {grid.title}\n\n{grid.as_markdown()}" for grid in grids]
    return "\n\n".join([sentence, *tables])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a few texts a source")
    parser.add_argument("--no-peers", action="store_true", help="Egret alone")
    parser.add_argument("--markdown", action="store_true", help="write docs/guardrail-quality.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
