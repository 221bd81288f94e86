"""Long documents: real texts joined to one, as they are and with an order set into them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from training.benign_sources import (
    bank_documents,
    cli_examples,
    evaluation_notes,
    exam_questions,
    function_schemas,
    interface_texts,
    python_modules,
    python_modules_unseen,
)
from training.generated import generated_samples
from training.generated.grammar import seeded
from training.samples import Kind, Label, Sample

SIZES: Final = (2_000, 6_000, 12_000, 24_000, 60_000, 150_000)
"""Characters of a document, in turn."""

PER_SOURCE: Final = 90
INJECTED_SIZES: Final = (600, 1_500, 4_000, 10_000, 30_000)
INJECTED: Final = 900


def long_documents() -> Iterator[Sample]:
    """Join texts of one source to documents of up to 150,000 characters."""
    for source in (
        cli_examples, exam_questions, evaluation_notes, interface_texts, python_modules,
        bank_documents, function_schemas, python_modules_unseen,
    ):  # fmt: skip
        samples = [one for one in source() if one.kind is not Kind.PROMPT]
        parts = joined([one.text for one in samples], SIZES)
        for (text, first), _ in zip(parts, range(PER_SOURCE), strict=False):
            of = samples[first]
            yield replace(of, text=text, source=f"long-{of.source}", role="tool", family=of.family)


def injected_documents() -> Iterator[Sample]:
    """Set generated orders into real documents: at the start, at the end, or between two lines."""
    orders = [one for one in generated_samples() if one.label is Label.INDIRECT]
    texts = [
        one.text for source in (cli_examples, exam_questions, python_modules, interface_texts)
        for one in source() if one.kind is not Kind.PROMPT
    ]  # fmt: skip
    seeded("order of texts").shuffle(texts)
    seeded("order of orders").shuffle(orders)
    documents = (text for text, _ in joined(texts, INJECTED_SIZES))
    for order, document, _ in zip(orders, documents, range(INJECTED), strict=False):
        variant = order.family[-1]
        yield replace(
            order, text=with_order(document, order.text, order.family), role="tool",
            source="injected-documents", family=f"injected-documents-{variant}",
        )  # fmt: skip


def joined(texts: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Return documents of about *sizes*, in turn, each with the number of its first text."""
    parts: list[str] = []
    first = made = 0
    for number, text in enumerate(texts):
        most = sizes[made % len(sizes)]
        parts.append(text[:most])
        if sum(map(len, parts)) >= most:
            yield "\n\n".join(parts)[:most], first
            parts, first, made = [], number + 1, made + 1


def with_order(document: str, order: str, name: str) -> str:
    """Return *document* with *order* on lines of its own, at a place that *name* decides."""
    lines = document.split("\n")
    at = seeded(name, order).choice((0, len(lines), seeded(order).randrange(len(lines))))
    return "\n".join([*lines[:at], order, *lines[at:]])
