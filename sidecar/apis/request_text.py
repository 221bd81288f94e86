"""Reads a request body and extracts every string of it, with role and place."""

from __future__ import annotations

import enum
import re
from typing import Final

from sidecar.apis.request_schema import (
    MAX_OTHER_MODELS,
    asks_for_usage,
    has_tokens,
    named_models,
    output_bound,
    shape_problem,
)
from sidecar.apis.vocabulary import (
    OTHER_ROLE,
    RESULT_FIELDS,
    RESULT_ROLE,
    RESULT_SUFFIXES,
    ROLES,
    VOCABULARIES,
    WORDS,
    Vocabulary,
)
from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import Malformed, Route, Subject, TextPart, Unreadable, UnscannedReason
from sidecar.jsontext.strict import JsonValue, parse
from sidecar.jsontext.tokens import decode, may_be_json, string_tokens

MAX_NESTING: Final = 4
"""How many times JSON text inside a string is looked into."""

LONG_NUMBER: Final = 10**8
"""Nine digits: shorter numbers are settings, and no card, account or social security number."""

MAX_PARTS: Final = 50_000
"""Ten megabytes of one-letter strings would keep a worker busy for seconds."""

_PAYLOAD: Final = re.compile(
    r"(?:data:[\w.+/;=-]*;base64,)?[A-Za-z0-9+/\r\n]++={0,2}[\r\n]*+", re.ASCII
)

_STRANGE_PAYLOAD: Final = re.compile(r"(?:data:[^,]*,)?[\w+/=\r\n-]++", re.ASCII)
"""As lenient as decoders are: either alphabet, padding anywhere."""

MIN_PAYLOAD: Final = 64
"""No image or sound is shorter, but an access key, which looks the same, is."""

MIN_STRANGE_PAYLOAD: Final = 256
"""Longer than digests and tokens of one word, which unknown fields may well hold."""


class _Place(enum.Enum):
    """The place of an object, as far as it decides which of its strings are text."""

    KNOWN = enum.auto()  # fields of the API
    FREE = enum.auto()  # tool arguments, schemas: all text
    MEDIA = enum.auto()  # the field of a part that holds an image, sound or file
    STRANGE = enum.auto()  # an unknown part or field: its base64 may be anything


# An enum's members are slow to look up on Python 3.11, and this is done for every string.
_KNOWN: Final = _Place.KNOWN
_FREE: Final = _Place.FREE
_MEDIA: Final = _Place.MEDIA
_STRANGE: Final = _Place.STRANGE

_WORD_FIELDS: Final = frozenset({"type", "role"})

_JOINED_FIELDS: Final = frozenset({"text", "content"})
"""Where the text of a message stands; its pieces reach the model as one."""


