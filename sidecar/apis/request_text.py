"""Reads a request body and extracts every string of it, with role and place."""

from __future__ import annotations

import enum
from typing import Any, Final

from msgspec.structs import replace

from sidecar.apis.fragments import VALUE_FIELDS, Element, Met, Reading
from sidecar.apis.request_schema import (
    MAX_OTHER_MODELS,
    TIER_NAMES,
    TOOL_FIELDS,
    billed_tools,
    declared_unreadable,
    enclosed_document,
    holds_tokens,
    named_models,
    named_tier,
    names_models,
    output_bound,
    shape_problem,
)
from sidecar.apis.response_text import SHORT_LIST
from sidecar.apis.vocabulary import (
    FOUND_FIELDS,
    OTHER_ROLE,
    RESULT_FIELDS,
    RESULT_ROLE,
    RESULT_SUFFIXES,
    ROLES,
    SEARCH_CALL,
    VOCABULARIES,
    WORDS,
    Vocabulary,
    is_payload,
    may_be_payload,
    media_of,
)
from sidecar.domain.cooperative import Cooperative, run_sync
from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import (
    Malformed,
    RequestForm,
    Route,
    Subject,
    TextPart,
    Unreadable,
    UnscannedReason,
)
from sidecar.jsontext.strict import JsonValue, digits_of, parse
from sidecar.jsontext.tokens import decode, escaped_strings, may_be_json

MAX_NESTING: Final = 4
"""How many times JSON text inside a string is looked into."""
LONG_NUMBER: Final = 10**8
"""Nine digits: shorter numbers are settings, and no card, account or social security number."""
SLICE_STRINGS: Final = 256
"""Strings, or values of a list, read between two interruptions: some 0.5 ms."""
MAX_PARTS: Final = 50_000
"""Ten megabytes of one-letter strings would keep a worker busy for seconds."""
MOST_MEMBERS: Final = 2 * MAX_PARTS
"""Of an object with more, the names alone are more texts: its kind is not looked for."""


class _Place(enum.Enum):
    """The place of an object, as far as it decides which of its strings are text."""

    KNOWN = enum.auto()  # fields of the API
    FREE = enum.auto()  # tool arguments, schemas: all text
    MEDIA = enum.auto()  # the field of a part that holds an image, sound or file
    STRANGE = enum.auto()  # an unknown part or field: its base64 may be anything


# By names of their own, as each of them is looked up for every string of a body.
_KNOWN: Final = _Place.KNOWN
_FREE: Final = _Place.FREE
_MEDIA: Final = _Place.MEDIA
_STRANGE: Final = _Place.STRANGE

_WORD_FIELDS: Final = frozenset({"type", "role"})
_VARIABLES: Final = "variables"
"""Of a prompt that is stored at OpenAI: by names of the prompt's, what a message may hold."""
_OWN_FORMS: Final = frozenset({_VARIABLES, "invokeModel"})  # whose tokens Bedrock is to count
_JOINED_FIELDS: Final = frozenset({"text", "content"})
"""Where the text of a message stands; its pieces reach the model as one."""
_PLAIN_MESSAGE: Final = ("role", "content")
"""Known to all vocabularies, and neither of them the place of media or of free text."""
_TEXTUAL: Final = frozenset({str, dict, list})


