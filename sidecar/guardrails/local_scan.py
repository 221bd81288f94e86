"""Runs all local guardrails over the texts of a request in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from sidecar.domain.finding import NOTHING, Failed, Found, Outcome
from sidecar.domain.policy import Guardrail
from sidecar.domain.subject import TextPart
from sidecar.guardrails.cooperative import SLICE_BYTES, SLICE_FINDINGS, Cooperative, run_sync
from sidecar.guardrails.deobfuscation.decoders import FOR_ALL, FOR_WORDS, MAX_DEPTH, read, sources
from sidecar.guardrails.detectors.whole_text import ScannedTexts, WholeTextCheck
from sidecar.guardrails.matching.boundaries import BoundaryWindow, boundary_windows
from sidecar.guardrails.matching.database import SEPARATOR, ExpressionDatabase, Hits
from sidecar.guardrails.matching.rescan import Runs, disjoint_findings, joined, rescan_until_stable
from sidecar.guardrails.matching.rule import Expression, Rule
from sidecar.guardrails.matching.spans import Located, spans
from sidecar.guardrails.matching.text_views import TextView, as_is, is_plain_ascii, views_of
from sidecar.guardrails.registry import judges_texts, rules_of, whole_text_check

Outcomes = tuple[Outcome, ...]

SHORT_BYTES: Final = 512
"""A text that is worth a look of its own before all else; longer ones would be scanned twice."""

MAX_FINDINGS: Final = 2_000
"""Findings of one guardrail in one request; of more, each text with one counts as found."""


@dataclass(frozen=True, slots=True)
class _Texts:
    """All parts in all views, and where each ends in what is scanned, a separator included."""

    parts: Sequence[TextPart]
    views: tuple[TextView, ...]
    ends: tuple[int, ...]
    hits: Hits


@dataclass(frozen=True, slots=True)
class _Borders:
    """The text around the borders of runs, as texts of their own."""

    boundary_windows: Sequence[BoundaryWindow]
    texts: _Texts

    def located(self, outcome: Outcome) -> Outcome:
        """Return what was found there as findings in the parts."""
        if isinstance(outcome, Failed):
            return outcome
        return Found(
            tuple(
                finding
                for found in outcome.findings
                for finding in self.boundary_windows[found.part].located(found)
            )
        )


@dataclass(frozen=True, slots=True)
class _RuleCheck:
    """One guardrail's rules: those the database filters, by id, and those it cannot."""

    guardrail: Guardrail
    filtered: Mapping[int, tuple[Rule, ...]]
    unfiltered: tuple[Rule, ...]

    def is_needed(self, hits: Hits) -> bool:
        """Tell whether anything can be found at all."""
        return bool(self.unfiltered) or not self.filtered.keys().isdisjoint(hits)

    def judge(self, texts: _Texts) -> Cooperative[Found]:
        """Search the spans of the rules that hit."""
        hits, name = texts.hits, self.guardrail.name
        rules = [(rule, hits[id_][0]) for id_ in hits.keys() & self.filtered.keys()
                 for rule in self.filtered[id_]]  # fmt: skip
        rules += [(rule, 0) for rule in self.unfiltered]
        located: list[Located] = []
        for rule, first_end in rules:
            found = yield from spans(rule, texts.views, texts.ends, first_end=first_end)
            rank, type_ = rule.rank, rule.type
            located += [(part, start, end, rank, type_, name) for part, start, end in found]
            if len(located) > MAX_FINDINGS:
                located = _whole_parts(located, texts, name)
            if len(located) > SLICE_FINDINGS:
                yield
        return Found((yield from disjoint_findings(located)))


@dataclass(frozen=True, slots=True)
class _WholeCheck:
    """One guardrail that judges texts as a whole; `ids` leads from the database's ids to its."""

    guardrail: Guardrail
    check: WholeTextCheck
    ids: Mapping[int, int]

    def is_needed(self, hits: Hits) -> bool:
        """Tell that it always is: what it counts is not among the hits alone."""
        del hits
        return True

    def judge(self, texts: _Texts) -> Cooperative[Found]:
        """Let the check judge by its own hits."""
        own = {self.ids[id_]: ends for id_, ends in texts.hits.items() if id_ in self.ids}
        scanned = ScannedTexts(self.guardrail.name, texts.parts, texts.views, texts.ends, own)
        return self.check.judge(scanned)


