"""The shape of answers by API: content types, framing, structured pieces."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, assert_never

import orjson

from sidecar.apis.event_stream import EventStreamFramer
from sidecar.apis.frames import Framer, JsonArrayFramer, SseFramer
from sidecar.domain.guardrail_settings import AnswerPart
from sidecar.domain.http import NO_ENCODING, HeaderName, Headers, is_other_charset
from sidecar.domain.subject import Unreadable, UnscannedReason
from sidecar.jsontext.strict import JsonValue, index_of

MAX_TEXTS: Final = 1_000
"""More than any answer has choices, blocks and calls."""
MAX_COMPARED_BYTES: Final = 262_144
"""No guardrail takes a longer text, so longer ones need not be compared."""
MAX_ITEMS: Final = 5_000
"""Of the lists in one event that may hold texts; to look at each takes 1 us or two."""

_Object = Mapping[str, JsonValue]
_Channel = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class AnswerPiece:
    """One text. `place` is where it stands, in words of ours and numbers."""

    of: AnswerPart
    text: bytes
    place: str
    tool: str | None = None


@dataclass(slots=True)
class _Open:
    """A text that may go on."""

    of: AnswerPart
    place: str
    lane: str
    tool: str | None = None
    pieces: list[str] = field(default_factory=list[str])
    value: bytes = b""

    def text(self) -> bytes:
        """Return all of it so far; two halves of a character in two events are one again."""
        joined = "".join(self.pieces)
        if not joined and self.value:
            return self.value
        try:
            return joined.encode()
        except UnicodeEncodeError:
            halves = joined.encode("utf-16-le", "surrogatepass")
            return halves.decode("utf-16-le", "replace").encode()


class AnswerStructure:
    """Reads the events of one answer, or a whole answer, which is its own only event.

    `is_known` is set for answers of a known API, `is_overfull` if some of its texts are not
    among the `pieces`.
    """

    def __init__(self) -> None:
        self._open: dict[_Channel, _Open] = {}
        self._answered_otherwise: set[str] = set()
        self._items = 0
        self.is_known = False
        self.is_overfull = False

    def pieces(self) -> tuple[AnswerPiece, ...]:
        """Return the texts, equal ones once: some APIs repeat a text at its end.

        A text without a character counts unless its choice says something else instead: calls a
        tool, or refuses.
        """
        found: dict[tuple[AnswerPart, str | None, bytes | int], AnswerPiece] = {}
        for number, one in enumerate(self._open.values()):
            text = one.text()
            says = one.of is AnswerPart.CONTENT
            if says and not text and one.lane in self._answered_otherwise:
                continue
            piece = AnswerPiece(one.of, text, one.place, one.tool)
            same = text if len(text) <= MAX_COMPARED_BYTES else number
            found.setdefault((piece.of, piece.tool, same), piece)
        return tuple(found.values())

    def take(self, document: JsonValue) -> None:
        """Read the next event."""
        if not isinstance(document, dict):
            return
        self._items = 0
        kind = document.get("type")
        if isinstance(kind, str) and kind.startswith("response."):
            self._responses_event(kind, document)
        elif isinstance(document.get("choices"), list):
            self._choices(document)
        elif isinstance(document.get("candidates"), list):
            self._candidates(document)
        elif "contentBlockIndex" in document or kind in _BLOCK_EVENTS:
            # Events about one block of such a message.
            self.is_known = True
            index = index_of(document.get("index", document.get("contentBlockIndex")))
            if index is not None:
                for key in ("content_block", "start", "delta"):
                    self._block(index, _object(document.get(key)), "")
        elif isinstance(document.get("content"), list):
            self._blocks(document)
        else:
            self._output(document)

    def _choices(self, document: _Object) -> None:
        """Chat completions and completions of OpenAI, and of those who speak like it."""
        self.is_known = True
        for place, choice in self._placed(document.get("choices")):
            self._message(_object(choice.get("message")), f"choices[{place}]")
        for index, choice in self._indexed(document.get("choices")):
            lane = f"choices[{index}]"
            self._message(_object(choice.get("delta")), lane)
            if isinstance(text := choice.get("text"), str):
                self._say((lane,), text, lane, lane)

    def _message(self, message: _Object, lane: str) -> None:
        content = message.get("content")
        if isinstance(content, str):
            self._say((lane,), content, lane, lane)
        for _, part in self._placed(content):
            if part.get("type", "text") == "text" and isinstance(text := part.get("text"), str):
                self._say((lane,), text, lane, lane)
        if message.get("refusal"):
            self._answered_otherwise.add(lane)
        for index, call in self._indexed(message.get("tool_calls")):
            place = f"{lane}.tool_calls[{index}]"
            self._call((lane, index), _object(call.get("function")), place, lane)
        if legacy := _object(message.get("function_call")):
            self._call((lane, "function"), legacy, f"{lane}.function_call", lane)

    def _candidates(self, document: _Object) -> None:
        """Gemini, whose clients join the text of all parts that are not thoughts."""
        self.is_known = True
        for index, candidate in self._indexed(document.get("candidates")):
            lane = f"candidates[{index}]"
            for _, part in self._placed(_object(candidate.get("content")).get("parts")):
                if part.get("thought") is not True and isinstance(text := part.get("text"), str):
                    self._say((lane,), text, lane, lane)
                if call := _object(part.get("functionCall")):
                    place = f"{lane}.calls[{len(self._open)}]"
                    self._call((place,), call, place, lane)

    def _blocks(self, document: _Object, prefix: str = "") -> None:
        """Whole messages of Anthropic and Bedrock."""
        self.is_known = True
        for index, block in self._placed(document.get("content")):
            self._block(index, block, prefix)

    def _block(self, index: int, block: _Object, prefix: str) -> None:
        place = f"{prefix}content[{index}]"
        if isinstance(text := block.get("text"), str):
            self._say((place,), text, place, _MESSAGE)
        if block.get("type") == "tool_use":
            self._call((place,), block, place, _MESSAGE)
        if isinstance(piece := block.get("partial_json"), str) and (place,) in self._open:
            self._open[place,].pieces.append(piece)  # else of a tool that the server runs
        if call := _object(block.get("toolUse")):
            self._call((place,), call, place, _MESSAGE)

    def _output(self, document: _Object, prefix: str = "") -> None:
        """OpenAI's responses, and Bedrock's message within its `output`."""
        output = document.get("output")
        if isinstance(output, list):
            self.is_known = True
            for index, item in self._placed(output):
                self._item(index, item, prefix)
        elif message := _object(_object(output).get("message")):
            self._blocks(message, "message.")
        elif "error" in document or document.get("type") in _QUIET:
            self.is_known = True

    def _item(self, index: int, item: _Object, prefix: str) -> None:
        place = f"{prefix}output[{index}]"
        if item.get("type") == "function_call":
            self._call((place,), item, place, _MESSAGE)
        if item.get("type", "message") == "message":
            for number, part in self._placed(item.get("content")):
                self._part((place, number), part, f"{place}.content[{number}]")

    def _part(self, channel: _Channel, part: _Object, place: str) -> None:
        if part.get("type") == "refusal":
            self._answered_otherwise.add(_MESSAGE)
        if part.get("type") == "output_text" and isinstance(text := part.get("text"), str):
            self._say(channel, text, place, _MESSAGE)

    def _responses_event(self, kind: str, document: _Object) -> None:
        """Events of OpenAI's responses: deltas, and the whole again at the end of each thing."""
        self.is_known = True
        index, number = _number(document, "output_index"), _number(document, "content_index")
        place = f"output[{index}]"
        said = f"{place}.content[{number}]"
        match kind.removeprefix("response."):
            case "output_text.delta" if isinstance(text := document.get("delta"), str):
                self._say((place, number), text, said, _MESSAGE)
            case "output_text.done" if isinstance(text := document.get("text"), str):
                self._say((kind, place, number), text, said, _MESSAGE)
            case "content_part.done":
                self._part((kind, place, number), _object(document.get("part")), said)
            case "completed" | "incomplete" | "failed":
                self._output(_object(document.get("response")), "response.")
            case "function_call_arguments.delta" if (place,) in self._open:
                self._open[place,].pieces.append(str(document.get("delta", "")))
            case "function_call_arguments.done":
                known = self._open.get((place,))
                name = None if known is None else known.tool
                self._call((kind, place), {"name": name, **document}, place, _MESSAGE)
            case "output_item.added":
                self._item(index, {**_object(document.get("item")), "content": None}, "")
            case "output_item.done":
                self._item(index, _object(document.get("item")), "done.")
            case _:
                pass

    def _say(self, channel: _Channel, text: str, place: str, lane: str) -> None:
        self._opened(channel, _Open(AnswerPart.CONTENT, place, lane)).pieces.append(text)

    def _call(self, channel: _Channel, call: _Object, place: str, lane: str) -> None:
        """Begin a call or go on with it; its arguments are text, or an object as it is."""
        self._answered_otherwise.add(lane)
        one = self._opened(channel, _Open(AnswerPart.ARGUMENTS, place, lane))
        if isinstance(name := call.get("name"), str) and name:
            one.tool = name
        for key in ("arguments", "input", "args"):
            value = call.get(key)
            if isinstance(value, str):
                one.pieces.append(value)
            elif value is not None:
                try:
                    one.value = orjson.dumps(value)
                except orjson.JSONEncodeError:  # half a character, or too deep for any schema
                    self.is_overfull = True

    def _placed(self, value: JsonValue) -> Iterator[tuple[int, _Object]]:
        if isinstance(value, list):
            self._items += len(value)
            if self._items > MAX_ITEMS:
                self.is_overfull = True
                return
            for place, item in enumerate(value):
                if isinstance(item, dict):
                    yield place, item

    def _indexed(self, value: JsonValue) -> Iterator[tuple[int, _Object]]:
        """Yield the objects of a list by the index they give themselves: they come in pieces."""
        for place, item in self._placed(value):
            index = index_of(item.get("index"))
            yield (place if index is None else index), item

    def _opened(self, channel: _Channel, new: _Open) -> _Open:
        if len(self._open) < MAX_TEXTS:
            return self._open.setdefault(channel, new)
        known = self._open.get(channel)
        self.is_overfull = self.is_overfull or known is None
        return known or new