class TextExtractor:
    """One pass over a document; `parts`, `unscanned` and `runs` are its result.

    With more than `MAX_PARTS` parts the result is not whole. A run of one part is none. Known
    fragments of the document are met and noted in the *reading*, if there is one.
    """

    __slots__ = (
        "_numbers",
        "_pause",
        "_reading",
        "_run",
        "_strings",
        "_words",
        "parts",
        "runs",
        "unscanned",
    )

    def __init__(self, words: Vocabulary, reading: Reading | None = None) -> None:
        self.parts: list[TextPart] = []
        self.unscanned: list[UnscannedReason] = [] if reading is None else reading.unscanned
        self.runs: list[list[int]] = []
        self._words = words
        self._reading = reading
        self._run: list[int] | None = None
        self._strings = 0
        self._numbers = 0
        self._pause = SLICE_STRINGS

    # These run for every value of every body: arguments by position, and few calls.
    def document(self, document: dict[str, JsonValue]) -> Cooperative[None]:
        """Collect everything in a request body, in slices."""
        words, reading = self._words, self._reading
        if not words.media_names.isdisjoint(map(str.casefold, document)):
            self.unscanned += media_of(document, words).values()
        if holds_tokens(document):
            self.unscanned.append(UnscannedReason.UNKNOWN_SHAPE)
        for key, value in document.items():
            if key in words.plain_top:
                role, place = key, _KNOWN
                self._strings += 1
            else:
                role = key if key in words.top_fields else OTHER_ROLE
                place = self._key(key, role, _KNOWN)
                if len(self.parts) > MAX_PARTS:
                    break
                yield from self._paused()
            if reading is not None and key in VALUE_FIELDS:
                yield from self._value(key, value, role, place, reading)
            elif isinstance(value, str):
                self._string(key, value, role, place)
            elif isinstance(value, (dict, list)):
                items: list[JsonValue] = value if isinstance(value, list) else [value]
                if key in words.run_fields:
                    yield from self._joined(key, items, role, place, reading)
                else:
                    yield from self._list(key, items, role, place)
            elif key == "seed" and type(value) is int:
                self._numbers += 1  # random digits by design; one in ten would pass for a card
            else:
                self._number(value, role)
        if reading is not None:
            reading.names_models = names_models(document, reading.list_field)

    def _value(
        self, key: str, value: JsonValue, role: str, place: _Place, reading: Reading
    ) -> Cooperative[None]:
        """Collect a field whose value may be a known fragment, and note its texts."""
        before = Element(len(self.parts), len(self.unscanned), None, None)
        if isinstance(value, dict) and isinstance(number := value.get(reading.mark), int):
            reading.met.append(Met(number, before.part, is_in_list=False))
            self.unscanned += reading.known[number].unscanned
            reading.billed_tools += reading.known[number].billed_tools
            return
        items: list[JsonValue] = value if isinstance(value, list) else [value]
        if key in self._words.run_fields and isinstance(value, (dict, list)):
            yield from self._joined(key, items, role, place)
        else:
            yield from self._list(key, items, role, place)
        behind = Element(len(self.parts), len(self.unscanned), None, None)
        reading.values[key] = before, behind
        if key == "tools":
            reading.billed_tools = billed_tools({key: value})

    def _joined(
        self,
        key: str,
        items: list[JsonValue],
        role: str,
        place: _Place,
        reading: Reading | None = None,
    ) -> Cooperative[None]:
        """Collect a field whose texts reach the model as one, or as one a role.

        Google takes one object for a list of one.
        """
        if len(items) > SHORT_LIST and not isinstance(items[0], dict) and self._are_tokens(items):
            return
        if key in self._words.message_fields:
            is_list = reading is not None and key == reading.list_field
            yield from self._messages(key, items, role, place, reading if is_list else None)
        else:
            self._run = []
            self.runs.append(self._run)
            yield from self._list(key, items, role, place)
            self._run = None

    def _messages(  # noqa: C901 - one branch a kind of message
        self,
        key: str,
        items: list[JsonValue],
        role: str,
        place: _Place,
        reading: Reading | None,
    ) -> Cooperative[None]:
        """Collect messages; consecutive texts of one role reach the model as one text.

        Messages within messages have no *reading*.
        """
        parts, unscanned = self.parts, self.unscanned
        # Without known fragments there are no stand-ins, and mostly the first element is noted.
        meeting = reading if reading is not None and reading.known else None
        noting = reading
        speaker: str | None = None
        for message in items:
            if not isinstance(message, dict):
                if reading is not None:
                    reading.is_mixed = True
                    # It goes on with the text of the message before it, which may be known.
                    reading.has_seam |= bool(reading.known)
                # A list of texts, each by itself.
                yield from self._list(key, [message], role, place)
                continue
            if meeting is not None and isinstance(number := message.get(meeting.mark), int):
                meeting.met.append(Met(number, len(parts), is_in_list=True))
                known = meeting.known[number]
                first, last = known.first_speaker, known.last_speaker
                meeting.has_seam |= speaker is not None and first == speaker
                meeting.elements.append(Element(len(parts), len(unscanned), first, last))
                unscanned += known.unscanned
                speaker, self._run = last, None
                continue
            said = message.get("role")
            now, is_alone = said, False
            if not (isinstance(now, str) and now in ROLES):
                now, is_alone = self._words.speaker_of(message)
            if now != speaker or is_alone:
                self._run = []
                self.runs.append(self._run)
            elif self._run is None and reading is not None:
                reading.has_seam = True
            speaker = None if is_alone else now
            if noting is not None:
                if noting.is_bundled or not noting.elements:
                    noting.elements.append(Element(len(parts), len(unscanned), speaker, speaker))
                else:
                    noting = None
            text, before = message.get("content"), self._strings
            if now is said and len(message) == len(_PLAIN_MESSAGE) and isinstance(text, str):
                # Mostly. The role is no text; it is counted as a string, as both keys are.
                self._strings = before + (3 if next(iter(message)) == "role" else 1)
                self._string("content", text, now, place)
                self._strings = before + 2 * len(_PLAIN_MESSAGE)
            else:
                yield from self._object(message, now, place)
            if len(self.parts) > MAX_PARTS:
                break
            if self._strings >= self._pause:  # without a call for most messages
                yield from self._paused()
        self._run = None
        if reading is not None:
            reading.elements.append(Element(len(parts), len(unscanned), None, speaker))

    def _list(
        self, key: str, items: list[JsonValue], role: str, place: _Place
    ) -> Cooperative[None]:
        if len(items) > SHORT_LIST and self._are_tokens(items):
            return
        if len(items) > SLICE_STRINGS:
            for start in range(0, len(items), SLICE_STRINGS):
                yield from self._list(key, items[start : start + SLICE_STRINGS], role, place)
                yield
                if len(self.parts) > MAX_PARTS:
                    return
            return
        for item in items:
            if isinstance(item, str):
                self._string(key, item, role, place)
            elif isinstance(item, dict):
                yield from self._object(item, role, place)
            elif isinstance(item, list):
                yield from self._list(key, item, role, place)
            else:
                self._number(item, role)
            if len(self.parts) > MAX_PARTS:
                return
        if self._strings >= self._pause:
            yield from self._paused()

    def _paused(self) -> Cooperative[None]:
        """Yield if a slice is full."""
        if self._strings >= self._pause:
            self._pause = self._strings + SLICE_STRINGS
            yield

    def _are_tokens(self, items: list[JsonValue]) -> bool:
        """Return whether *items* are short numbers alone, and count those, at the speed of C."""
        kinds = list(map(type, items))
        if not _TEXTUAL.isdisjoint(kinds):
            return False
        sizes: list[Any] = list(filter(None, items))
        if sizes and not -LONG_NUMBER < min(sizes) <= max(sizes) < LONG_NUMBER:
            return False
        self._numbers += kinds.count(int) + kinds.count(float)
        return True

    def _number(self, value: float | None, role: str) -> None:
        """Count a number, and collect it if it is long; null and truth values are none."""
        if value is not None and not isinstance(value, bool):
            if not -LONG_NUMBER < value < LONG_NUMBER:
                self.parts.append(TextPart(digits_of(value), (-1 - self._numbers,), role))
            self._numbers += 1

    def _object(self, node: dict[str, JsonValue], role: str, place: _Place) -> Cooperative[None]:
        words = self._words
        places: dict[str, _Place] | None = None
        is_plain = node.keys() <= words.plain_names
        if not is_plain and place is not _FREE and place is not _MEDIA:
            role, place, places = self._part(node, role, place)
        for key, value in node.items():
            if is_plain or key in words.plain_fields:
                speaker, inner = role, place
                self._strings += 1
            else:
                is_result = key in RESULT_FIELDS and place is not _FREE
                speaker = RESULT_ROLE if is_result else role
                inner = self._key(key, role, place)
                if len(self.parts) > MAX_PARTS:
                    break
                yield from self._paused()
            if places:
                inner = places.get(key, inner)
            if isinstance(value, str):
                self._string(key, value, speaker, inner)
            elif isinstance(value, (dict, list)):
                if key in words.run_fields and self._run is None and inner is not _FREE:
                    # A request within a request, such as one to count tokens of.
                    items: list[JsonValue] = value if isinstance(value, list) else [value]
                    yield from self._joined(key, items, speaker, inner)
                elif key in _OWN_FORMS and place is _KNOWN and isinstance(value, dict):
                    yield from self._own_form(key, value, speaker)
                elif isinstance(value, dict):
                    yield from self._object(value, speaker, inner)
                else:
                    yield from self._list(key, value, speaker, inner)
            else:
                self._number(value, speaker)

    def _own_form(self, key: str, node: dict[str, JsonValue], role: str) -> Cooperative[None]:
        """Collect variables: texts, or parts such as files; or a request's body in base64."""
        if key == _VARIABLES:
            for name, variable in node.items():
                self._string("", name, role, _KNOWN)
                yield from self._list("", [variable], role, _KNOWN)
            return
        document = enclosed_document(node)
        if document is None:
            self.unscanned.append(UnscannedReason.UNKNOWN_SHAPE)
            yield from self._object(node, role, _KNOWN)
            return
        inner, number, before = TextExtractor(self._words), self._strings + 1, len(self.parts)
        self._strings += 2
        yield from inner.document(document)
        self.unscanned += inner.unscanned
        self.parts += [replace(one, location=(number, *one.location)) for one in inner.parts]
        self.runs += [[before + at for at in run] for run in inner.runs]

    def _part(
        self, node: dict[str, JsonValue], role: str, place: _Place
    ) -> tuple[str, _Place, dict[str, _Place]]:
        """Return role and place of a part, and those fields that have a place of their own."""
        words = self._words
        places: dict[str, _Place] = {}
        is_known = words.media_names.isdisjoint(node) and node.keys() <= words.field_names
        if not is_known and len(node) <= MOST_MEMBERS:
            media = media_of(node, words)
            self.unscanned += media.values()
            # In another case it is text as well: the provider may not know it as media.
            places = {name: _MEDIA for name in media if name in words.media_fields}
        kind = node.get("type")
        if not isinstance(kind, str):
            kind = "text"
        if "input" in node and ("toolUseId" in node or kind.endswith("tool_use")):
            places["input"] = _FREE
        results = node.get("results") if kind == SEARCH_CALL else None
        if isinstance(results, list) and all(
            isinstance(one, dict) and one.keys() <= FOUND_FIELDS for one in results
        ):
            places["results"] = _FREE
        is_result = kind.endswith(RESULT_SUFFIXES) and kind not in words.typed_roles
        if is_result or kind == "document":
            role = RESULT_ROLE
        if place is _KNOWN and kind not in words.part_types:
            place = _STRANGE
        return role, place, places

    def _key(self, key: str, role: str, place: _Place) -> _Place:
        """Count a key, and return the place of its value."""
        words = self._words
        if key not in words.field_names:
            self._string("", key, role, _KNOWN)
            return _STRANGE if place is _KNOWN else place
        self._strings += 1
        return _FREE if key in words.free_fields and place is _KNOWN else place

    def _string(self, key: str, value: str, role: str, place: _Place) -> None:
        """Count a string, and collect it if it is text."""
        number = self._strings
        self._strings = number + 1
        if not value or (key in _WORD_FIELDS and value in WORDS):
            return
        if place is not _KNOWN and place is not _FREE:
            if place is _MEDIA:
                if key in self._words.payload_fields and is_payload(value):
                    return  # base64 of a medium, which is no text
            elif may_be_payload(value):
                self.unscanned.append(UnscannedReason.UNKNOWN_SHAPE)
        content = value.encode()
        if self._run is not None and place is not _FREE:
            # A provider that takes names in any case would join those of `Text`, too.
            words = self._words.field_names
            if (key if key in words else key.casefold()) in _JOINED_FIELDS:
                self._run.append(len(self.parts))
        self.parts.append(TextPart(content, (number,), role))
        if b"\\" in content and may_be_json(content):
            self._nested(content, (number,), role)

    def _nested(self, content: bytes, location: tuple[int, ...], role: str) -> None:
        """Add the strings of JSON text within a string, decoded from their escapes."""
        for index, raw in escaped_strings(content):
            if len(self.parts) > MAX_PARTS:
                break
            inner = decode(raw)
            inner_location = (*location, index)
            self.parts.append(TextPart(inner, inner_location, role))
            if len(location) < MAX_NESTING and may_be_json(inner):
                self._nested(inner, inner_location, role)


