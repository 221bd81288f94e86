"""Runs all local guardrails over the texts of a request in one pass.

Text that a guardrail redacts is searched again without the redacted values, until no rule finds
anything in the remainder.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple

import msgspec
from blake3 import blake3
from msgspec import structs

from sidecar.domain.cooperative import (
    SHORT_BYTES,
    SHORT_PARTS,
    SLICE_FINDINGS,
    SLICE_PARTS,
    Cooperative,
    run_sync,
)
from sidecar.domain.finding import LOCAL_VERDICTS, Finding, GuardrailResult, Results, Verdict
from sidecar.domain.policy import Action, Guardrail, GuardrailSettings, Mode
from sidecar.domain.subject import TextPart
from sidecar.guardrails.deobfuscation.decoders import (
    FOR_ALL,
    FOR_WORDS,
    LEET_KIND,
    MAX_DEPTH,
    read,
    sources,
)
from sidecar.guardrails.detectors.whole_text import WholeTextCheck
from sidecar.guardrails.matching.boundaries import BoundaryWindow, boundary_windows
from sidecar.guardrails.matching.database import MAX_SEARCHES, SEPARATOR, ExpressionDatabase, Hits
from sidecar.guardrails.matching.rule import (
    Expression,
    Located,
    Rule,
    disjoint_in_turns,
    merged,
    spans,
)
from sidecar.guardrails.matching.text_views import ONE_VIEW, TextView, views_of
from sidecar.guardrails.registry import judges_texts, rank_of, rules_of, whole_text_check

MAX_FINDINGS: Final = 2_000
"""Findings of one guardrail in one request; of more, each text with one counts as found."""


class ScannedTexts(NamedTuple):
    """The texts of one request after the one pass over them.

    `views` are the parts in the order they were scanned, several of one with unusual characters.
    `ends` has the end of each, its separator included. `hits` are the database's; if many,
    `places` are the views with each. `joined` are all parts if short and with one view each.
    """

    parts: Sequence[TextPart]
    views: Sequence[TextView]
    ends: Sequence[int]
    hits: Hits
    joined: bytes | None = None
    places: Mapping[int, Sequence[int]] | None = None


Runs = Sequence[Sequence[int]]
"""Parts, by index, that the model reads as one text."""
_Short = tuple[bytes, Hits]
"""The parts of a short request with one view each, separators between them, and their hits."""


@dataclass(frozen=True, slots=True)
class _RuleCheck:
    """One guardrail's rules by expression id; None is the id of those no database can filter."""

    rules: Mapping[int | None, tuple[Rule, ...]]

    def search(
        self, texts: ScannedTexts, *, guardrail: str
    ) -> Cooperative[tuple[tuple[Finding, ...], bool]]:
        """Search the spans of the rules that hit; return whether one gave up as well."""
        located: list[Located] = []
        wholes: dict[int, tuple[int, str]] = {}  # the lowest rank and type of each such part
        gave_up = False
        for count, id_ in enumerate((*(texts.hits.keys() & self.rules.keys()), None), start=1):
            if not count % SLICE_PARTS:  # the expression of each may be compiled here
                yield
            views, ends = texts.views, texts.ends
            first_end = 0 if id_ is None else texts.hits[id_][0]
            if id_ is not None and texts.places is not None:
                places = texts.places.get(id_, ())
                views, ends = [views[one] for one in places], [ends[one] for one in places]
            for rule in self.rules.get(id_, ()):
                found, was_bounded = yield from spans(
                    rule, views, ends, first_end=first_end, wholes=wholes
                )
                gave_up |= was_bounded
                located += [(*one, rule.rank, rule.type, guardrail) for one in found]
                if wholes or len(located) > MAX_FINDINGS:
                    for part, _, _, rank, type_, _ in located:
                        wholes[part] = min(wholes.get(part, (rank, type_)), (rank, type_))
                    located = []
                if len(wholes or located) > SLICE_FINDINGS:
                    yield
        for part, (rank, type_) in wholes.items():
            located.append((part, 0, len(texts.parts[part].content), rank, type_, guardrail))
        gave_up |= bool(wholes)
        return (yield from disjoint_in_turns(located)) if located else (), gave_up


_ids: Final = lru_cache(maxsize=1024)(frozenset[int | None])


