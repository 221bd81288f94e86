"""Fragments of a request body that a conversation sends again with each turn.

A fragment is a piece of the body's text: consecutive elements of its list of messages, or the
whole value of a field such as `tools`. A known fragment is cut out before the body is read, and a
stand-in of the worker's own takes its place.

It makes no difference to safety how the pieces were found. The text of a known fragment was read
strictly when it was new. The reader must meet each stand-in as a whole element or value of its
field, and no client can write one. JSON text in which elements replace an element is JSON text, so
body and rest together say what the whole body says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from sidecar.domain.subject import Route, UnscannedReason
from sidecar.jsontext.tokens import match_end

VALUE_FIELDS: Final = frozenset(
    """
    tools functions system instructions systemInstruction system_instruction toolConfig tool_config
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Fields whose value is one fragment: long, the same in each turn, and read by the extractor
alone, but for the models that tools may name."""

MIN_BUNDLE_BYTES: Final = 8_192
"""Short messages are one fragment with their neighbours: to look up and keep each by itself would
take a good part of the time of searching it."""
_MAX_BUNDLE_BYTES: Final = 4 * MIN_BUNDLE_BYTES

_MAX_ENDS: Final = 8
"""Ends of messages at which a known beginning may end. A turn adds two messages, or one for each
tool that was called."""
_MAX_LISTS: Final = 3
"""Ends of lists from which elements are looked for: long `tools` may follow the messages."""
_MAX_OBJECTS: Final = 256
_MAX_TURN_BYTES: Final = 1 << 16
"""A longer turn is found among the bundles."""

_MESSAGE_OPENINGS: Final = (b'{"role"', b'{"content"')
"""Clients write their own messages in one way, and those of the answers that they return in
another: OpenAI's begins with the role, and with the content."""

_SPACE: Final = b" \t\r\n"
_BETWEEN: Final = _SPACE + b","
_TO_VALUE: Final = re.compile(rb"[ \t\r\n]*+")
_TO_ELEMENT: Final = re.compile(rb"[ \t\r\n,]*+")
"""At the speed of C: a client may send ten megabytes of blanks."""
_MAX_GAP: Final = 64
"""Bytes of a comma and the blanks around it; with more, fewer fragments are found."""


class Span(NamedTuple):
    """Bytes `start` to `end` of a body: a value, or `elements` of a list."""

    start: int
    end: int
    elements: int = 1


class KnownFragment(msgspec.Struct, frozen=True, gc=False):
    """The facts that reading a fragment has found; none of its text.

    It holds `parts` texts of `text_bytes` in all, and at most so many `containers` and `commas`
    (see `JsonBound`). The speakers are those of its first and last message; None for one that is
    read as a text of its own. `billed_tools` are those of its tools (see `Subject`).
    """

    parts: int
    text_bytes: int
    containers: int
    commas: int
    unscanned: tuple[UnscannedReason, ...]
    first_speaker: str | None
    last_speaker: str | None
    billed_tools: tuple[str, ...] = ()


class Element(NamedTuple):
    """One element of the list of messages as it was read, or a known fragment in its place.

    `part` and `reason` are the numbers of texts and of reasons before it in the rest of the body.
    """

    part: int
    reason: int
    first_speaker: str | None
    last_speaker: str | None

    def continues(self, before: Element) -> bool:
        """Return whether it may reach the model as one text with the element *before* it."""
        return self.first_speaker is not None and self.first_speaker == before.last_speaker


class Met(NamedTuple):
    """A known fragment that was met, with `place` texts before it in the rest of the body."""

    number: int
    place: int
    is_in_list: bool


class Reading(msgspec.Struct):
    """The known fragments of a body, and the facts of reading the rest of it.

    A stand-in is `{mark: number of a known fragment}`; `met` are those in the order of the body.
    `elements` are those of `list_field` if it *is_bundled*, else its first; one more has the place
    of its end and the last speaker. `values` has such a pair for each value that is a fragment.
    `unscanned` are the reasons why content was not read, `billed_tools` those of the value of
    `tools`, which may be known.
    With `has_seam` the text of a known fragment and of its neighbour reach the model as one.
    With `is_mixed` the list holds something other than objects. With `names_models` a fragment
    names a model to run.
    """

    mark: str
    list_field: str | None = None
    is_bundled: bool = False
    known: list[KnownFragment] = []
    met: list[Met] = []
    elements: list[Element] = []
    values: dict[str, tuple[Element, Element]] = {}
    unscanned: list[UnscannedReason] = []
    billed_tools: tuple[str, ...] = ()
    has_seam: bool = False
    is_mixed: bool = False
    names_models: bool = False

    @property
    def is_sound(self) -> bool:
        """Return whether the rest and the known fragments are read as the whole body would be."""
        met = sorted([one.number for one in self.met])
        return not self.has_seam and met == list(range(len(self.known)))

    @property
    def known_parts(self) -> int:
        """Return how many texts the known fragments hold."""
        return sum([one.parts for one in self.known])


