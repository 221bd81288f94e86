"""Training texts made from grammars: attacks and their harmless counterparts, in many languages.

`people/` has prompts that people type, `indirect/` orders that stand in documents, `carriers/`
the documents around them, one file a language or variant. `harmless/` has texts with the words
or the manner of attacks. Each has variants by other words and clauses: a variant is a family,
so that a measurement can leave it out.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from training.generated.carriers import placed, read_words
from training.generated.grammar import FOLDER, Grammar, read_grammars, seeded
from training.generated.typing_habits import as_typed
from training.samples import Kind, Label, Sample, Split

PER_TEMPLATE: Final = 14
ENGLISH: Final = "en"
PER_ENGLISH_TEMPLATE: Final = 30
"""Texts of one template; English templates have more slots."""

BENIGN: Final = "benign"
MADE_OF_TRIGGERS: Final = {
    "people-benign": Kind.TRIGGER_WORDS,
    "harmless-code": Kind.TRIGGER_WORDS,
    "indirect-benign": Kind.PACKED,
}
"""The kind of harmless sources that consist of the words of attacks, as few real texts do."""

PROSE: Final = "prose"
PROSE_TIMES: Final = 10
"""Documents are of plain sentences mostly, and orders to people are rarer in them."""

ROLES: Final = {
    Kind.ROLE_PLAY: "user", Kind.CHAT: "user", Kind.ABOUT_INJECTION: "user",
    Kind.SYSTEM_PROMPT: "system",
}  # fmt: skip
"""Where a harmless text of a kind stands in a request; the others are results of tools."""

PER_QUOTING: Final = 8
"""Texts of a template that quotes attacks: more would teach that attacks are harmless."""

WHOLE_DOCUMENTS: Final = (4, 4, 8, 8, 16, 16, 32, 32, 64, 128)
"""Texts that are joined to one document, besides each alone."""

HARMLESS_DOCUMENTS: Final = 3
"""Documents with one harmless text: as many as there are with attacks, about."""

_JOINED: Final = 0.25
"""The share of prompts with a harmless sentence before or behind."""

_PASTED: Final = 0.15
"""The share of documents that a person pastes into a prompt."""


def generated_samples() -> Iterator[Sample]:
    """Return all texts, the same in every run."""
    for path in sorted((FOLDER / "people").glob("*.txt")):
        yield from _people(path)
    for path in sorted((FOLDER / "indirect").glob("*.txt")):
        yield from _indirect(path)
    for path in sorted((FOLDER / "harmless").glob("*.txt")):
        yield from _harmless(path)


def _people(path: Path) -> Iterator[Sample]:
    grammars = read_grammars(path)
    texts = _harmless_texts(grammars)
    for grammar in grammars:
        harmless = texts[grammar.variant]
        chance = seeded(path.stem, grammar.name, grammar.variant)
        label = Label[grammar.name.upper()]
        for text in grammar.texts(_most(path)):
            typed = as_typed(text, chance)
            if chance.random() < _JOINED:
                pair = [chance.choice(harmless), typed]
                chance.shuffle(pair)
                typed = chance.choice((" ", "\n", "\n\n")).join(pair)
            yield _sample(typed, label, f"people-{grammar.name}", path.stem, grammar.variant)


def _indirect(path: Path) -> Iterator[Sample]:
    grammars = read_grammars(path)
    fills = _harmless_texts((*grammars, *_documents(path.stem)))
    for grammar in grammars:
        if grammar.name == PROSE:
            continue
        fill = fills[grammar.variant]
        label = Label.BENIGN if grammar.name == BENIGN else Label.INDIRECT
        times = HARMLESS_DOCUMENTS if label is Label.BENIGN else 1
        for text, number in itertools.product(grammar.texts(_most(path)), range(times)):
            chance = seeded(path.stem, text, str(number))
            document = placed(text, fill, grammar.variant, chance)
            role = "tool"
            if chance.random() < _PASTED:
                document, role = f"{chance.choice(read_words()['ASK'])}\n\n{document}", "user"
            source = f"indirect-{grammar.name}"
            yield _sample(
                document, label, source, path.stem, grammar.variant,
                role=role, kind=Kind.TOOL_RESULT,
            )  # fmt: skip


def _harmless(path: Path) -> Iterator[Sample]:
    kind = Kind[path.stem.upper()]
    for grammar in read_grammars(path):
        chance = seeded(path.stem, grammar.name, grammar.variant)
        texts = list(grammar.texts(PER_QUOTING if kind is Kind.ABOUT_INJECTION else PER_TEMPLATE))
        wholes = (chance.sample(texts, k=min(size, len(texts))) for size in WHOLE_DOCUMENTS)
        for text in (*texts, *map("\n\n".join, wholes)):
            yield _sample(
                text, Label.BENIGN, f"harmless-{path.stem.replace('_', '-')}", grammar.name,
                grammar.variant, role=ROLES.get(kind, "tool"), kind=kind,
            )  # fmt: skip


def _most(path: Path) -> int:
    return PER_ENGLISH_TEMPLATE if path.stem == ENGLISH else PER_TEMPLATE


def _documents(language: str) -> Iterator[Grammar]:
    """Return the grammars of harmless documents and chats of *language*, as such."""
    for name in ("document", "chat"):
        for grammar in read_grammars(FOLDER / "harmless" / f"{name}.txt"):
            if grammar.name == language:
                yield replace(grammar, name=BENIGN)


def _harmless_texts(grammars: Iterable[Grammar]) -> Mapping[str, Sequence[str]]:
    """Return the harmless texts of each variant."""
    texts = defaultdict[str, list[str]](list)
    for grammar in grammars:
        if grammar.name in {BENIGN, PROSE}:
            times = PROSE_TIMES if grammar.name == PROSE else 1
            texts[grammar.variant] += [*grammar.texts(PER_TEMPLATE)] * times
    return texts


def _sample(
    text: str,
    label: Label,
    source: str,
    language: str,
    variant: str,
    *,
    role: str = "user",
    kind: Kind = Kind.PROMPT,
) -> Sample:
    return Sample(
        text, label, source, Split.TRAIN, role=role, language=language,
        kind=MADE_OF_TRIGGERS.get(source, kind),
        family=f"{source}-{language}-{variant}",
    )  # fmt: skip