_Check = _RuleCheck | _WholeCheck


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
            _check(guardrail, ids) for guardrail in guardrails if judges_texts(guardrail)
        )
        self.guardrails = tuple(check.guardrail for check in self._checks)
        self._folded = any(
            rule.folded for guardrail in self.guardrails for rule in rules_of(guardrail.settings)
        )
        decoders = FOR_WORDS if self._folded else FOR_ALL
        self._untriggered = tuple(one for one in decoders if one.trigger is None)
        self._triggered = {
            ids[one.trigger]: one
            for one in decoders
            if one.trigger is not None and one.trigger in ids
        }
        self._nothing: Outcomes = tuple(NOTHING for _ in self._checks)
        filtered = [
            check.filtered
            for check in self._checks
            if isinstance(check, _RuleCheck) and not check.unfiltered
        ]
        self._is_filtered = len(filtered) == len(self._checks)
        self._own_ids = frozenset(self._triggered).union(*filtered)

    def scan(self, parts: Sequence[TextPart], runs: Runs = ()) -> Outcomes:
        """Return one outcome a guardrail, in the order of `guardrails`.

        *runs* are those of the subject: parts that the model reads as one text.
        """
        return run_sync(self.steps(parts, runs))

    def at_a_glance(self, content: bytes) -> Outcomes | None:
        """Return what `scan` says of a short text with nothing in it; None where there may be.

        Most events of a stream end here, at a third of the cost.
        """
        if not self._is_filtered or len(content) > SHORT_BYTES or not is_plain_ascii(content):
            return None
        try:
            hits = self._database.scan_short(content)
            if not self._own_ids.isdisjoint(hits) or self._may_say_more(content, hits):
                return None
        except Exception:  # noqa: BLE001 - the whole scan will fail as well, and say in which direction
            return None
        return self._nothing

    def steps(self, parts: Sequence[TextPart], runs: Runs = ()) -> Cooperative[Outcomes]:
        """Do what `scan` does, in slices of a millisecond or two."""
        if not self._checks or not parts:
            return self._nothing
        outcomes = yield from self._look(parts, runs, self._checks)
        if not any(isinstance(one, Found) and one.findings for one in outcomes):
            return tuple(outcomes)
        return (
            yield from rescan_until_stable(
                self.guardrails, outcomes, texts=(parts, runs), look=self._look_by_rules
            )
        )

    def _look_by_rules(
        self, parts: Sequence[TextPart], runs: Runs
    ) -> Cooperative[Sequence[Outcome]]:
        rules = tuple(one if isinstance(one, _RuleCheck) else None for one in self._checks)
        return self._look(parts, runs, rules)

    def _look(
        self, parts: Sequence[TextPart], runs: Runs, checks: Sequence[_Check | None]
    ) -> Cooperative[Sequence[Outcome]]:
        """Judge once; a check that is left out finds nothing."""
        try:
            texts = yield from self._read(parts)
            borders = (yield from self._borders(parts, runs)) if runs else None
        except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
            failed = Failed(type(error).__name__)
            return [failed for _ in self._checks]
        outcomes: list[Outcome] = []
        for check in checks:
            outcome: Outcome = NOTHING
            if check is not None and check.is_needed(texts.hits):
                outcome = yield from _judged(check, texts)
            outcomes.append(outcome)
        if borders:
            yield from self._search_seams(borders, outcomes)
        return outcomes

    def _search_seams(self, borders: _Borders, outcomes: list[Outcome]) -> Cooperative[None]:
        """Add what stands across borders, by rules alone: a count would count it twice."""
        for index, check in enumerate(self._checks):
            known = outcomes[index]
            if not isinstance(check, _RuleCheck) or not check.is_needed(borders.texts.hits):
                continue
            outcome = yield from _judged(check, borders.texts)
            if isinstance(known, Found):
                seen = borders.located(outcome)
                outcomes[index] = yield from joined(check.guardrail, known, seen)

    def _borders(self, parts: Sequence[TextPart], runs: Runs) -> Cooperative[_Borders | None]:
        found = boundary_windows(parts, runs)
        if not found:
            return None
        views = [TextPart(window.content, (), "") for window in found]
        return _Borders(found, (yield from self._read(views)))

    def _read(self, parts: Sequence[TextPart], *, controls: bool = False) -> Cooperative[_Texts]:
        """Read and scan; once more with *controls* where there are any, which is seldom."""
        views: list[TextView] = []
        for index, part in enumerate(parts):
            content = part.content
            if not controls and content.isascii() and SEPARATOR not in content:
                views.append(as_is(index, content))
            else:
                views += yield from views_of(index, content, folded=self._folded)
        contents = [view.content for view in views]
        is_short = sum(map(len, contents)) <= SLICE_BYTES
        joined = [SEPARATOR.join(contents)] if is_short else contents
        if not controls and any(map(self._database.has_controls, joined)):
            return (yield from self._read(parts, controls=True))
        if is_short:
            hits = self._database.scan_short(joined[0])
            if self._may_say_more(joined[0], hits):
                yield from self._read_on(views, hits)
        else:
            hits = yield from self._database.scan(contents)
            yield from self._read_on(views, hits)
        ends = tuple(accumulate([len(view.content) + 1 for view in views]))
        return _Texts(parts, tuple(views), ends, hits)

    def _may_say_more(self, joined: bytes, hits: Hits) -> bool:
        """Tell whether a decoder may apply to any of the texts: to all of them, joined, then."""
        return not self._triggered.keys().isdisjoint(hits) or any(
            decoder.applies(joined) for decoder in self._untriggered
        )

    def _read_on(self, views: list[TextView], hits: Hits) -> Cooperative[None]:
        """Add what the texts say between the lines, and its hits."""
        found: Sequence[TextView] = sources(views)
        latest = hits
        for _ in range(MAX_DEPTH):
            chosen = [self._triggered[id_] for id_ in sorted(self._triggered.keys() & latest)]
            found = yield from read(found, (*self._untriggered, *chosen))
            if not found:
                return
            latest = yield from self._database.scan([view.content for view in found])
            base = sum(len(view.content) + 1 for view in views)
            for id_, ends in latest.items():
                hits.setdefault(id_, []).extend(base + end for end in ends)
            views += found


