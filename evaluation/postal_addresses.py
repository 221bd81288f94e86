"""Street addresses of fifteen countries behind a word for one, as each country writes them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from evaluation.intervals import Share
from evaluation.own import OwnDetector
from evaluation.texts import texts_by_heading
from loadtest.results import Grid

A_COUNTRY: Final = 40

_TEXTS: Final = texts_by_heading("postal_addresses.txt")
_EVERYWHERE: Final = "*"


@dataclass(frozen=True, slots=True)
class Address:
    """A text with an address in it, at bytes `start` to `end`."""

    country: str
    text: str
    start: int
    end: int


def addresses(seed: int = 20261128, a_country: int = A_COUNTRY) -> Iterator[Address]:
    """Return the same texts for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - a test's data, and the same each time
    common = _field("cue", _EVERYWHERE)
    for country in _TEXTS:
        for number in range(a_country if country != _EVERYWHERE else 0):
            code = "".join(
                str(draw.randint(0, 9)) if sign == "#" else sign
                for sign in draw.choice(_field("code", country))
            )
            value = draw.choice(_field("form", country)).format(
                n=draw.randint(1, 180),
                u=draw.randint(1, 9),
                s=draw.choice(_field("street", country)),
                t=draw.choice(_field("town", country)),
                p=code,
            )
            own = _field("cue", country)
            cue = draw.choice(own if own and number % 4 else common)
            start = len(cue[: cue.index("{}")].encode())
            yield Address(country, cue.format(value), start, start + len(value.encode()))


def _field(name: str, country: str) -> Sequence[str]:
    lines = _TEXTS[country]
    return [line.partition(": ")[2] for line in lines if line.startswith(f"{name}: ")]


def evaluate_addresses(texts: Sequence[Address]) -> dict[str, tuple[Share, Share]]:
    """Return by country the shares found: in part, and all but ten bytes at most."""
    detector = OwnDetector("type: pii, types: [POSTAL_ADDRESS]")
    found: dict[str, list[tuple[bool, bool]]] = {}
    for one in texts:
        covered = sum(
            max(min(span.end, one.end) - max(span.start, one.start), 0)
            for span in detector.judge(one.text).findings
        )
        whole = covered >= one.end - one.start - 10
        found.setdefault(one.country, []).append((covered > 0, whole))
    return {
        country: (
            Share(sum(part for part, _ in pairs), len(pairs)),
            Share(sum(whole for _, whole in pairs), len(pairs)),
        )
        for country, pairs in found.items()
    }


def figures(results: dict[str, tuple[Share, Share]]) -> dict[str, float]:
    """Return the share found by country."""
    return {f"addresses.{country.lower()}": part.value for country, (part, _) in results.items()}


def grid(results: dict[str, tuple[Share, Share]]) -> Grid:
    """Return countries against shares found."""
    rows = [[country, str(part), str(whole)] for country, (part, whole) in results.items()]
    columns = ("country", "found", "found whole")
    return Grid("Street addresses behind a word for one", columns, rows, labels=1)