_MODEL: Final = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*"([ !#-\[\]-~]*)"')


def likely_model(route: Route, body: bytes) -> str | None:
    """Return a guess at the model, to be compared with the one that the body is found to name."""
    if route.model is not None:
        return route.model
    found = _MODEL.search(body)
    return None if found is None else found.group(1).decode()


_TOP: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])


def top_values(body: bytes) -> dict[str, Span]:
    """Return the place of each value of an object; nothing if its form is unusual.

    Of a name that stands twice it is wrong: the reader refuses such a body.
    """
    try:
        values = _TOP.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    places: dict[str, Span] = {}
    at = 0
    for name, value in values.items():
        quote = body.find(b'"', at)
        end = body.find(b'"', quote + 1)
        if body[quote + 1 : end] != name.encode():
            return {}  # written with escapes
        start = body.find(b":", end) + 1
        start += body[start] in _SPACE  # mostly one, without a call
        if body[start] in _SPACE:
            start = match_end(_TO_VALUE, body, start, len(body))
        at = start + len(value)
        places[name] = Span(start, at)
    return places


def list_start(body: bytes, lists: re.Pattern[bytes]) -> tuple[str, int] | None:
    """Return the field and the first element's place of a list of objects, if one is found.

    *lists* are `message_lists` of the body's vocabulary. It may be a list within another value;
    then the reader does not meet its stand-in.
    """
    found = lists.search(body)
    return None if found is None else (found.group(1).decode(), found.end() - 1)


_BEHIND_LIST: Final = re.compile(rb"\][ \t\r\n]*[,}][ \t\r\n]*(?:\"|\Z)")
"""Of a value in the outermost object, if it is not within a text or another object."""
_BEFORE_END: Final = frozenset(b"} \t\r\n")


def ends_of_beginnings(body: bytes, field: str, start: int) -> Iterator[int]:
    """Yield where a known beginning of a list may end: behind all of it, or one of its elements.

    All of the list is known if a request is sent again, as clients do after an error. The last
    elements come first.
    """
    least = max(start + 1, len(body) - _MAX_TURN_BYTES)
    at = len(body)
    lists: list[int] = []
    for _ in range(_MAX_OBJECTS):
        at = body.rfind(b"]", least, at)  # twenty times as fast as an expression for all of it
        if at < 0 or len(lists) >= _MAX_ENDS:
            break
        if body[at - 1] not in _BEFORE_END:
            continue
        before = body[max(at - _MAX_GAP, least) : at]
        left = before.rstrip(_SPACE)
        if left.endswith(b"}") and _BEHIND_LIST.match(body, at):
            lists.append(at)
            yield at - len(before) + len(left)
    # Messages begin with one of few names; the items of `input` do not, nor do those of `tools`.
    openings: tuple[bytes, ...] = (b'{"',)
    if field != "input":
        first = body[start : body.find(b'"', start + 2) + 1][:_MAX_GAP]
        openings = (first, *_MESSAGE_OPENINGS)
        lists = []
    for behind in lists[:_MAX_LISTS] or [len(body)]:
        at, ends = behind, 0
        for _ in range(_MAX_OBJECTS):
            at = body.rfind(b'{"', least, at)
            if at < 0 or ends >= _MAX_ENDS:
                break
            if not body.startswith(openings, at):
                continue
            end = body.rfind(b"}", max(at - _MAX_GAP, start), at) + 1
            if end and end < at and not body[end:at].strip(_BETWEEN):
                ends += 1
                yield end


def elements_of(body: bytes, value: Span) -> Span | None:
    """Return the place of all elements of a list of objects; None for another value."""
    start = match_end(_TO_VALUE, body, value.start + 1, value.end)
    if body[value.start : value.start + 1] != b"[" or body[start : start + 1] != b"{":
        return None
    return Span(start, start + len(body[start : value.end - 1].rstrip(_SPACE)))


def bundles(body: bytes, value: Span) -> list[Span]:
    """Return the elements of a list, short neighbours as one.

    Where a bundle ends depends on the length of its last element, not on the place in the list:
    a conversation that loses its first messages soon has the same bundles again.
    """
    try:
        elements = _LIST.decode(memoryview(body)[value.start : value.end])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    found: list[Span] = []
    at = value.start + 1
    start = count = 0
    for element in elements:
        at = match_end(_TO_ELEMENT, body, at, value.end)
        start = start if count else at
        size = len(element)
        at += size
        count += 1
        length = at - start
        if length >= MIN_BUNDLE_BYTES and (
            size % 2 or size >= MIN_BUNDLE_BYTES or length >= _MAX_BUNDLE_BYTES
        ):
            found.append(Span(start, at, count))
            count = 0
    if count:
        found.append(Span(start, at, count))
    return found


def fragment_stand_in(mark: str, number: int) -> bytes:
    """Return the text that takes the place of a known fragment."""
    return b'{"%s":%d}' % (mark.encode(), number)