def _whole_parts(located: list[Located], texts: _Texts, name: str) -> list[Located]:
    """Return the parts with a finding as a whole, each named by what stands highest in it."""
    kinds: dict[int, tuple[int, str]] = {}
    for part, _, _, rank, type_, _ in located:
        kinds[part] = min(kinds.get(part, (rank, type_)), (rank, type_))
    return [(part, 0, len(texts.parts[part].content), *kind, name) for part, kind in kinds.items()]


def _judged(check: _Check, texts: _Texts) -> Cooperative[Outcome]:
    """Judge; a check that raises fails its own guardrail, and only that."""
    try:
        return (yield from check.judge(texts))
    except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
        return Failed(type(error).__name__)


def _check(guardrail: Guardrail, ids: Mapping[Expression, int]) -> _Check:
    whole = whole_text_check(guardrail.settings)
    if whole is not None:
        own = {ids[expression]: index for index, expression in enumerate(whole.expressions)}
        return _WholeCheck(guardrail, whole, own)
    filtered: dict[int, tuple[Rule, ...]] = {}
    unfiltered: list[Rule] = []
    for rule in rules_of(guardrail.settings):
        _ = rule.pattern  # compiled now, not in the first scan that needs it
        if rule.expression.filtered:
            id_ = ids[rule.expression]
            filtered[id_] = (*filtered.get(id_, ()), rule)
        else:
            unfiltered.append(rule)
    return _RuleCheck(guardrail, filtered, tuple(unfiltered))