class TextExtractor:
    """One pass over a document; `parts`, `unscanned` and `runs` are its result.

    With more than `MAX_PARTS` texts it is overfull, and the result is not whole.
    """

    __slots__ = (
        "_numbers",
        "_plain",
        "_run",
        "_strings",
        "_words",
        "is_overfull",
        "parts",
        "runs",
        "unscanned",
    )

    def __init__(self, words: Vocabulary) -> None:
        self.parts: list[TextPart] = []
        self.unscanned: dict[UnscannedReason, None] = {}
        self.runs: list[tuple[int, ...]] = []
        self.is_overfull = False
        self._words = words
        self._plain = words.plain_fields
        self._run: list[int] | None = None
        self._strings = 0
        self._numbers = 0

    def document(self, document: dict[str, JsonValue]) -> None:
        """Collect everything in a request body."""
        words = self._words
        for key, value in document.items():
            role = key if key in words.top_fields else OTHER_ROLE
            if key in self._plain:
                place = _KNOWN
                self._strings += 1
            else:
                place = self._key(key, role, _KNOWN)
            if key == "seed" and isinstance(value, int) and not isinstance(value, bool):
                self._numbers += 1  # random digits by design; one in ten would pass for a card
            elif key in words.run_fields:
                self._runs(key, value, role, place)
            else:
                self._value(key, value, role, place)

    def _runs(self, key: str, value: JsonValue, role: str, place: _Place) -> None:
        """Collect a field whose texts reach the model as one, or as one a role."""
        if key in self._words.message_fields and isinstance(value, (list, dict)):
            # Google takes one object for a list of one.
            self._messages(key, value if isinstance(value, list) else [value], role, place)
        else:
            self._run = []
            self._value(key, value, role, place)
            self._end_run()

    def _messages(self, key: str, items: list[JsonValue], role: str, place: _Place) -> None:
        """Collect messages; consecutive texts of one role reach the model as one text."""
        speaker: str | None = None
        for message in items:
            if self.is_overfull:
                break
            if not isinstance(message, dict):
                self._value(key, message, role, place)  # a list of texts, each by itself
                continue
            now = message.get("role")
            if not isinstance(now, str) or now not in ROLES:
                now = OTHER_ROLE
            if now != speaker:
                self._end_run()
                speaker, self._run = now, []
            self._object(message, now, place)
        self._end_run()

    def _end_run(self) -> None:
        if self._run is not None and len(self._run) > 1:
            self.runs.append(tuple(self._run))
        self._run = None

    # These run for every value of every body: arguments by position, and few calls.
    def _value(self, key: str, value: JsonValue, role: str, place: _Place) -> None:
        if isinstance(value, str):
            self._string(key, value, role, place)
        elif isinstance(value, dict):
            self._object(value, role, place)
        elif isinstance(value, list):
            self._list(key, value, role, place)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if not -LONG_NUMBER < value < LONG_NUMBER:
                self._add(b"%d" % int(value), (-1 - self._numbers,), role)
            self._numbers += 1

    def _string(self, key: str, value: str, role: str, place: _Place) -> None:
        if key not in _WORD_FIELDS or value not in WORDS:
            if key in _JOINED_FIELDS and value and place is not _FREE and self._run is not None:
                self._run.append(len(self.parts))
            if place is _MEDIA or place is _STRANGE:
                self._watched(key, value, role, place)
            else:
                self._text(value, role)
        self._strings += 1

    def _list(self, key: str, items: list[JsonValue], role: str, place: _Place) -> None:
        for item in items:
            if self.is_overfull:
                break
            self._value(key, item, role, place)

    def _object(self, node: dict[str, JsonValue], role: str, place: _Place) -> None:
        places: dict[str, _Place] = {}
        if place is not _FREE and place is not _MEDIA:
            # Some fields of a part have a place of their own.
            words = self._words
            if not (words.media_names.isdisjoint(node) and node.keys() <= words.field_names):
                places = dict.fromkeys(self._media_fields(node), _MEDIA)
            kind = node.get("type")
            is_tool_use = isinstance(kind, str) and kind.endswith("tool_use")
            if "input" in node and ("toolUseId" in node or is_tool_use):
                places["input"] = _FREE
            if isinstance(kind, str):
                role = (
                    RESULT_ROLE if (kind.endswith(RESULT_SUFFIXES) or kind == "document") else role
                )
                if place is _KNOWN and kind not in self._words.part_types:
                    place = _STRANGE
        for key, value in node.items():
            if key in self._plain:
                inner = place
                self._strings += 1
            else:
                inner = self._key(key, role, place)
            if places:
                inner = places.get(key, inner)
            speaker = RESULT_ROLE if key in RESULT_FIELDS else role
            if isinstance(value, str):
                self._string(key, value, speaker, inner)
            else:
                # Not in a message, so a request within a request, such as one to count tokens of.
                begins = self._run is None and inner is not _FREE and key in self._words.run_fields
                (self._runs if begins else self._value)(key, value, speaker, inner)

    def _key(self, key: str, role: str, place: _Place) -> _Place:
        """Count a key, and return the place of its value."""
        if key not in self._words.field_names:
            self._text(key, role)
            if place is _KNOWN:
                place = _STRANGE
        elif key in self._words.free_fields and place is _KNOWN:
            place = _FREE
        self._strings += 1
        return place

    def _watched(self, key: str, value: str, role: str, place: _Place) -> None:
        if place is _MEDIA:
            if key in self._words.payload_fields and (
                len(value) >= MIN_PAYLOAD and _PAYLOAD.fullmatch(value) is not None
            ):
                return
        elif len(value) >= MIN_STRANGE_PAYLOAD and _STRANGE_PAYLOAD.fullmatch(value):
            self.unscanned[UnscannedReason.UNKNOWN_SHAPE] = None
        self._text(value, role)

    def _text(self, text: str, role: str) -> None:
        if text:
            content = text.encode()
            location = (self._strings,)
            self._add(content, location, role)
            if b"\\" in content and may_be_json(content):
                self._nested(content, location, role)

    def _nested(self, content: bytes, location: tuple[int, ...], role: str) -> None:
        """Add the strings of JSON text within a string, decoded from their escapes."""
        for index, token in enumerate(string_tokens(content)):
            raw = content[token.start : token.end]
            if b"\\" in raw and not self.is_overfull:
                inner = decode(raw)
                inner_location = (*location, index)
                self._add(inner, inner_location, role)
                if len(location) < MAX_NESTING and may_be_json(inner):
                    self._nested(inner, inner_location, role)

    def _add(self, content: bytes, location: tuple[int, ...], role: str) -> None:
        if len(self.parts) < MAX_PARTS:
            self.parts.append(TextPart(content, location, role))
        else:
            self.is_overfull = True

    def _media_fields(self, node: dict[str, JsonValue]) -> tuple[str, ...]:
        """Record the media of a part, and return the names of the fields that hold them."""
        words = self._words
        if not node.keys() <= words.field_names:
            node = {key.casefold(): value for key, value in node.items()} | node
        if words.media_names.isdisjoint(node):
            return ()
        found: list[str] = []
        for key in words.media_fields:
            held = node.get(key, node.get(key.casefold()))
            if isinstance(held, str):
                is_media = key in _TEXT_POINTERS
            else:
                is_media = (
                    isinstance(held, dict)
                    and not words.folded_pointers.isdisjoint(map(str.casefold, held))
                    and not (key == "source" and held.get("type") == "text")
                )
            if is_media:
                self.unscanned[_reason(key, held, node, words)] = None
                found.append(key)
        return tuple(found)


