"""A labelled text, and the file they are kept in between fetching and training."""

from __future__ import annotations

import enum
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
    ATTACK = "attack"  # the corpus does not say of which kind


@dataclass(frozen=True, slots=True)
class Sample:
    """One text with its label, its source and the role it would have in a request."""

    text: str
    label: Label
    source: str
    split: Split
    role: str = "user"

    @property
    def is_attack(self) -> bool:
        """Whether a guardrail should find it."""
        return self.label is not Label.BENIGN


def write_samples(samples: Iterable[Sample], path: Path = SAMPLES) -> None:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            fields = asdict(sample) | {"label": sample.label.value, "split": sample.split.value}
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
            )