@lru_cache(maxsize=1024)
def _rule_check(settings: GuardrailSettings, ids: tuple[int | None, ...]) -> _RuleCheck:
    """Return the rules of *settings*, whose expressions have these *ids*; policies share them."""
    rules: dict[int | None, tuple[Rule, ...]] = {}
    for rule, id_ in zip(rules_of(settings), ids, strict=True):
        if not (rule.folded or rule.by_author):  # thousands, of which most never match
            _ = rule.pattern  # compiled now, not in the first scan that needs it
        rules[id_] = (*rules.get(id_, ()), rule)
    return _RuleCheck(rules)


class LocalScan:
    """The local guardrails of one effective policy, ready to run.

    Scans with the same `digest` return the same results, in any worker of this version. `passing`
    are the results of most texts; `most` has the limits of guardrails that count, by index.
    """

    def __init__(
        self,
        guardrails: Iterable[Guardrail],
        *,
        database: ExpressionDatabase,
        ids: Mapping[Expression, int],
    ) -> None:
        self._database = database
        self.guardrails = tuple(one for one in guardrails if judges_texts(one))
        every = [one.settings for one in self.guardrails]
        self._checks = tuple(
            whole_text_check(one)
            or _rule_check(one, tuple([ids.get(rule.expression) for rule in rules_of(one)]))
            for one in every
        )
        folded = {rule.expression for one in every for rule in rules_of(one) if rule.folded}
        self._folded = bool(folded)
        self._for_words = database.of(folded)
        self._decoders = tuple(
            (decoder, None if decoder.trigger is None else ids.get(decoder.trigger))
            for decoder in (FOR_WORDS if self._folded else FOR_ALL)
            if decoder.trigger is None or decoder.trigger in ids
        )
        self._always = tuple(one for one, trigger in self._decoders if trigger is None)
        self._always_in_ascii = tuple(one for one in self._always if one.ascii)
        self._unread: Results = tuple(
            GuardrailResult(one, Verdict.PASS) for one in self.guardrails
        )
        self.passing: Results = tuple(
            result if isinstance(check, _RuleCheck) else check.passing(result.guardrail)
            for check, result in zip(self._checks, self._unread, strict=True)
        )
        rules = [check.rules.keys() for check in self._checks if isinstance(check, _RuleCheck)]
        self._rule_ids: frozenset[int | None] = _ids(frozenset().union(*rules))
        self._is_filtered = None not in self._rule_ids
        self._reads = any(isinstance(one, _RuleCheck) or one.reads_views for one in self._checks)
        self._trigger_ids = frozenset(id_ for _, id_ in self._decoders if id_ is not None)
        self._whole_checks = tuple(
            (at, one) for at, one in enumerate(self._checks) if not isinstance(one, _RuleCheck)
        )
        form = (
            [(one.settings.guardrail_type, one) for one in self.guardrails],
            [(type(one).__name__, one.trigger) for one, _ in self._decoders],
        )
        self.digest = blake3(msgspec.json.encode(form, order="deterministic")).digest()
        self.most = {at: one.most for at, one in self._whole_checks if one.most is not None}

    def scan(self, parts: Sequence[TextPart], runs: Runs = ()) -> Results:
        """Return one result a guardrail, in the order of `guardrails`.

        *runs* are those of the subject: parts that the model reads as one text.
        """
        started = self.start(parts, runs)
        return started if isinstance(started, tuple) else run_sync(started)

    def start(self, parts: Sequence[TextPart], runs: Runs = ()) -> Results | Cooperative[Results]:
        """Return results without findings, or the work that leads to those that `scan` returns.

        Most requests get them at once: their text is short, no rule matches, nothing is hidden.
        """
        if not self._checks or not parts:
            return self._unread
        short = self._scan_short(parts) if self._reads else None
        if short is None or runs or self._needs_search(short):
            return self._scan(parts, runs, short)
        results = self.passing
        for index, check in self._whole_checks:
            passing = self.passing[index]
            try:
                result = check.judge(parts, short[0], passing)
            except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
                result = GuardrailResult.failed(passing.guardrail, error)
            if not isinstance(result, GuardrailResult) or result.findings:
                return self._scan(parts, runs, short)
            if result is not passing:
                results = (*results[:index], result, *results[index + 1 :])
        return results

    def _scan_short(self, parts: Sequence[TextPart]) -> _Short | None:
        """Scan short text with one view as it is; return None for any other."""
        if len(parts) > SHORT_PARTS:
            return None
        contents = [part.content for part in parts]
        if sum(map(len, contents)) + len(contents) > SHORT_BYTES:
            return None
        joined_content = SEPARATOR.join(contents)
        try:
            if not self._database.have_one_view(contents, joined_content):
                return None
            return joined_content, self._database.scan_short(joined_content)
        except Exception:  # noqa: BLE001 - the whole scan fails as well, by each `on_error`
            return None

    def _needs_search(self, short: _Short) -> bool:
        """Return whether a rule may match in short texts, or text may be hidden in them."""
        if self._is_filtered and not (short[1] or self._always_in_ascii) and short[0].isascii():
            return False  # mostly
        is_clear = self._is_filtered and self._rule_ids.isdisjoint(short[1])
        return not is_clear or self._may_hide_text(short)

    def _may_hide_text(self, short: _Short) -> bool:
        joined_content, hits = short
        always = self._always_in_ascii if joined_content.isascii() else self._always
        return not self._trigger_ids.isdisjoint(hits) or any(
            one.applies(joined_content) for one in always
        )

    def _scan(
        self, parts: Sequence[TextPart], runs: Runs, short: _Short | None
    ) -> Cooperative[Results]:
        """Do all of the work in slices of a millisecond or two; *short* is done already.

        The results have every match that redacting by them would bring to light.
        """
        now = list((yield from self._scan_once(parts, runs, short)))
        redacted: PartSpans = (yield from spans_to_redact(now)) if self._rule_ids else {}
        for _ in range(MAX_RESCANS):
            if not redacted:
                return tuple(now)
            left, left_runs = yield from remainders(parts, runs, redacted)
            left_parts = [TextPart(one.content, (), "") for one in left]
            short = self._scan_short(left_parts)
            if short is not None and not left_runs and not self._needs_search(short):
                return tuple(now)
            # By rules alone: a count would count the rest a second time.
            rescanned = yield from self._scan_once(left_parts, left_runs, short, by_rules=True)
            for index, result in enumerate(rescanned):
                known = now[index]
                if known.failure is not None:
                    continue
                if result.failure is not None:
                    now[index] = result
                if result.findings and (more := (yield from in_parts(result.findings, left))):
                    findings = yield from joined(known.guardrail, known.findings, more)
                    verdict = LOCAL_VERDICTS[known.guardrail.action]
                    now[index] = known._replace(
                        verdict=verdict, findings=findings, gave_up=known.gave_up or result.gave_up
                    )
            before, redacted = redacted, (yield from spans_to_redact(now))
            if redacted == before:
                return tuple(now)
        for index, known in enumerate(now):  # each part with a finding is found as a whole
            first = {one.part: one for one in reversed(known.findings)}
            whole = tuple(
                Finding(one.guardrail, one.type, part, 0, len(parts[part].content))
                for part, one in sorted(first.items())
            )
            now[index] = known._replace(findings=whole, gave_up=True) if whole else known
        return tuple(now)

    def _scan_once(
        self,
        parts: Sequence[TextPart],
        runs: Runs,
        short: _Short | None,
        *,
        by_rules: bool = False,
    ) -> Cooperative[Results]:
        try:
            if not self._reads:
                texts = ScannedTexts(parts, (), (), {})
            elif short is None or self._may_hide_text(short):
                texts = yield from self._read(parts, short)
            else:
                views = _plain_views(parts)
                texts = ScannedTexts(parts, views, _ends(views), hits=short[1], joined=short[0])
            across: _Across | None = None
            if runs and self._rule_ids and (windows := (yield from boundary_windows(parts, runs))):
                around = [TextPart(one.content, (), "") for one in windows]
                across = windows, (yield from self._read(around, None))
        except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
            return tuple([GuardrailResult.failed(one, error) for one in self.guardrails])
        results, hits = list(self._unread), {*texts.hits, None}
        for index, check in enumerate(self._checks):
            if isinstance(check, _RuleCheck):
                if across is None and check.rules.keys().isdisjoint(hits):
                    continue  # passes, as most do
            elif by_rules:
                continue
            results[index] = yield from _judge(check, self.passing[index], texts, across)
        return tuple(results)

    def _read(self, parts: Sequence[TextPart], short: _Short | None) -> Cooperative[ScannedTexts]:
        """Scan *parts* in all their views, and the texts that are hidden in them."""
        contents = [part.content for part in parts]
        joined_content = SEPARATOR.join(contents)
        views: list[TextView] = []
        is_plain = short is not None or self._database.have_one_view(contents, joined_content)
        if is_plain:
            views += _plain_views(parts)
            hits = short[1] if short else (yield from self._database.scan_joined(joined_content))
        else:
            for index, content in enumerate(contents):
                if index and not index % SLICE_PARTS:
                    yield
                if len(contents) > 1 and self._database.have_one_view((content,), content):
                    views.append(TextView(index, ONE_VIEW, content, len(content)))
                else:
                    views += yield from views_of(index, content, folded=self._folded)
            hits = yield from self._database.scan([view.content for view in views])
        found, latest = sources(views), hits
        for depth in range(MAX_DEPTH):
            chosen = [one for one, id_ in self._decoders if id_ is None or id_ in latest]
            if is_plain and short is None and not depth:  # many texts at once, mostly in vain
                chosen = [one for one in chosen if one.applies(joined_content)]
            found = yield from read(found, chosen)
            if not found:
                break
            # Only rules for words search letters in the place of digits: copies of whole texts.
            leet = [one for one in found if one.kinds is LEET_KIND]
            found = [one for one in found if one.kinds is not LEET_KIND]
            latest = yield from _scan_more(self._database, found, views, hits)
            yield from _scan_more(self._for_words, leet, views, hits)
        is_heavy = len(self._rule_ids & hits.keys()) * len(views) > MAX_SEARCHES
        places = (yield from self._database.places(views)) if is_heavy else None
        return ScannedTexts(parts, views, _ends(views), hits, places=places)