_IN_BACKGROUND: Final = frozenset({RequestForm.RESPONSES, RequestForm.INTERACTION})
"""With `background` the answer comes before the model has begun."""

_LONG_BODY: Final = 32_768
"""Bytes, of which decoding may take a slice."""


def read_request(route: Route, headers: Headers, body: bytes) -> Subject | Unreadable | Malformed:
    """Read a whole body at once."""
    return run_sync(read_in_slices(route, headers, body))


def read_in_slices(  # noqa: PLR0911 - one return a fault
    route: Route, headers: Headers, body: bytes, reading: Reading | None = None
) -> Cooperative[Subject | Unreadable | Malformed]:
    """Read a whole body, or the rest of one whose known fragments the *reading* has.

    Unreadable means that it was not looked at: it is encoded, or not said to be JSON in UTF-8.
    A request that should have no body and has none is an empty subject.
    """
    if not route.has_body:
        if body:
            return Unreadable(UnscannedReason.UNKNOWN_SHAPE)
        return Subject(model=None, streamed=False, parts=())
    reason = declared_unreadable(headers)
    if reason is not None:
        is_form = headers.text(HeaderName.CONTENT_TYPE).lower().startswith("multipart/form-data")
        if is_form and reason is UnscannedReason.UNKNOWN_SHAPE:
            reason = route.operation.spec.uploads or reason
        return Unreadable(reason)
    fields = parse(body)
    if isinstance(fields, Malformed):
        return fields
    if not isinstance(fields, dict):
        return Malformed("The body is not a JSON object.")
    if len(fields) > MOST_MEMBERS:
        return Malformed(f"The body holds more than {MAX_PARTS} texts.")
    if len(body) > _LONG_BODY:
        yield
    problem = shape_problem(route.form, fields)
    if problem is not None:
        return Malformed(problem)
    words = VOCABULARIES[route.dialect]
    extractor = TextExtractor(words, reading)
    yield from extractor.document(fields)
    if len(extractor.parts) + (reading.known_parts if reading else 0) > MAX_PARTS:
        return Malformed(f"The body holds more than {MAX_PARTS} texts.")
    model, others = named_models(route, fields)
    if len(others) > MAX_OTHER_MODELS:
        return Malformed(f"The body names more than {MAX_OTHER_MODELS} further models.")
    sent = fields.get("model")
    max_output_tokens, choices, least_output_tokens = output_bound(fields)
    options = fields.get("stream_options")
    has_tier = not TIER_NAMES.isdisjoint((*fields, *headers.by_name))
    return Subject(
        model=model,
        streamed=route.is_streamed or fields.get("stream") is True,
        parts=tuple(extractor.parts),
        unscanned=tuple(dict.fromkeys(extractor.unscanned)),
        other_models=others,
        runs=tuple([tuple(run) for run in extractor.runs if len(run) > 1]),
        asks_for_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_output_tokens=max_output_tokens,
        choices=choices,
        least_output_tokens=least_output_tokens,
        in_background=route.form in _IN_BACKGROUND
        and route.operation.spec.uses_tokens
        and bool(fields.get("background")),
        billed_tools=() if TOOL_FIELDS.isdisjoint(fields) else billed_tools(fields, reading),
        service_tier=named_tier(route, headers, fields) if has_tier else None,
        model_as_sent=sent if sent != model and isinstance(sent, str) else None,
    )
