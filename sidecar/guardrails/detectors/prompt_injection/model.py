"""The model of `prompt_injection`: concepts and weights of terms, read from files."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sidecar.domain.guardrail_settings import InjectionKind, Threshold

_FOLDER: Final = importlib.resources.files("sidecar.guardrails.detectors.prompt_injection")
FILE: Final = "model.tsv"
CONCEPT: Final = re.compile(r"\{([a-z]+)\}")
"""A concept in the name of a term; no word has braces."""

_DIGEST: Final = "sha256"


class ModelError(ValueError):
    """The model's file differs from the one that training wrote."""


def read_concepts(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return the words of each concept, as they are written in the file."""
    return _listed(text, ":")


def _listed(text: str, mark: str) -> Mapping[str, tuple[str, ...]]:
    listed: dict[str, tuple[str, ...]] = {}
    for line in re.sub(r"\n +", " ", text).splitlines():  # continued lines
        name, found, words = line.partition(mark)
        if found and not line.startswith("#"):
            listed[name.strip()] = tuple(dict.fromkeys(words.split()))
    return listed


_FILE: Final = _FOLDER.joinpath("concepts.txt").read_text(encoding="utf-8")
CONCEPTS: Final = read_concepts(_FILE)
EVERYDAY: Final = frozenset(_listed(_FILE, "=")["everyday"])
"""Concepts whose words are in most harmless texts: they count only near others."""
EVERYDAY_WORDS: Final = frozenset(_listed(_FILE, "=")["everyday_words"])
"""Such words of other concepts."""


@dataclass(frozen=True, slots=True)
class Term:
    """One to three words, or concepts that stand close together, with their weights.

    `weight` is that in texts of users and in system messages, `indirect` that in results of tools.
    """

    name: str
    kind: InjectionKind
    weight: int
    indirect: int


BUCKETS: Final = (128, 256, 512, 1024, 4096, 16384)
"""Bytes from which on a text is judged by the next bar: a long one has more chances to match."""


class Author:
    """Groups of roles that share their bars."""

    USER: Final = "user"
    TOOL: Final = "tool"
    SYSTEM: Final = "system"


AUTHORS: Final = (Author.USER, Author.TOOL, Author.SYSTEM)
Bars = tuple[int, ...]
"""The sum that makes a finding, for each bucket of lengths."""
Weights = tuple[int, ...]
"""Those of all terms, for one author."""


@dataclass(frozen=True, slots=True)
class Model:
    """Terms and constants of the score. Weights are thousandths of log odds.

    `drift` is subtracted for every byte of words, and within `span` bytes a term counts once.
    `bars` are those of each author and threshold.
    """

    terms: tuple[Term, ...]
    drift: int
    span: int
    bars: Mapping[tuple[str, Threshold], Bars]
    weights: Mapping[str, Weights] = field(init=False)

    def __post_init__(self) -> None:
        """Put the weights of each author beside each other, where a sum reads them."""
        weights = dict.fromkeys(AUTHORS, tuple([term.weight for term in self.terms]))
        weights[Author.TOOL] = tuple([term.indirect for term in self.terms])
        object.__setattr__(self, "weights", weights)


def load_model() -> Model:
    """Read the model that is shipped.

    Raises:
        ModelError: the file was changed by hand, or fits other concepts.
    """
    return read_model(_FOLDER.joinpath(FILE).read_bytes().decode())


def read_model(text: str) -> Model:
    """Read the text that `write_model` wrote.

    Raises:
        ModelError: the checksum does not fit, a line is odd, or a concept is unknown.
    """
    head, _, body = text.partition("\n")
    if head != _checksum(body):
        raise ModelError("the model's checksum does not fit its terms")
    settings: dict[str, str] = {}
    terms: list[Term] = []
    for line in body.splitlines():
        fields = line.split("\t")
        if len(fields) == 2:  # noqa: PLR2004 - name and value
            settings[fields[0]] = fields[1]
        else:
            weight, indirect, kind, name = fields
            terms.append(Term(name, InjectionKind(kind), int(weight), int(indirect)))
    if any(name not in CONCEPTS for term in terms for name in CONCEPT.findall(term.name)):
        raise ModelError("the model was trained with other concepts")
    return Model(
        terms=tuple(terms),
        drift=int(settings["drift"]),
        span=int(settings["span"]),
        bars={
            (author, level): tuple(map(int, settings[f"{author}.{level.value}"].split()))
            for author in AUTHORS
            for level in Threshold
        },
    )


def write_model(model: Model) -> str:
    """Return *model* as text: checksum, settings, and terms by kind and weight."""
    settings = {"drift": str(model.drift), "span": str(model.span)}
    settings |= {
        f"{author}.{level.value}": " ".join(map(str, bars))
        for (author, level), bars in model.bars.items()
    }
    lines = [f"{name}\t{value}" for name, value in settings.items()]
    ordered = sorted(
        model.terms, key=lambda one: (one.kind.value, -one.weight, -one.indirect, one.name)
    )
    lines += [f"{one.weight}\t{one.indirect}\t{one.kind.value}\t{one.name}" for one in ordered]
    body = "\n".join(lines) + "\n"
    return f"{_checksum(body)}\n{body}"


def _checksum(body: str) -> str:
    return f"{_DIGEST}:{hashlib.sha256(body.encode()).hexdigest()}"