def _scan_more(
    database: ExpressionDatabase, more: Sequence[TextView], views: list[TextView], hits: Hits
) -> Cooperative[Hits]:
    """Scan *more* views; add them to *views*, and what occurs in them to *hits*."""
    if not more:
        return {}
    found = yield from database.scan([view.content for view in more])
    base = sum(len(view.content) + 1 for view in views)
    for id_, ends in found.items():
        hits.setdefault(id_, []).extend(base + end for end in ends)
    views += more
    return found


def _plain_views(parts: Sequence[TextPart]) -> Sequence[TextView]:
    """Return texts with one view each as rules search them: each part is its own view."""
    return [
        TextView(index, ONE_VIEW, part.content, len(part.content))
        for index, part in enumerate(parts)
    ]


def _ends(views: Sequence[TextView]) -> Sequence[int]:
    return tuple(accumulate([len(view.content) + 1 for view in views]))


_Check = _RuleCheck | WholeTextCheck
_Across = tuple[Sequence[BoundaryWindow], ScannedTexts]
"""The text around the borders of runs, as texts of their own."""


def _judge(
    check: _Check, passing: GuardrailResult, texts: ScannedTexts, across: _Across | None
) -> Cooperative[GuardrailResult]:
    """Judge *texts*; a check that raises fails its own guardrail, and only that.

    Only rules look *across* borders: a count would count the text there twice.
    """
    guardrail = passing.guardrail
    try:
        if not isinstance(check, _RuleCheck):
            judged = check.judge(
                texts.parts, texts.views if texts.joined is None else texts.joined, passing
            )
            return judged if isinstance(judged, GuardrailResult) else (yield from judged)
        findings, gave_up = yield from check.search(texts, guardrail=guardrail.name)
        if across is not None:
            windows, around = across
            seen, gave_up_across = yield from check.search(around, guardrail=guardrail.name)
            gave_up |= gave_up_across
            if located := (yield from in_parts(seen, windows)):
                findings = yield from joined(guardrail, findings, located)
        if not findings:
            return passing
        verdict = LOCAL_VERDICTS[guardrail.action]
        return GuardrailResult(guardrail, verdict, findings, gave_up=gave_up)
    except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
        return GuardrailResult.failed(guardrail, error)


