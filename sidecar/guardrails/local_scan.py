"""All local guardrails in one pass over all text of a request.

Hyperscan says which expressions occur at all; RE2 finds the spans of those few; validators
confirm. Texts are scanned joined, but spans are searched in each text alone, so that nothing
can match across two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from sidecar.domain.finding import Finding
from sidecar.domain.policy import Guardrail
from sidecar.domain.subject import TextPart
from sidecar.guardrails.database import ExpressionDatabase
from sidecar.guardrails.effective import judges_input
from sidecar.guardrails.overlaps import disjoint
from sidecar.guardrails.rules.catalogue import is_remote, rank_of, rules_of
from sidecar.guardrails.rules.rule import Expression, Rule, Span
from sidecar.guardrails.text_views import Origins, Piece, View, pieces_of

SEPARATOR: Final = b"\x00"
"""Between texts: no word character, no white space, and valid UTF-8, which Hyperscan needs."""


BYTES_A_CANDIDATE: Final = 64
"""Every so many bytes of one candidate count as one more."""


@dataclass(frozen=True, slots=True)
class Found:
    """A guardrail's findings, of which no two overlap, in text order."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A guardrail that could not judge; `error_type` is an exception's class name."""

    error_type: str


@dataclass(frozen=True, slots=True)
class _Check:
    """One guardrail's rules: those the database filters, by id, and those it cannot."""

    guardrail: Guardrail
    filtered: Mapping[int, tuple[Rule, ...]]
    unfiltered: tuple[Rule, ...]


class LocalScan:
    """The local guardrails of one effective policy, ready to run."""

    def __init__(
        self,
        guardrails: Iterable[Guardrail],
        *,
        database: ExpressionDatabase,
        ids: Mapping[Expression, int],
    ) -> None:
        self._database = database
        self._checks = tuple(
            _check(guardrail, ids)
            for guardrail in guardrails
            if judges_input(guardrail) and not is_remote(guardrail)
        )
        self.guardrails = tuple(check.guardrail for check in self._checks)
        self._folded = any(
            rule.folded for guardrail in self.guardrails for rule in rules_of(guardrail.settings)
        )
        self._always = any(check.unfiltered for check in self._checks)

    def scan(self, parts: Sequence[TextPart]) -> tuple[Found | Failed, ...]:
        """Return one outcome a guardrail, in the order of `guardrails`."""
        if not self._checks or not parts:
            return tuple(_NOTHING for _ in self._checks)
        try:
            joined, pieces = self._pieces(parts)
            hits = self._database.scan(joined)
        except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
            failed = Failed(type(error).__name__)
            return tuple(failed for _ in self._checks)
        if not hits and not self._always:
            return tuple(_NOTHING for _ in self._checks)
        search = _Search(pieces)
        return tuple(search.run(check, hits) for check in self._checks)

    def _pieces(self, parts: Sequence[TextPart]) -> tuple[bytes, tuple[Piece, ...]]:
        joined = SEPARATOR.join([part.content for part in parts])
        pieces = tuple(
            piece
            for index, part in enumerate(parts)
            for piece in pieces_of(index, part.content, folded=self._folded)
        )
        if len(pieces) > len(parts) or not joined.isascii():
            joined = SEPARATOR.join([piece.content for piece in pieces])
        return joined, pieces


_NOTHING: Final = Found(())


def _check(guardrail: Guardrail, ids: Mapping[Expression, int]) -> _Check:
    filtered: dict[int, tuple[Rule, ...]] = {}
    unfiltered: list[Rule] = []
    for rule in rules_of(guardrail.settings):
        _ = rule.pattern  # compiled now, not in the first scan that needs it
        if rule.expression.filtered:
            id_ = ids[rule.expression]
            filtered[id_] = (*filtered.get(id_, ()), rule)
        else:
            unfiltered.append(rule)
    return _Check(guardrail, filtered, tuple(unfiltered))


class _Search:
    """The spans of the rules that hit, in the texts of one request."""

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        self._pieces = pieces
        self._ends = tuple(accumulate(len(piece.content) + 1 for piece in pieces))
        self._origins: dict[int, Origins] = {}

    def run(self, check: _Check, hits: Mapping[int, int]) -> Found | Failed:
        """Return what *check* finds; a rule that raises fails its guardrail, and only that."""
        rules = [(rule, hits[id_]) for id_ in hits.keys() & check.filtered.keys()
                 for rule in check.filtered[id_]]  # fmt: skip
        rules += [(rule, 0) for rule in check.unfiltered]
        if not rules:
            return _NOTHING
        guardrail = check.guardrail
        try:
            found = [
                Finding(guardrail.name, rule.type, part, start, end)
                for rule, first_end in rules
                for part, start, end in self._spans(rule, first_end)
            ]
            return Found(disjoint(found, rank=lambda one: rank_of(guardrail, one.type)))
        except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
            return Failed(type(error).__name__)

    def _spans(self, rule: Rule, first_end: int) -> Iterator[tuple[int, int, int]]:
        view = View.FOLDED if rule.folded else None
        left = rule.max_candidates
        for index, piece in enumerate(self._pieces):
            if self._ends[index] <= first_end or not _searches(view, piece):
                continue
            if left <= 0:  # too many to look at: what is left counts as found
                if piece.original:
                    yield piece.part, 0, len(piece.original)
                continue
            tried = 0
            for span in rule_candidates(rule, piece.content):
                tried += _weight(rule, span)
                if tried > left:
                    yield piece.part, 0, len(piece.original)
                    break
                for start, end in _located(rule, piece.content, span):
                    yield (piece.part, *self._origin(index).span(start, end))
            left -= tried

    def _origin(self, index: int) -> Origins:
        origin = self._origins.get(index)
        if origin is None:
            origin = self._origins[index] = Origins(self._pieces[index])
        return origin


def _searches(view: View | None, piece: Piece) -> bool:
    if view is None:
        return View.RAW in piece.views or View.PLAIN in piece.views
    return view in piece.views


def rule_candidates(rule: Rule, content: bytes) -> Iterator[Span]:
    """Return the spans the expression alone finds, left to right."""
    group = rule.group
    for match in rule.pattern.finditer(content):
        start, end = match.span(group)
        if start < end:
            yield start, end


def _weight(rule: Rule, span: Span) -> int:
    """Return how many candidates a long one counts for: some validators go through it all."""
    return 1 if rule.locate is None else 1 + (span[1] - span[0]) // BYTES_A_CANDIDATE


def _located(rule: Rule, content: bytes, span: Span) -> Iterable[Span]:
    return (span,) if rule.locate is None else rule.locate(content, *span)
