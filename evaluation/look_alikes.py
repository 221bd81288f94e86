"""Numbers that are no personal data, as they stand in JSON, tables, logs, code and letters.

Forty kinds, each with texts of its own in several languages and formats. The generator has no
rule of a detector in it: a text is drawn from what such numbers look like in use.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from evaluation.intervals import Share
from evaluation.own import OwnDetector
from evaluation.texts import texts_by_heading
from loadtest.results import Grid

A_KIND: Final = 50

REGION_SETS: Final = {
    "none": "",
    "US, DE": "US, DE",
    "DE": "DE",
    "FR": "FR",
    "GB": "GB",
    "countries without a trunk prefix": "ES, IT, PL, PT, DK, 'NO', GR, CZ",
    "twenty": "US, GB, DE, FR, ES, IT, IN, BR, AU, JP, MX, NL, PL, SE, CH, CN, SG, TR, ZA, KR",
}

_KINDS: Final = texts_by_heading("look_alikes.txt")
_PLACE: Final = re.compile(r"<([a-z]+)(\d*)>")
_DRAWN: Final[dict[str, Callable[[random.Random], str]]] = {
    "epoch": lambda draw: str(draw.randint(1_400_000_000, 1_800_000_000)),
    "lat": lambda draw: f"{draw.uniform(-80, 80):.{draw.randint(4, 7)}f}",
    "lon": lambda draw: f"{draw.uniform(-180, 180):.{draw.randint(4, 7)}f}",
    "day": lambda draw: f"{draw.randint(1, 28):02}",
    "month": lambda draw: f"{draw.randint(1, 12):02}",
    "year": lambda draw: str(draw.randint(1950, 2035)),
    "hour": lambda draw: f"{draw.randint(0, 23):02}",
    "minute": lambda draw: f"{draw.randint(0, 59):02}",
    "second": lambda draw: f"{draw.randint(0, 59):02}",
    "v": lambda draw: ".".join(
        str(draw.randint(0, most))
        for most in (15, 20, draw.choice((9, 250)), draw.choice((9, 250)))
    ),
    "o": lambda draw: str(draw.randint(1, 254)),
    "ean": lambda draw: f"{draw.choice(('40', '76', '80', '87', '54', '59'))}{_digits(draw, 11)}",
}
_ALPHABETS: Final = {
    "d": string.digits, "n": string.digits, "s": string.digits, "u": string.ascii_uppercase,
    "h": "0123456789abcdef",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LookAlike:
    """A text of one of the kinds."""

    kind: str
    text: str


def look_alikes(seed: int = 20261128, a_kind: int = A_KIND) -> Iterator[LookAlike]:
    """Return the same texts for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - a test's data, and the same each time
    for kind, texts in _KINDS.items():
        for number in range(a_kind):
            yield LookAlike(kind, _filled(texts[number % len(texts)], draw))


def random_runs(seed: int = 20261129, count: int = 8_000) -> Iterator[str]:
    """Return runs of 16 to 19 random digits, bare and in the contexts of identifiers."""
    draw = random.Random(seed)  # noqa: S311 - a test's data, and the same each time
    texts = (
        "{}",
        "id {}",
        '{{"id": {}}}',
        "trace_id={}",
        "{} rows",
        "user {} logged in",
        "n: {}\n",
    )
    for number in range(count):
        yield texts[number % len(texts)].format(_digits(draw, 16 + number % 4))


def _filled(text: str, draw: random.Random) -> str:
    return _PLACE.sub(lambda place: _value(place[1], place[2], draw), text)


def _value(name: str, count: str, draw: random.Random) -> str:
    if name in _DRAWN:
        return _DRAWN[name](draw)
    alphabet, length = _ALPHABETS[name], int(count)
    first = alphabet.replace("0", "") if name == "s" else alphabet
    return draw.choice(first) + "".join(draw.choices(alphabet, k=length - 1))


def _digits(draw: random.Random, length: int) -> str:
    return "".join(draw.choices(string.digits, k=length))


@dataclass(frozen=True, slots=True)
class LookAlikeResults:
    """Texts flagged, by the regions of the policy and by kind; and random runs taken for cards."""

    flagged: dict[str, dict[str, Share]]
    runs_as_cards: Share

    def of(self, regions: str) -> Share:
        """Return the share of all texts that is flagged with these regions."""
        shares = self.flagged[regions].values()
        return Share(sum(one.count for one in shares), sum(one.total for one in shares))


def evaluate_look_alikes(texts: Sequence[LookAlike], runs: Sequence[str]) -> LookAlikeResults:
    """Judge the same texts with each set of regions."""
    flagged: dict[str, dict[str, Share]] = {}
    for name, regions in REGION_SETS.items():
        detector = OwnDetector(f"type: pii, regions: [{regions}]")
        counts = {kind: [0, 0] for kind in _KINDS}
        for one in texts:
            counts[one.kind][0] += bool(detector.judge(one.text).findings)
            counts[one.kind][1] += 1
        flagged[name] = {kind: Share(*pair) for kind, pair in counts.items()}
    default = OwnDetector("type: pii")
    cards = sum(
        any(found.type == "CREDIT_CARD" for found in default.judge(text).findings) for text in runs
    )
    return LookAlikeResults(flagged, Share(cards, len(runs)))


def figures(results: LookAlikeResults) -> dict[str, float]:
    """Return the share flagged by regions, and that of random runs."""
    return {
        f"look_alikes.{name.lower().replace(', ', '_')}": results.of(name).value
        for name in results.flagged
    } | {"look_alikes.runs_as_cards": results.runs_as_cards.value}


def grid(results: LookAlikeResults) -> Grid:
    """Return sets of regions against the share flagged and the kinds flagged most."""
    rows: list[list[str]] = []
    for name, shares in results.flagged.items():
        worst = sorted(shares.items(), key=lambda one: -one[1].count)[:3]
        kinds = ", ".join(
            f"{kind} {share.count}/{share.total}" for kind, share in worst if share.count
        )
        whole = results.of(name)
        rows.append([name, str(whole.total), str(whole), kinds])
    runs = results.runs_as_cards
    rows.append(["none: runs of 16 to 19 digits as cards", str(runs.total), str(runs), ""])
    return Grid(
        "Numbers that are no personal data: share flagged",
        ("regions", "texts", "flagged", "most in"), rows, labels=1,
    )  # fmt: skip
