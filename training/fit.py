"""Logistic regression over the best passages of windows, most weights zero.

The guardrail adds up the best passage of a text, so the model learns from best passages: those
that the weights of the round before find, of attacks and of harmless texts alike. The first round
reads whole windows. A long attack keeps the better half of its windows, since the rest of it is a
harmless document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import sparse

from sidecar.guardrails.detectors.prompt_injection.model import CONCEPT
from sidecar.guardrails.detectors.prompt_injection.term_search import INDEX
from training.occurrences import MIN_WINDOWS, PART, Array, Text, ends_of
from training.samples import Kind, Sample

DRIFT: Final = 8
"""Thousandths a byte: 0.05 a word, and 3.8 a window."""

THOUSAND: Final = 1000
PENALTY: Final = 2e-5
"""L1, on the mean loss: it makes most weights zero."""

FAMILY_EXPONENT: Final = 0.5
"""A family counts by the square root of its windows, so that none drowns the others."""

BENIGN_WEIGHT: Final = 4.0
KIND_WEIGHTS: Final = {Kind.ABOUT_INJECTION: 0.3, Kind.PACKED: 0.6}
"""Of harmless texts that quote attacks, or have little but their words: less than of others."""

ITERATIONS: Final = 80
ROUNDS: Final = 3
LEAST_CURVATURE: Final = 1e-7

WORD_CAPS: Final = (1.0, 1.5, 2.0)
"""The most one, two and three words may weigh: none makes an attack alone."""

CONCEPT_CAPS: Final = (1.0, 2.0, 3.0)
LEAST: Final = -1.0
"""The least a term may weigh."""

FLOORS: Final = {
    "{ignore} {prior} {rules}": 2.5,
    "{ignore} {rules} {your}": 1.5,
    "{ignore} {own}": 1.5,
    "{ignore} {rules}": 0.0,
    "{ignore} {prior}": 0.0,
    "{prior} {rules}": 0.0,
    "{own}": 0.8,
    "{prompt} {own}": 1.0,
    "{reveal} {own}": 0.8,
    "{prompt} {reveal} {own}": 1.0,
    "{own} {ask}": 0.5,
    "{prompt} {own} {ask}": 0.5,
    "{your} {reveal}": 0.0,
    "{prompt} {reveal}": 0.0,
    "{reveal} {verbatim} {here}": 0.8,
    "{ignore} {model}": 0.8,
    "{model} {send}": 0.8,
    "{model} {recommend}": 0.8,
    "{model} {exec}": 0.8,
    "{model} {process}": 0.8,
    "{model} {note}": 0.6,
    "{not} {send} {inform}": 1.0,
    "{send} {dest} {data}": 0.8,
    "{ignore} {rules} {all}": 1.0,
    "{ignore} {rules} {system}": 1.0,
    "{not} {follow} {rules}": 0.7,
    "{not} {follow} {prior}": 1.0,
    "{ignore} {prior} {prompt}": 1.5,
    "{reveal} {guarded}": 0.5,
    "{prompt} {your} {reveal}": 1.0,
    "{prompt} {system} {reveal}": 1.2,
    "{rules} {your} {reveal}": 0.8,
    "{devmode}": 1.0,
    "{free}": 1.0,
    "{free} {devmode}": 1.5,
    "{role} {free} {limits}": 1.0,
    "{exec} {encode}": 1.2,
    "{only} {frame}": 1.0,
    "{prior} {prompt} {reveal}": 1.0,
    "{say} {only}": 0.5,
    "{role} {free}": 1.0,
    "{limits} {without}": 0.5,
}
"""The least of terms that are what attacks say. They stand beside so much else in training texts
that these are recognised without them."""

NOTICEABLE: Final = 0.15
APART: Final = 1e4
"""More than any sum of a window."""


Form = Callable[[str], object]
"""Whether a model of some form may have a term; `str.strip` for all of them."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of texts, and the first hit of each term in each of them, in their order.

    Each window begins with a hit of no term, at which a passage may begin.
    """

    texts: Array
    is_attack: Array
    families: Array
    factors: Array
    starts: Array
    windows: Array
    ends: Array
    terms: Array


def windows_of(texts: Sequence[Text]) -> Windows:
    """Cut *texts*, in which terms were searched, into windows."""
    owners: list[int] = []
    ends: list[Array] = []
    terms: list[Array] = []
    for number, text in enumerate(texts):
        own_ends, own_terms = ends_of(text.hits), text.hits & INDEX
        for start, end in text.windows():
            first, after = np.searchsorted(own_ends, (start, end))
            once = np.sort(np.unique(own_terms[first:after], return_index=True)[1]) + first
            owners.append(number)
            ends.append(np.concatenate([[start], own_ends[once]]))
            terms.append(np.concatenate([[-1], own_terms[once]]))
    sizes = np.array([len(one) for one in terms])
    return Windows(
        texts=np.array(owners),
        is_attack=np.array([texts[one].sample.is_attack for one in owners]),
        families=np.array([texts[one].sample.family for one in owners]),
        factors=np.array([_factor(texts[one].sample) for one in owners]),
        starts=np.cumsum(sizes) - sizes,
        windows=np.repeat(np.arange(len(owners)), sizes),
        ends=np.concatenate(ends),
        terms=np.concatenate(terms),
    )


def _factor(sample: Sample) -> float:
    return 1.0 if sample.is_attack else KIND_WEIGHTS.get(sample.kind, 1.0)


def fit(windows: Windows, terms: Sequence[str], seen: Array, form: Form = str.strip) -> Array:
    """Return the weight of each term of a *form*, in log odds, by the windows that are *seen*."""
    counted = windows.terms[(windows.terms >= 0) & seen[windows.windows]]
    used = np.flatnonzero(np.bincount(counted, minlength=len(terms)) >= MIN_WINDOWS)
    used = np.array([one for one in used.tolist() if form(terms[one])])
    names = [terms[one] for one in used.tolist()]
    caps = np.array([_cap(name) for name in names])
    floors = np.array([FLOORS.get(name, LEAST) for name in names])
    weights = np.zeros(len(terms))
    passages, bests = windows.terms >= 0, np.zeros(len(windows.texts))
    point = np.append(np.zeros(len(used)), -2.0)
    for number in range(ROUNDS):
        if number:
            passages, bests = _passages(windows, weights)
        chosen = seen & (~windows.is_attack | _better_half(windows, bests))
        point = _fit(
            windows, passages, chosen, used, (floors if number else floors.clip(0), caps), point
        )
        weights[used] = point[:-1]
    weights[np.abs(weights) < NOTICEABLE] = 0.0
    return weights


def _cap(term: str) -> float:
    if concepts := CONCEPT.findall(term):
        return CONCEPT_CAPS[len(concepts) - 1]
    units = len(term) - 2 if PART.fullmatch(term) else term.count(" ")
    return WORD_CAPS[min(units, len(WORD_CAPS) - 1)]


def _passages(windows: Windows, weights: Array) -> tuple[Array, Array]:
    """Return which hits are in the best passage of their window, and the sums of these."""
    gained = np.where(windows.terms >= 0, weights[windows.terms], 0.0)
    apart = np.diff(windows.ends, prepend=0)
    apart[windows.starts] = 0
    sums = np.cumsum(gained - DRIFT / THOUSAND * apart)
    sums -= sums[windows.starts][windows.windows]
    before = sums - gained
    lowest = np.minimum.accumulate(before - windows.windows * APART) + windows.windows * APART
    bests = np.maximum.reduceat(sums - lowest, windows.starts)
    places = np.arange(len(sums))
    is_best = sums - lowest == bests[windows.windows]
    last = np.minimum.reduceat(np.where(is_best, places, len(sums)), windows.starts)
    first = np.maximum.accumulate(np.where(before == lowest, places, 0))[last]
    inside = (places >= first[windows.windows]) & (places <= last[windows.windows])
    return inside & (windows.terms >= 0), bests


def _better_half(windows: Windows, bests: Array) -> Array:
    order = np.lexsort((-bests, windows.texts))
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order)) - np.searchsorted(windows.texts, windows.texts[order])
    better: Array = rank < np.maximum(1, np.bincount(windows.texts)[windows.texts] // 2)
    return better


def _fit(
    windows: Windows, passages: Array, chosen: Array, used: Array,
    bounds: tuple[Array, Array], start: Array,
) -> Array:  # fmt: skip
    """Fit the *used* terms to the *chosen* windows by accelerated projected gradient.

    A step is as long as the curvature of each weight allows, of which the terms of a window share
    that of the window.
    """
    matrix = _matrix(windows, passages, used)[chosen]
    transposed = matrix.T.tocsr()
    signs = np.where(windows.is_attack[chosen], 1.0, -1.0)
    share = shares(windows.is_attack[chosen], windows.families[chosen])
    share = share * windows.factors[chosen]
    sizes = np.asarray(matrix.sum(axis=1)).ravel() + 1
    curvature = np.append(transposed @ (share * sizes), share @ sizes) / 4 + LEAST_CURVATURE
    lower, upper = (np.append(*ends) for ends in zip(bounds, (-np.inf, np.inf), strict=True))
    penalty = np.append(np.full(len(used), PENALTY), 0.0) / curvature
    point = ahead = start
    for number in range(ITERATIONS):
        margins = signs * (matrix @ ahead[:-1] + ahead[-1])
        slope = -signs * share / (1 + np.exp(np.clip(margins, -50, 50)))
        moved = ahead - np.append(transposed @ slope, slope.sum()) / curvature
        shrunk = np.sign(moved) * np.maximum(np.abs(moved) - penalty, 0)
        after = np.clip(shrunk, lower, upper)
        ahead = after + number / (number + 3) * (after - point)
        point = after
    return point


def _matrix(windows: Windows, passages: Array, used: Array) -> Any:
    columns = np.full(int(used.max()) + 1, -1)
    columns[used] = np.arange(len(used))
    kept = passages & (windows.terms <= used.max())
    kept[kept] = columns[windows.terms[kept]] >= 0
    places = windows.windows[kept], columns[windows.terms[kept]]
    shape = len(windows.texts), len(used)
    return sparse.csr_matrix((np.ones(len(places[0])), places), shape=shape)


def shares(is_attack: Array, families: Array) -> Array:
    """Return how much each window counts; those of one family count together."""
    _, numbers = np.unique(families, return_inverse=True)
    counts = np.zeros(len(families))
    for of_class in (is_attack, ~is_attack):
        sizes = np.maximum(np.bincount(numbers[of_class], minlength=numbers.max() + 1), 1)
        counts[of_class] = (sizes ** (FAMILY_EXPONENT - 1))[numbers[of_class]]
        counts[of_class] /= counts[of_class].sum()
    counts[~is_attack] *= BENIGN_WEIGHT
    normalised: Array = counts / counts.sum()
    return normalised
