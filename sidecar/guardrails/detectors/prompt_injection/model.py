"""The model of `prompt_injection`: weights of phrases, read from files."""

from __future__ import annotations

import hashlib
import importlib.resources
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.domain.guardrail_settings import InjectionKind, Threshold

_LIST: Final = re.compile(r"<{1,2}([a-z]+)>{1,2}")
_SPLIT: Final = re.compile(r"<<([a-z]+)>>|\(\(([^()]*)\)\)")
_GAP: Final = re.compile(r"~([0-9]+) ")
_GROUP: Final = re.compile(r"\(([^()]*)\)")
_REPEAT: Final = re.compile(r"\{0,([0-9]+)\}")
_WORD: Final = r"[0-9a-z\x80-\xff]+"
_ANCHOR: Final = "!"
_spaces: Final = operator.methodcaller("count", " ")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A named expression over words. It starts and ends with the space around words.

    `most_words` are those of its longest match. `split` are expressions that match the same
    together. `anchors` are those of a part of every match, with the space around it, if any.
    """

    name: str
    kind: InjectionKind
    regex: str
    most_words: int
    split: tuple[str, ...]
    anchors: tuple[str, ...]

    @property
    def has_gaps(self) -> bool:
        """Whether it allows any words between its own; else it is a choice of literal texts."""
        return _WORD in self.regex


def read_phrases(text: str) -> tuple[Phrase, ...]:
    """Read a file of lists, kinds and phrases."""
    lists: dict[str, str] = {}
    kind = InjectionKind.INSTRUCTION_OVERRIDE
    phrases: list[Phrase] = []

    def regex_of(notation: str) -> str:
        regex = notation.strip().replace("(", "(?:")
        regex = _GAP.sub(lambda found: f"(?:{_WORD} ){{0,{found[1]}}}", regex)
        return f" {_LIST.sub(lambda found: f'(?:{lists[found[1]]})', regex)} "

    def expressions(notation: str) -> tuple[str, ...]:
        split = [
            regex_of(_SPLIT.sub(one, notation))
            for name, choice in _SPLIT.findall(notation)
            for one in (choice or lists[name]).split("|")
        ]
        return tuple(split) or (regex_of(notation),)

    joined = re.sub(r"\n +", " ", text)  # continued lines
    for line in joined.splitlines():
        if not line or line.startswith("#"):
            continue
        head, _, rest = line.partition(":")
        if head.startswith("list "):
            lists[head.removeprefix("list ")] = "|".join(rest.split())
        elif head.startswith("kind "):
            kind = InjectionKind(head.removeprefix("kind "))
        else:
            before, _, marked = rest.partition(_ANCHOR)
            anchors = expressions(_GAP.split(marked)[0]) if marked else ()
            longest = _GROUP.sub(lambda found: max(found[1].split("|"), key=_spaces), rest.strip())
            repeats = (*_GAP.findall(longest), *_REPEAT.findall(longest))
            most_words = _spaces(_GAP.sub("", longest)) + 1 + sum(map(int, repeats))
            regex, split = regex_of(before + marked), expressions(before + marked)
            phrases.append(Phrase(head, kind, regex, most_words, split, anchors))
    return tuple(phrases)


PHRASES: Final = read_phrases(
    importlib.resources.files("sidecar.guardrails.detectors.prompt_injection")
    .joinpath("phrases.txt")
    .read_text(encoding="utf-8")
)


FILE: Final = "model.tsv"
PHRASE_MARK: Final = "@"
"""Before the name of a phrase; no word has it."""

_DIGEST: Final = "sha256"
_THRESHOLD: Final = "threshold."
_SYSTEM_THRESHOLD: Final = "system_threshold."


class ModelError(ValueError):
    """The model's file differs from the one that training wrote."""


@dataclass(frozen=True, slots=True)
class Term:
    """One to three words, or a phrase by its name, with the weight of each occurrence."""

    name: str
    kind: InjectionKind
    weight: int


@dataclass(frozen=True, slots=True)
class Model:
    """Terms and constants of the score. Weights are thousandths of log odds.

    `drift` is subtracted for every byte of words, and within `span` bytes a term counts
    once. `system_thresholds` hold for system and developer messages: rules are their subject.
    """

    terms: tuple[Term, ...]
    drift: int
    span: int
    thresholds: Mapping[Threshold, int]
    system_thresholds: Mapping[Threshold, int]


def load_model() -> Model:
    """Read the model that is shipped.

    Raises:
        ModelError: the file was changed by hand, or fits other phrases.
    """
    package = "sidecar.guardrails.detectors.prompt_injection"
    return read_model(importlib.resources.files(package).joinpath(FILE).read_bytes().decode())


def read_model(text: str) -> Model:
    """Read the text that `write_model` wrote.

    Raises:
        ModelError: the checksum does not fit, a line is odd, or a phrase is unknown.
    """
    head, _, body = text.partition("\n")
    if head != _checksum(body):
        raise ModelError("the model's checksum does not fit its terms")
    settings: dict[str, int] = {}
    terms: list[Term] = []
    for line in body.splitlines():
        fields = line.split("\t")
        if len(fields) == 2:  # noqa: PLR2004 - name and value
            settings[fields[0]] = int(fields[1])
        else:
            weight, kind, name = fields
            terms.append(Term(name, InjectionKind(kind), int(weight)))
    unknown = {term.name[1:] for term in terms if term.name.startswith(PHRASE_MARK)}
    unknown -= {phrase.name for phrase in PHRASES}
    if unknown:
        raise ModelError("the model was trained with other phrases")
    return Model(
        terms=tuple(terms),
        drift=settings["drift"],
        span=settings["span"],
        thresholds={one: settings[_THRESHOLD + one.value] for one in Threshold},
        system_thresholds={one: settings[_SYSTEM_THRESHOLD + one.value] for one in Threshold},
    )


def write_model(model: Model) -> str:
    """Return *model* as text: checksum, settings, and terms by kind and weight."""
    settings = {"drift": model.drift, "span": model.span}
    settings |= {_THRESHOLD + one.value: model.thresholds[one] for one in Threshold}
    settings |= {_SYSTEM_THRESHOLD + one.value: model.system_thresholds[one] for one in Threshold}
    lines = [f"{name}\t{value}" for name, value in settings.items()]
    ordered = sorted(model.terms, key=lambda one: (one.kind.value, -one.weight, one.name))
    lines += [f"{one.weight}\t{one.kind.value}\t{one.name}" for one in ordered]
    body = "\n".join(lines) + "\n"
    return f"{_checksum(body)}\n{body}"


def _checksum(body: str) -> str:
    return f"{_DIGEST}:{hashlib.sha256(body.encode()).hexdigest()}"