_MESSAGE: Final = "message"
# In tuples: a `type` may be a list.
_BLOCK_EVENTS: Final = ("content_block_start", "content_block_delta", "content_block_stop")
_QUIET: Final = ("message_start", "message_delta", "message_stop", "ping", "error")


def _object(value: JsonValue) -> _Object:
    return value if isinstance(value, dict) else {}


def _number(document: _Object, key: str) -> int:
    return index_of(document.get(key)) or 0


_SCRIPTS: Final = frozenset({"text/javascript", "text/ecmascript", "text/x-javascript"})
"""JSON within a call (JSONP) comes as these: as plain text its strings would keep their escapes,
and texts spread over several would not be joined."""

_GEMINI_STREAM: Final = ":streamGenerateContent"


class AnswerForm(enum.Enum):
    """The framing of an answer's body."""

    SSE = "sse"
    JSON_ARRAY = "json_array"
    EVENT_STREAM = "event_stream"
    JSON = "json"
    TEXT = "text"

    @property
    def is_streamed(self) -> bool:
        """Whether it comes in events of its own."""
        return self in _STREAMED


_STREAMED: Final = frozenset({AnswerForm.SSE, AnswerForm.JSON_ARRAY, AnswerForm.EVENT_STREAM})


def answer_form(headers: Headers, *, path: str) -> AnswerForm | Unreadable:
    """Return the form that an answer's headers declare; *path* is that of its request."""
    encodings = frozenset(headers.all(HeaderName.CONTENT_ENCODING))
    types = frozenset(headers.all(HeaderName.CONTENT_TYPE))
    is_gemini_stream = path.partition("?")[0].endswith(_GEMINI_STREAM)
    return _declared_form(encodings, types, is_gemini_stream)


