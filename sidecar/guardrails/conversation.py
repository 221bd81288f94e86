"""Searches only the text that a turn of a conversation adds.

An agent sends its whole conversation again with each turn. Known fragments are cut out of the
body; the rest is read and searched by the same code as ever, and the results of both are joined.
Where they could differ from one search of everything, everything is searched.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple, TypeAlias, TypeVar

from blake3 import blake3
from msgspec import structs

from sidecar.apis.fragments import (
    MIN_BUNDLE_BYTES,
    VALUE_FIELDS,
    Element,
    Reading,
    Span,
    bundles,
    elements_of,
    ends_of_beginnings,
    fragment_stand_in,
    list_start,
    top_values,
)
from sidecar.apis.request_text import read_in_slices
from sidecar.apis.vocabulary import VOCABULARIES
from sidecar.domain.cooperative import Cooperative
from sidecar.domain.finding import LOCAL_VERDICTS, Finding, GuardrailResult, Results
from sidecar.domain.http import Headers
from sidecar.domain.policy import Action
from sidecar.domain.subject import Malformed, Route, Subject, TextPart, Unreadable, UnscannedReason
from sidecar.guardrails.local_scan import LocalScan
from sidecar.guardrails.message_table import Entry, MessageTable, SharedEntries, tail_of
from sidecar.jsontext.strict import BOUND, most_values

MIN_BODY_BYTES: Final = 4_096
MIN_SHARED_BYTES: Final = 16_384
"""To search a shorter body takes hardly longer than to look it up in another process."""
MIN_VALUE_BYTES: Final = 1_024
MIN_BEGINNING_BYTES: Final = 64
"""A stand-in takes about 40 bytes. Replacing a shorter text would lengthen the body, and
Prometheus counters (`saved_bytes`) must not decrease."""

MAX_HASHED: Final = 3
"""Ends of known lists up to which one body is hashed: a client could send any number of them."""

MAX_JOINED_FINDINGS: Final = 100
"""Of one guardrail. A search treats thousands in one request in another way. It also gives up
after many candidates that are no findings; those of known fragments are not counted again, so that
a request with many in each of its fragments is judged more exactly than as a whole."""


def read_conversation(
    table: MessageTable,
    route: Route,
    headers: Headers,
    body: bytes,
    scan: LocalScan,
    *,
    owner: str,
) -> Cooperative[tuple[Subject | Unreadable | Malformed, Conversation | None]]:
    """Read a body, of a conversation only the text that the guardrails of *scan* do not know.

    Fragments of another *owner* are not known. There is no conversation without a fragment that is
    known, or that can be.
    """
    conversation = Conversation(table, route, headers, body, owner=owner)
    subject = yield from conversation.read(scan)
    return subject, conversation if conversation.is_worth_keeping else None


def learn_beginning(
    table: MessageTable, route: Route, body: bytes, scan: LocalScan, *, owner: str
) -> tuple[()] | Awaitable[tuple[()]]:
    """Put the longest beginning of a conversation into *table* that another worker has shared.

    Nothing is fetched for a short body, or if this worker knows a beginning by itself.
    """
    if table.shared is None or len(body) < MIN_SHARED_BYTES:
        return ()
    if (found := list_start(body, VOCABULARIES[route.dialect].message_lists)) is None:
        return ()
    field, start = found
    key = table.key(owner, scan, route, field)
    ends = sorted({*ends_of_beginnings(body, field, start)})
    tails = [tail_of(key, body, start, end) for end in ends]
    if not ends or not table.tails.keys().isdisjoint(tails):
        return ()
    hasher, at = blake3(key=key), start
    digests: list[bytes] = []
    for end in ends:
        digests.append(hasher.update(memoryview(body)[at:end]).digest())
        at = end
    return _learn(table, table.shared, digests, tails)


async def _learn(
    table: MessageTable, shared: SharedEntries, digests: list[bytes], tails: list[int]
) -> tuple[()]:
    if (found := await shared.last_of(digests)) is not None:
        number, entry = found
        table.put_beginning(digests[number], entry, tails[number])
    return ()


class _Piece(NamedTuple):
    """A fragment of one reading, and how many elements of its list it has; known, or to be kept.

    Without a digest it is too short to be kept. `values` are its containers and commas, at most.
    """

    field: str
    digest: bytes | None = None
    elements: int = 1
    is_known: bool = False
    values: tuple[int, int] = (0, 0)


class Conversation:
    """One body as known fragments and the rest, which is its `subject`.

    `scan` are the guardrails to which the fragments are known.
    """

    scan: LocalScan
    subject: Subject

    def __init__(
        self, table: MessageTable, route: Route, headers: Headers, body: bytes, *, owner: str
    ) -> None:
        self._table = table
        self._owner = owner
        self._route = route
        self._headers = headers
        self._body = body

    def read(
        self, scan: LocalScan, *, uses_known: bool = True
    ) -> Cooperative[Subject | Unreadable | Malformed]:
        """Read the body, without the fragments that these guardrails know if it *uses* them."""
        self.scan = scan
        self._reading = reading = Reading(mark=self._table.mark)
        self._pieces: list[_Piece] = []
        self._list, self._tail, self._is_next_turn = b"", 0, False
        self._search: _Search | None = None
        rest = self._rest(uses_known=uses_known)
        self._most = containers, commas = most_values(rest)
        if reading.known:
            containers += sum([one.containers for one in reading.known])
            commas += sum([one.commas for one in reading.known])
            if not BOUND.allows(containers, commas) and BOUND.is_exceeded_by(self._body):
                return (yield from self.read(scan, uses_known=False))
        subject = yield from read_in_slices(self._route, self._headers, rest, reading)
        if isinstance(subject, Subject) and reading.is_sound:
            self.subject = subject
            self._saved_bytes = len(self._body) - len(rest)
        elif reading.known:
            # Read as a whole there is no seam, and the words for a fault are those for the body.
            return (yield from self.read(scan, uses_known=False))
        return subject

    def forget(self, scan: LocalScan) -> Cooperative[tuple[()]]:
        """Read the whole body as new, to be searched by *scan*."""
        yield from self.read(scan, uses_known=False)
        return ()

    def whole(self) -> Cooperative[tuple[Subject]]:
        """Return the whole body as it was read, or as it would have been."""
        if not self._reading.known:
            return (self.subject,)
        whole = yield from read_in_slices(self._route, self._headers, self._body)
        if not isinstance(whole, Subject):
            raise AssertionError("a body was read in two ways")  # noqa: TRY004 - a bug
        return (whole,)

    @property
    def is_worth_keeping(self) -> bool:
        """Return whether there is a fragment that is known, or that can be."""
        return bool(self._reading.known or self._pieces or self._list)

    @property
    def known_text_bytes(self) -> int:
        """Return the bytes of text in the known fragments."""
        return sum([one.text_bytes for one in self._reading.known])

    def _rest(self, *, uses_known: bool) -> bytes:
        """Return the body with stand-ins for known fragments, and note all that are to be kept."""
        table, reading, rest = self._table, self._reading, self._body
        words = VOCABULARIES[self._route.dialect]
        fields, lists = words.message_fields, words.message_lists
        begun: tuple[int, int, blake3] | None = None
        if uses_known and table.tails and (found := list_start(rest, lists)) is not None:
            begun = self._known_beginning(*found)
        if begun is not None:
            start, end, _ = begun
            rest = rest[:start] + fragment_stand_in(table.mark, 0) + rest[end:]
        pieces: list[bytes] = []
        at = 0
        for field, value in top_values(rest).items():
            spans: list[Span] = []
            if field in fields and reading.list_field is None:
                spans = self._spans_of_list(field, value, rest, begun)
            elif field in VALUE_FIELDS and value.end - value.start >= MIN_VALUE_BYTES:
                spans = [value]
            for span in spans:
                digest = None
                if field not in fields or span.end - span.start >= MIN_BUNDLE_BYTES:
                    digest = self._digest(field, rest, span)
                entry = table.get(digest) if uses_known and digest is not None else None
                if digest is None:
                    self._pieces.append(_Piece(field, None, span.elements))
                elif entry is None:
                    values = most_values(rest[span.start : span.end])
                    self._pieces.append(_Piece(field, digest, span.elements, values=values))
                else:
                    pieces += (
                        rest[at : span.start],
                        fragment_stand_in(table.mark, len(reading.known)),
                    )
                    at = span.end
                    reading.known.append(entry)
                    self._pieces.append(_Piece(field, is_known=True))
        return b"".join((*pieces, rest[at:])) if pieces else rest

    def _digest(self, field: str, text: bytes, span: Span) -> bytes:
        return blake3(memoryview(text)[span.start : span.end], key=self._key(field)).digest()

    def _key(self, field: str) -> bytes:
        return self._table.key(self._owner, self.scan, self._route, field)

    def _known_beginning(self, field: str, start: int) -> tuple[int, int, blake3] | None:
        """Return a known beginning of the list, mostly the longest: start, end, and its hash.

        The entry of it is the first of the reading's known fragments.
        """
        key, tails, body = self._key(field), self._table.tails, self._body
        hashed = 0
        for end in ends_of_beginnings(body, field, start):
            if end - start < MIN_BEGINNING_BYTES or tail_of(key, body, start, end) not in tails:
                continue
            self._is_next_turn = True
            known = blake3(memoryview(body)[start:end], key=key)
            entry = self._table.get(known.digest())
            if entry is not None:
                self._reading.known.append(entry)
                return start, end, known
            hashed += 1
            if hashed == MAX_HASHED:
                break
        return None

    def _spans_of_list(
        self, field: str, value: Span, rest: bytes, begun: tuple[int, int, blake3] | None
    ) -> list[Span]:
        """Note the digest of a list of messages; return its bundles if they may be known.

        A conversation may go on with its beginning edited or cut. Then it is worth the time to
        look at each message, and to keep each.
        """
        elements = elements_of(rest, value)
        if elements is None:
            return []
        self._reading.list_field = field
        behind = elements.end + len(self._body) - len(rest)
        self._tail = tail_of(self._key(field), self._body, elements.start, behind)
        if begun is None:
            self._list = self._digest(field, rest, elements)
            self._reading.is_bundled = self._is_next_turn
            return bundles(rest, value) if self._is_next_turn else []
        start, end, hasher = begun
        if elements.start == start and behind > end:  # else all of the list is known
            self._list = hasher.update(memoryview(self._body)[end:behind]).digest()
        return []

    def joined(self, results: Results) -> Results | None:
        """Return the results for the whole body from those for the parts of the rest.

        None if only a search of everything can give them.
        """
        if not self._reading.met:
            return results
        if any(map(_gave_up, results)):
            return None
        search, most = self._search_of(results), self.scan.most
        known, end = self._known(), len(self.subject.parts)
        findings, values = search.findings(0, end, known), search.values(0, end, known)
        joined: list[GuardrailResult] = []
        is_blocked = is_redacted = False
        for number, result in enumerate(results):
            passing, guardrail = self.scan.passing[number], result.guardrail
            found = findings[number] if findings else ()
            value = values[number] if values else 0.0
            if result.failure is not None:
                joined.append(result)
            elif number in most:
                if found or self.known_text_bytes + search.text_bytes + value > most[number]:
                    return None  # the text that goes over the limit is to be found
                joined.append(passing)
            elif not (found or value):
                joined.append(passing)
            elif len(found) > MAX_JOINED_FINDINGS:
                return None
            else:
                is_blocked |= bool(found) and result.blocks
                is_redacted |= bool(found) and guardrail.action is Action.REDACT
                verdict = LOCAL_VERDICTS[guardrail.action] if found else passing.verdict
                score = None if passing.score is None else max(passing.score, value)
                joined.append(GuardrailResult(guardrail, verdict, found, score=score))
        # Of a request that is refused nothing is searched again behind redacted text.
        return None if is_blocked and is_redacted else tuple(joined)

    def _search_of(self, results: Results) -> _Search:
        """Return the search of the rest, which joining and keeping share."""
        if self._search is None:
            self._search = _Search(self.scan, results, self.subject.parts, self._reading.unscanned)
        return self._search

    def _known(self, *, in_list: bool = False) -> list[_Known]:
        """Return known fragments in the order of the body."""
        known: list[_Known] = []
        for number, place, is_in_list in self._reading.met:
            entry = self._reading.known[number]
            if isinstance(entry, Entry) and (is_in_list or not in_list):
                known.append((place, entry))
        return known

    def keep(self, results: Results) -> None:
        """Keep the new fragments, once the *results* for the parts of the rest are there.

        The table's counts are those of the last reading: a turn whose results could not be joined
        was searched as a whole, and saved nothing.
        """
        reading, table = self._reading, self._table
        table.hits += len(reading.known)
        table.misses += sum([not one.is_known for one in self._pieces])
        table.saved_bytes += self._saved_bytes
        if reading.names_models or any(map(_failure_of, results)) or any(map(_gave_up, results)):
            return  # a search that gave up has found texts that are harmless by themselves
        search = self._search_of(results)
        elements, at = reading.elements, 0
        bundled = [one.elements for one in self._pieces if one.field == reading.list_field]
        # Else two ways of reading the list differ.
        is_counted = sum(bundled) == len(elements) - 1 and not reading.is_mixed
        for field, digest, count, _, values in self._pieces:
            if field in reading.values and digest is not None:
                entry = search.entry(*reading.values[field], values)
                if field == "tools":
                    entry = structs.replace(entry, billed_tools=reading.billed_tools)
                self._put(digest, search, entry)
            elif field == reading.list_field and is_counted:
                end = at + count
                first, behind, last = elements[at], elements[end], elements[end - 1]
                joins = (at > 0 and first.continues(elements[at - 1])) or behind.continues(last)
                if digest is not None and not joins:
                    self._put(digest, search, search.entry(first, behind, values, last))
                at = end
        if self._list and len(elements) > 1 and not reading.is_mixed:
            known = self._known(in_list=True)
            entry = search.entry(elements[0], elements[-1], self._most, elements[-1], known)
            if search.is_whole(entry):
                table.put_beginning(self._list, entry, self._tail)
                if table.shared is not None and len(self._body) >= MIN_SHARED_BYTES:
                    table.shared.put(self._list, entry)

    def _put(self, digest: bytes, search: _Search, entry: Entry) -> None:
        if search.is_whole(entry):
            self._table.put(digest, entry)


_Findings: TypeAlias = tuple[tuple[Finding, ...], ...]
"""Those of each guardrail."""
_Known: TypeAlias = tuple[int, Entry]
"""A known fragment, and the number of parts before it in the rest of the body."""


class _Search:
    """The results for the parts of the rest of a body, to be divided among its fragments."""

    def __init__(
        self,
        scan: LocalScan,
        results: Results,
        parts: Sequence[TextPart],
        unscanned: Sequence[UnscannedReason],
    ) -> None:
        self._results = results
        self._parts = parts
        self._unscanned = unscanned
        self._sums = scan.most.keys()
        self._has_findings = any(map(_findings_of, results))
        self._has_values = any(map(_values_of, results))
        self._is_blocked = self._has_findings and any(map(_findings_of, filter(_blocks, results)))
        self._bytes = (0, *accumulate([len(one.content) for one in parts]))
        self.text_bytes = self._bytes[-1]

    def entry(
        self,
        first: Element,
        behind: Element,
        most: tuple[int, int],
        last: Element | None = None,
        known: Sequence[_Known] = (),
    ) -> Entry:
        """Return the entry of the parts from *first* to *behind*, with the *known* between them.

        *last* has the last speaker, if it is another; *most* are the containers and commas of all
        its text.
        """
        containers, commas = most
        parts = behind.part - first.part
        text_bytes = self._bytes[behind.part] - self._bytes[first.part]
        for _, entry in known:
            parts += entry.parts
            text_bytes += entry.text_bytes
            containers += entry.containers
            commas += entry.commas
        return Entry(
            parts,
            text_bytes,
            containers,
            commas,
            tuple(dict.fromkeys(self._unscanned[first.reason : behind.reason])),
            first.first_speaker,
            (last or first).last_speaker,
            findings=self.findings(first.part, behind.part, known),
            values=self.values(first.part, behind.part, known),
        )

    def findings(self, at: int, end: int, known: Sequence[_Known] = ()) -> _Findings:
        """Return those in the parts from *at* to *end*, and in *known* fragments between them."""
        if not (self._has_findings or any(one.findings for _, one in known)):
            return ()
        findings: list[list[Finding]] = [[] for _ in self._results]
        before = 0
        for place, entry in known:
            self._add(findings, at, place, before)
            before += place - at
            at = place
            for number, more in enumerate(entry.findings):
                moved = [structs.replace(one, part=one.part + before) for one in more if before]
                findings[number] += moved or more
            before += entry.parts
        self._add(findings, at, end, before)
        return tuple(map(tuple, findings)) if any(findings) else ()

    def _add(self, findings: list[list[Finding]], at: int, end: int, before: int) -> None:
        """Add the findings of parts from *at* to *end*, the first after *before*."""
        for number, result in enumerate(self._results if self._has_findings else ()):
            findings[number] += [
                structs.replace(
                    one, part=one.part + before - at, role=one.role or self._parts[one.part].role
                )
                for one in _between(result.findings, at, end, key=_part_of)
            ]

    def values(self, at: int, end: int, known: Sequence[_Known] = ()) -> tuple[float, ...]:
        """Return those of the parts from *at* to *end*, and of *known* fragments between them."""
        before = [entry.values for _, entry in known if entry.values]
        if not (before or self._has_values):
            return ()
        values: list[float] = []
        for number, result in enumerate(self._results):
            found = [one[number] for one in before]
            if result.part_values:
                pairs = _between(result.part_values, at, end, key=_first_of)
                found += [value for _, value in pairs]
            values.append(sum(found) if number in self._sums else max(found, default=0.0))
        return tuple(values) if any(values) else ()

    def is_whole(self, entry: Entry) -> bool:
        """Return whether another request would find no more in a fragment.

        In one that is refused nothing is searched again behind redacted text.
        """
        if not self._is_blocked or not entry.findings:
            return True
        return any(
            found and result.blocks
            for found, result in zip(entry.findings, self._results, strict=True)
        )


_failure_of: Final = attrgetter("failure")
_gave_up: Final = attrgetter("gave_up")
_findings_of: Final = attrgetter("findings")
_values_of: Final = attrgetter("part_values")
_blocks: Final = attrgetter("blocks")
_part_of: Final = attrgetter("part")
_first_of: Final = itemgetter(0)
_Item = TypeVar("_Item")


def _between(
    items: Sequence[_Item], first: int, end: int, *, key: Callable[[_Item], int]
) -> Sequence[_Item]:
    """Return the items of parts from *first* to *end*; they are in the order of the parts."""
    return items[bisect_left(items, first, key=key) : bisect_left(items, end, key=key)]
