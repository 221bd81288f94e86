"""Logistic regression over windows: no weight negative, most of them zero.

A window of an attack is an attack only if something of it is in there: after a first fit, a
long attack keeps the better half of its windows, and the weights are fitted again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from sidecar.guardrails.detectors.prompt_injection.model import PHRASE_MARK
from training.occurrences import Text

PENALTY: Final = 3e-6
"""L1, on the mean loss: what makes most weights zero."""

SOURCE_EXPONENT: Final = 0.5
"""A source counts by the square root of its windows, so that none drowns the others."""

BENIGN_WEIGHT: Final = 2.0
MAX_ITERATIONS: Final = 250
ROUNDS: Final = 2

WORD_CAPS: Final = (1.0, 1.5, 2.0)
"""The most one, two and three words may weigh: none makes an attack alone."""

PHRASE_CAP: Final = 3.0
PHRASE_FLOORS: Final = ((12, 2.0), (40, 1.0))
"""The least a phrase weighs, by the harmless training texts it is in; else `PHRASE_FLOOR`.

A phrase is written for attacks that no training corpus has, which would leave it at zero.
"""
PHRASE_FLOOR: Final = 0.3
NOTICEABLE: Final = 0.05

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class _Windows:
    """Windows as rows of terms, with what each is and whose."""

    matrix: Any
    texts: Array
    is_attack: Array
    sources: Array


def fit(texts: Sequence[Text], terms: Sequence[str]) -> Array:
    """Return a weight a term, in log odds."""
    windows = _windows(texts, len(terms))
    bounds = _bounds(texts, terms)
    chosen = np.ones(len(windows.is_attack), dtype=bool)
    weights = np.zeros(len(terms))
    for _ in range(ROUNDS):
        weights = _fit(windows, chosen, bounds)
        chosen = _better_half(windows, windows.matrix @ weights)
    weights[weights < NOTICEABLE] = 0.0
    return weights


def _windows(texts: Sequence[Text], width: int) -> _Windows:
    rows: list[Array] = []
    owners: list[int] = []
    for number, text in enumerate(texts):
        hits = np.array(text.hits, dtype=np.int64).reshape(-1, 2)
        for start, end in text.windows():
            first, after = np.searchsorted(hits[:, 0], (start, end))
            rows.append(np.unique(hits[first:after, 1]))
            owners.append(number)
    pointers = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate(rows)
    matrix = sparse.csr_matrix(
        (np.ones(len(columns)), columns, pointers), shape=(len(rows), width)
    )
    return _Windows(
        matrix=matrix,
        texts=np.array(owners),
        is_attack=np.array([texts[one].sample.is_attack for one in owners]),
        sources=np.array([texts[one].sample.source for one in owners]),
    )


def _bounds(texts: Sequence[Text], terms: Sequence[str]) -> list[tuple[float, float]]:
    harmless = Counter(
        term for text in texts if not text.sample.is_attack
        for term in {term for _, term in text.hits}
    )  # fmt: skip
    return [
        (_floor(harmless[index]), PHRASE_CAP)
        if term.startswith(PHRASE_MARK)
        else (0.0, WORD_CAPS[term.count(" ")])
        for index, term in enumerate(terms)
    ]


def _floor(harmless: int) -> float:
    return next((floor for most, floor in PHRASE_FLOORS if harmless < most), PHRASE_FLOOR)


def _fit(windows: _Windows, chosen: Array, bounds: list[tuple[float, float]]) -> Array:
    matrix = windows.matrix[chosen]
    transposed = matrix.T.tocsr()
    signs = np.where(windows.is_attack[chosen], 1.0, -1.0)
    share = _shares(windows, chosen)[chosen]
    floors = np.array([low for low, _ in bounds])

    def loss(point: Array) -> tuple[float, Array]:
        margins = signs * (matrix @ point[:-1] + point[-1])
        slope = -signs * share / (1 + np.exp(np.clip(margins, -50, 50)))
        value = np.logaddexp(0, -margins) @ share + PENALTY * (point[:-1] - floors).sum()
        return float(value), np.append(transposed @ slope + PENALTY, slope.sum())

    result = minimize(
        loss, np.append(floors, -2.0), jac=True, method="L-BFGS-B",
        bounds=[*bounds, (None, None)], options={"maxiter": MAX_ITERATIONS},
    )  # fmt: skip
    weights: Array = result.x[:-1]
    return weights


def _shares(windows: _Windows, chosen: Array) -> Array:
    """Return how much each window counts; those of one source count together."""
    shares = np.zeros(len(chosen))
    for is_attack in (True, False):
        of_class = windows.is_attack == is_attack
        for source in np.unique(windows.sources[of_class]):
            members = chosen & of_class & (windows.sources == source)
            shares[members] = members.sum() ** (SOURCE_EXPONENT - 1)
        shares[of_class] /= shares[of_class].sum()
    shares[~windows.is_attack] *= BENIGN_WEIGHT
    normalised: Array = shares / shares.sum()
    return normalised


def _better_half(windows: _Windows, sums: Array) -> Array:
    chosen = np.ones(len(sums), dtype=bool)
    own: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(windows.is_attack):
        own[windows.texts[row]].append(int(row))
    for rows in own.values():
        rows.sort(key=lambda row: -sums[row])
        chosen[rows[max(1, len(rows) // 2) :]] = False
    return chosen