@lru_cache(maxsize=64)  # providers have few; a header is 60 KB at most
def _declared_form(
    encodings: frozenset[bytes],
    types: frozenset[bytes],
    is_gemini_stream: bool,  # noqa: FBT001 - a cached call takes its arguments by position
) -> AnswerForm | Unreadable:
    if not {one.strip().lower() for one in encodings} <= NO_ENCODING:
        return Unreadable(UnscannedReason.ENCODED_BODY)
    if len(types) != 1:
        return Unreadable(UnscannedReason.UNKNOWN_SHAPE)
    (content_type,) = types
    media_type, *parameters = (
        piece.strip().lower() for piece in content_type.decode("latin-1").split(";")
    )
    if any(map(is_other_charset, parameters)):
        return Unreadable(UnscannedReason.CHARSET)
    return _form_of(media_type, is_gemini_stream=is_gemini_stream)


def _form_of(media_type: str, *, is_gemini_stream: bool) -> AnswerForm | Unreadable:
    match media_type:
        case "text/event-stream":
            return AnswerForm.SSE
        case "application/vnd.amazon.eventstream":
            return AnswerForm.EVENT_STREAM
        case "application/json" if is_gemini_stream:
            return AnswerForm.JSON_ARRAY
        case _ if media_type == "application/json" or media_type.endswith("+json"):
            return AnswerForm.JSON
        case _ if media_type.startswith("text/") and media_type not in _SCRIPTS:
            return AnswerForm.TEXT
        case _:
            return Unreadable(UnscannedReason.UNKNOWN_SHAPE)


def framer_of(form: AnswerForm) -> Framer | None:
    """Return the framer of an answer; None if the whole answer is one event."""
    match form:
        case AnswerForm.SSE:
            return SseFramer()
        case AnswerForm.JSON_ARRAY:
            return JsonArrayFramer()
        case AnswerForm.EVENT_STREAM:
            return EventStreamFramer()
        case AnswerForm.JSON | AnswerForm.TEXT:
            return None
        case _:
            assert_never(form)