_TEXT_POINTERS: Final = frozenset({"image_url", "file_id", "file_data", "file_url"})
"""Fields that hold or point to something other than text even as a bare string."""

_REASONS: Final = (
    (re.compile(r"image/|(?:png|jpe?g|gif|webp)\Z", re.IGNORECASE), UnscannedReason.IMAGE),
    (re.compile(r"audio/|(?:mp3|wav|flac|ogg|opus|aac)\Z", re.IGNORECASE), UnscannedReason.AUDIO),
)


def _reason(
    key: str, held: JsonValue, node: dict[str, JsonValue], words: Vocabulary
) -> UnscannedReason:
    """Return the kind of media, as far as the field or its neighbours name it."""
    if key == "source" and node.get("type") == "image":
        return UnscannedReason.IMAGE
    inside = held if isinstance(held, dict) else {}
    for said in (node.get("format"), inside.get("mimeType"), inside.get("mime_type")):
        if isinstance(said, str):
            for pattern, reason in _REASONS:
                if pattern.match(said):
                    return reason
    return words.media_fields[key]


_NO_ENCODING: Final = frozenset({b"identity", b""})
_JSON: Final = (b"application/json",)
_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})


def read_request(  # noqa: PLR0911 - one return a fault
    route: Route, headers: Headers, body: bytes
) -> Subject | Unreadable | Malformed:
    """Read a whole body.

    Unreadable means that it was not looked at: it is encoded, or not said to be JSON in UTF-8.
    A request that should have no body and has none is an empty subject.
    """
    if not route.has_body:
        if body:
            return Unreadable(UnscannedReason.UNKNOWN_SHAPE)
        return Subject(model=None, streamed=False, parts=())
    reason = _declared_unreadable(headers)
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
    problem = shape_problem(route.form, fields)
    if problem is not None:
        return Malformed(problem)
    extractor = TextExtractor(VOCABULARIES[route.dialect])
    extractor.document(fields)
    if extractor.is_overfull:
        return Malformed(f"The body holds more than {MAX_PARTS} texts.")
    if has_tokens(fields.get("prompt")) or has_tokens(fields.get("input")):
        extractor.unscanned[UnscannedReason.UNKNOWN_SHAPE] = None
    model, others = named_models(route, fields)
    if len(others) > MAX_OTHER_MODELS:
        return Malformed(f"The body names more than {MAX_OTHER_MODELS} further models.")
    return Subject(
        model=model,
        streamed=route.is_streamed or fields.get("stream") is True,
        parts=tuple(extractor.parts),
        unscanned=tuple(extractor.unscanned),
        other_models=others,
        runs=tuple(extractor.runs),
        asks_for_usage=asks_for_usage(fields.get("stream_options")),
        max_output_tokens=output_bound(fields),
    )


def _declared_unreadable(headers: Headers) -> UnscannedReason | None:
    for encoding in headers.all(HeaderName.CONTENT_ENCODING):
        if encoding.strip().lower() not in _NO_ENCODING:
            return UnscannedReason.ENCODED_BODY
    types = headers.all(HeaderName.CONTENT_TYPE)
    if not types or types == _JSON:
        return None
    if len(set(types)) > 1:
        return UnscannedReason.CHARSET
    # Read a media type (RFC 9110 section 8.3.1); an odd parameter counts as a charset.
    content_type = types[0].decode("latin-1")
    media_type, *parameters = (piece.strip().lower() for piece in content_type.split(";"))
    if media_type not in {"", "application/json"} and not (
        media_type.endswith("+json") and "," not in media_type
    ):
        return UnscannedReason.UNKNOWN_SHAPE
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _CHARSETS:
            return UnscannedReason.CHARSET
        if '"' in value and "=" in value:
            return UnscannedReason.CHARSET  # a quoted value may hide another parameter
    return None