STAND_IN: Final = b"[]"
"""Stands in the place of a redacted span: the ends of any placeholder, and little meaning."""

PartSpans = Mapping[int, Sequence[tuple[int, int]]]
"""Spans of each part, by its index: in order, of which no two overlap."""


@dataclass(frozen=True, slots=True)
class Remainder:
    """A part with a stand-in for each redacted span; `ends` are the offsets of their ends."""

    part: int
    content: bytes
    spans: tuple[tuple[int, int], ...]
    ends: tuple[int, ...]

    def located(self, finding: Finding) -> Sequence[Finding]:
        """Return a finding by its offsets in the part; nothing for one within a stand-in."""
        start, is_taken = self._origin(finding.start)
        last, ends_taken = self._origin(finding.end - 1)
        if is_taken and ends_taken and start == last:
            return ()
        start = self.spans[start][0] if is_taken else start
        end = self.spans[last][1] if ends_taken else last + 1
        return (structs.replace(finding, part=self.part, start=start, end=end),)

    def _origin(self, offset: int) -> tuple[int, bool]:
        """Return the offset in the part, or the number of the span whose stand-in it is in."""
        index = bisect_right(self.ends, offset)
        if index < len(self.ends) and offset >= self.ends[index] - len(STAND_IN):
            return index, True
        if not index:
            return offset, False
        return self.spans[index - 1][1] + offset - self.ends[index - 1], False


