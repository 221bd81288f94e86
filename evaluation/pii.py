"""`pii` on generated sentences and harmless texts, beside Presidio's pattern recognisers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from evaluation.intervals import Tally
from evaluation.own import OwnDetector, microseconds_a_kilobyte
from evaluation.peers import NotRun, ask
from evaluation.pii_sentences import TYPES, Sentence
from loadtest.results import Grid

Span = tuple[str, int, int]

REGIONS: Final = "US, GB, DE, FR, IT, ES, AU, CA, NL, BR, PL, CH"
PEER: Final = "presidio-analyzer"
_PRESIDIO_TYPES: Final = {
    "CREDIT_CARD": "CREDIT_CARD",
    "EMAIL_ADDRESS": "EMAIL",
    "IBAN_CODE": "IBAN",
    "IP_ADDRESS": "IP_ADDRESS",
    "PHONE_NUMBER": "PHONE",
    "US_SSN": "US_SSN",
}


@dataclass(frozen=True, slots=True)
class PiiResults:
    """Tallies by detector and type, and the time a kilobyte took each detector."""

    tallies: dict[tuple[str, str], Tally]
    us_per_kb: dict[str, float]
    not_run: dict[str, str]


def evaluate_pii(sentences: Sequence[Sentence], *, peers: bool) -> PiiResults:
    """Let Egret and Presidio judge the same sentences."""
    texts = [sentence.text for sentence in sentences]
    detector = OwnDetector(f"type: pii, regions: [{REGIONS}]")
    own = [
        [(one.type, one.start, one.end) for one in detector.judge(text).findings] for text in texts
    ]
    found = {"egret": own}
    times = {"egret": microseconds_a_kilobyte(detector.seconds, texts)}
    not_run: dict[str, str] = {}
    answer = ask(PEER, texts) if peers else NotRun("not asked")
    if isinstance(answer, NotRun):
        not_run[PEER] = answer.why
    else:
        pairs = zip(texts, answer.answers, strict=True)
        found[PEER] = [_in_bytes(text, spans) for text, spans in pairs]
        times[PEER] = microseconds_a_kilobyte(answer.seconds, texts)
    tallies = {
        (name, type_): _tally(sentences, spans, type_)
        for name, spans in found.items()
        for type_ in sorted(set(TYPES.values()))
    }
    return PiiResults(tallies, times, not_run)


def _in_bytes(text: str, spans: Iterable[tuple[str, int, int]]) -> list[Span]:
    return [
        (_PRESIDIO_TYPES[name], len(text[:start].encode()), len(text[:end].encode()))
        for name, start, end in spans
        if name in _PRESIDIO_TYPES
    ]


def _tally(sentences: Sequence[Sentence], found: Sequence[Sequence[Span]], type_: str) -> Tally:
    """Count spans of one type; a report counts as right if it overlaps one that is there."""
    counts = Counter[str]()
    for sentence, reported in zip(sentences, found, strict=True):
        there = [span for span in sentence.spans if span[0] == type_]
        said = [span for span in reported if _base(span[0]) == type_]
        counts["found"] += sum(any(_overlap(span, one) for one in said) for span in there)
        counts["missed"] += sum(not any(_overlap(span, one) for one in said) for span in there)
        counts["wrong"] += sum(not any(_overlap(span, one) for one in there) for span in said)
    return Tally(counts["found"], counts["missed"], counts["wrong"])


def _base(type_: str) -> str:
    return "IP_ADDRESS" if type_.startswith("IP") else type_


def _overlap(left: Span, right: Span) -> bool:
    return left[1] < right[2] and right[1] < left[2]


def figures(results: PiiResults) -> dict[str, float]:
    """Return precision and recall by type, by the types' names in lower case."""
    own: dict[str, float] = {"pii.us_per_kb": results.us_per_kb["egret"]}
    for (name, type_), tally in results.tallies.items():
        if name == "egret":
            own[f"pii.{type_.lower()}.precision"] = tally.precision.value
            own[f"pii.{type_.lower()}.recall"] = tally.recall.value
    return own


def grid(results: PiiResults) -> Grid:
    """Return types and detectors against precision, recall and F1."""
    rows = [
        [type_, name, str(tally.found + tally.missed), str(tally.precision), str(tally.recall),
         f"{tally.f1:.3f}", f"{results.us_per_kb[name]:,.0f}"]
        for (name, type_), tally in sorted(results.tallies.items(), key=lambda one: one[0][::-1])
    ]  # fmt: skip
    rows += [["", name, why, "", "", "", ""] for name, why in results.not_run.items()]
    columns = ("type", "detector", "there", "precision", "recall", "F1", "µs/KB")
    return Grid("Personal data in generated sentences", columns, rows, labels=2)