def remainders(
    parts: Sequence[TextPart], runs: Runs, redacted: PartSpans
) -> Cooperative[tuple[tuple[Remainder, ...], tuple[tuple[int, ...], ...]]]:
    """Return the rest of each part that something is taken out of, and of their runs."""
    touched = [run for run in runs if not redacted.keys().isdisjoint(run)]
    left: list[Remainder] = []
    places: dict[int, int] = {}
    for index in sorted(redacted.keys() | {index for run in touched for index in run}):
        if left and not len(left) % SLICE_FINDINGS:
            yield
        content, spans = parts[index].content, redacted.get(index, ())
        pieces: list[bytes] = []
        ends: list[int] = []
        position = length = 0
        for start, end in spans:
            pieces += (content[position:start], STAND_IN)
            length += start - position + len(STAND_IN)
            ends.append(length)
            position = end
        pieces.append(content[position:])
        places[index] = len(left)
        left.append(Remainder(index, b"".join(pieces), tuple(spans), tuple(ends)))
    return tuple(left), tuple(tuple(places[index] for index in run) for run in touched)


def in_parts(
    findings: Sequence[Finding], texts: Sequence[BoundaryWindow | Remainder]
) -> Cooperative[list[Finding]]:
    """Return findings in *texts*, which were made of parts, as findings in these parts."""
    located: list[Finding] = []
    for count, one in enumerate(findings, start=1):
        located += texts[one.part].located(one)
        if not count % SLICE_FINDINGS:
            yield
    return located


MAX_RESCANS: Final = 4
"""A text that still changes then is one that is made to; it counts as found as a whole."""


def joined(
    guardrail: Guardrail, known: Sequence[Finding], more: Sequence[Finding]
) -> Cooperative[tuple[Finding, ...]]:
    """Return the findings of both searches of a guardrail, of which no two overlap."""
    located: list[Located] = []
    for index, one in enumerate((*known, *more), start=1):
        rank = rank_of(guardrail, one.type)
        located.append((one.part, one.start, one.end, rank, one.type, one.guardrail))
        if not index % SLICE_FINDINGS:
            yield
    return (yield from disjoint_in_turns(located))


def spans_to_redact(results: Iterable[GuardrailResult]) -> Cooperative[PartSpans]:
    """Return the spans that all guardrails together redact: none of a request that is blocked."""
    located: list[Located] = []
    for result in results:
        guardrail = result.guardrail
        if guardrail.mode is Mode.SHADOW or not result.findings:
            continue
        if guardrail.action is Action.BLOCK:
            return {}
        if guardrail.action is Action.REDACT:
            located += [(one.part, one.start, one.end, 0, "", "") for one in result.findings]
    spans: dict[int, list[tuple[int, int]]] = {}
    for count, (part, start, end, *_) in enumerate(merged(located), start=1):
        spans.setdefault(part, []).append((start, end))
        if not count % SLICE_FINDINGS:
            yield
    return spans
