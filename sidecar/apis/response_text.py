"""Extracts the text of answers, whole or streamed, with its place."""

from __future__ import annotations

import gc
import json
import math
import re
from typing import Any, Final

import msgspec
import orjson

from sidecar.apis.vocabulary import FIELD_NAMES
from sidecar.domain.cooperative import SHORT_BYTES, Cooperative, run_sync
from sidecar.domain.subject import UnscannedReason
from sidecar.jsontext.strict import MAX_DEPTH, JsonBound, JsonValue, digits_of, index_of
from sidecar.jsontext.tokens import count_strings

SKIPPED: Final = frozenset(
    """
    id object type role created created_at completed_at model model_version modelVersion version
    response_id responseId createTime system_fingerprint service_tier serviceTier status
    finish_reason finishReason native_finish_reason stop_reason stopReason incomplete_details
    item_id call_id tool_use_id tool_call_id toolUseId previous_response_id event_id container_id
    event_type previous_interaction_id environment_id continuation_token
    signature thoughtSignature encrypted_content encrypted_index obfuscation p usage usageMetadata
    usage_metadata metrics amazon-bedrock-invocationMetrics safetyRatings safety_ratings
    promptFeedback prompt_filter_results content_filter_results logprobs logprobsResult
    instructions tools tool_choice toolConfig metadata user safety_identifier prompt_cache_key
    prompt_cache_retention prompt background store temperature top_p truncation sequence_number
    """.split()  # noqa: SIM905 - a list would be one word a line
)

WHOLE: Final = frozenset(
    """
    name title url uri filename file_id cited_text source code param citations
    annotations annotation citation citationMetadata groundingMetadata groundingChunks
    stop_sequence queries query provider finishMessage media_type mime_type mimeType language
    outcome trace
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Fields that are never sent in pieces, so that their value is judged at once."""

FREE: Final = frozenset(
    {"args", "arguments", "input", "parameters", "action", "json", "attributes", "numberValue"}
)
"""Objects whose keys the model, a tool or the owner of a file chooses: all of them is text,
numbers included; and an argument that is sent by itself."""

SEALED: Final = ("redacted_thinking",)
"""Types of objects that only the provider can read. In a tuple: a `type` may be a list."""

JSON_TEXT: Final = frozenset({"arguments", "partial_json", "input"})
"""Strings that hold JSON text, in which an escape can hide a character."""

PAYLOADS: Final = {
    "data": UnscannedReason.FILE,
    "bytes": UnscannedReason.FILE,
    "b64_json": UnscannedReason.IMAGE,
    "partial_image_b64": UnscannedReason.IMAGE,
    "result": UnscannedReason.IMAGE,
    "url": UnscannedReason.FILE,  # `data:` with base64, as some gateways send pictures
}
"""Where base64 is not text."""

EVENT_PAYLOADS: Final = {
    "chunk": ("bytes", UnscannedReason.FILE),
    "speech.audio.delta": ("audio", UnscannedReason.AUDIO),
    "response.audio.delta": ("delta", UnscannedReason.AUDIO),
    "response.output_audio.delta": ("delta", UnscannedReason.AUDIO),
}
"""By event name: the member that is base64 at any length, and its kind. A `chunk` of Bedrock's
InvokeModel is none of these if an event of the model's own could be read in it.
"""

MEDIA: Final = {
    "audio": UnscannedReason.AUDIO,
    "image": UnscannedReason.IMAGE,
    "inlineData": UnscannedReason.FILE,
    "inline_data": UnscannedReason.FILE,
    "images": UnscannedReason.IMAGE,
    "image_url": UnscannedReason.IMAGE,
}
"""The kind of a payload, by the field around it."""

KNOWN: Final = (
    FIELD_NAMES
    | SKIPPED
    | WHOLE
    | FREE
    | JSON_TEXT
    | frozenset(PAYLOADS)
    | frozenset(MEDIA)
    | frozenset(
        """
        choices delta candidates parts thought functionCall function_call functionResponse
        executableCode codeExecutionResult output_index content_index summary_index text_offset
        reasoning reasoningContent reasoningText redactedContent content_block contentBlockIndex
        start toolUse toolResult document searchResult thinking transcript tokens token_logprobs
        sequence_number output_text reasoning_text refusal logprobs avgLogprobs tokenCount
        expires_at parallel_tool_calls
        max_output_tokens max_tool_calls stop_details applied_edits context_management
        error message response item part output reason
        """.split()  # noqa: SIM905 - a list would be one word a line
    )
)
"""Keys that are no text of the model's own. Any other key is judged like a value."""


Path = tuple[str | int, ...]

MAX_TEXTS: Final = 50_000
"""As many as a request may have; ten megabytes of one-letter strings take seconds."""

SLICE_VALUES: Final = 512
"""Values read between two interruptions: some 0.5 ms."""

SLICE_ITEMS: Final = 16_384
"""Items of a list that are counted between two interruptions if none is text: some 1 ms."""

BOUND: Final = JsonBound(containers=400_000, commas=1_500_000)
"""More than a request may have: ten megabytes of the probabilities of tokens are no fewer."""

LONG_NUMBER: Final = 10**8
"""Nine digits: shorter numbers are no card, account or social security number."""

MIN_PAYLOAD: Final = 64
"""No image or sound is shorter, but an access key, which looks the same, is."""

_PAYLOAD: Final = re.compile(r"(?:data:[\w.+/;=-]*;base64,)?[A-Za-z0-9+/_-]++={0,2}", re.ASCII)

DONE: Final = b"[DONE]"
"""How OpenAI ends a stream; the only event that is not JSON."""


class AnswerText(msgspec.Struct, frozen=True, gc=False):
    """One string, or long number, that reaches the client.

    `channel` is the text it is a piece of, None where it is a whole text; `lane` is the choice or
    block that this text belongs to. `location` is that of `TextPart`, of one token. `is_json`
    marks JSON text, whose escapes hide characters.
    """

    content: bytes
    location: int
    channel: Path | None
    lane: Path
    is_json: bool


class AnswerEvent(msgspec.Struct, frozen=True, gc=False):
    """The texts of one event. `ended` are the lanes whose texts are complete with it.

    With `may_hold_payload` one of the texts would be a payload if it were base64.
    """

    texts: tuple[AnswerText, ...] = ()
    ended: tuple[Path, ...] = ()
    ends_all: bool = False
    unscanned: tuple[UnscannedReason, ...] = ()
    has_logprobs: bool = False
    may_hold_payload: bool = False


class UnreadableEvent(msgspec.Struct, frozen=True):
    """An event whose content cannot be read."""

    reason: UnscannedReason


SHORT_LIST: Final = 16
"""Values of a list that are gone through one by one; of a longer one they are counted first."""

_UNCOUNTED: Final = frozenset({dict, list})

_NOTHING: Final = AnswerEvent()
_END: Final = AnswerEvent(ends_all=True)
_UNREADABLE: Final = UnreadableEvent(UnscannedReason.MALFORMED_ANSWER)

_JOIN: Final = 0
_ONCE: Final = 1
_ALL: Final = 2
_COUNT: Final = 3
_RESULT: Final = 4
"""Treatment of the strings below: joined over events, judged at once, all taken as text
regardless of their names, only counted, joined and all but media taken as text."""

_JOINED: Final = frozenset({_JOIN, _RESULT})
_TAKEN: Final = frozenset({_ALL, _RESULT})

_MODES: Final = (
    dict.fromkeys(WHOLE, _ONCE)
    | dict.fromkeys(FREE, _ALL)
    | dict.fromkeys(SKIPPED, _COUNT)
    | {"result": _RESULT}  # of a tool, in Google's interactions
)
"""By the name of a field; below others the treatment stays."""

_RESPONSES: Final = frozenset(
    {"functionResponse", "function_response", "toolResponse", "tool_response"}
)
"""Objects of Gemini's in which `response` is the result of a tool; elsewhere it is an answer."""

_ECHOED: Final = frozenset({"instructions", "tools", "metadata"})
"""Fields of an answer that repeat those of its request, but not in an item, which has a type: the
tools that a server lists, for one.
"""

_PLACES: Final = ("content_index", "summary_index", "command_index")
"""Numbers of a text within an item of OpenAI's responses."""


def read_answer(payload: bytes | None, *, event: str = "") -> AnswerEvent | UnreadableEvent:
    """Read a short event at once."""
    return run_sync(read_in_slices(payload, event=event))


def read_in_slices(
    payload: bytes | None, *, event: str = ""
) -> Cooperative[AnswerEvent | UnreadableEvent]:
    """Read an event, or a whole answer, which is its own only event."""
    if payload is None or not (content := payload.strip()):
        return _NOTHING
    if content == DONE:
        return _END
    try:
        document: JsonValue = load_event(payload)
        if not isinstance(document, dict):
            return UnreadableEvent(UnscannedReason.UNKNOWN_SHAPE)
        if len(payload) > SHORT_BYTES:
            yield
        walk = _Walk()
        yield from walk.run(document, event)
    except (ValueError, RecursionError):
        return _UNREADABLE
    if walk.is_overfull or walk.strings != count_strings(payload):
        return _UNREADABLE  # a key that stands twice hides one of its values from us
    return AnswerEvent(
        texts=tuple(walk.texts),
        ended=tuple(walk.ended),
        unscanned=tuple(walk.unscanned),
        has_logprobs=walk.has_logprobs,
        may_hold_payload=walk.may_hold_payload,
    )


LOGPROBS: Final = frozenset({"logprobs", "logprobsResult"})
"""Fields that repeat the text of an answer, token by token."""


def load_event(payload: bytes) -> Any:
    """Return the JSON of an event, or of a whole answer.

    Raises:
        ValueError: it is no JSON in UTF-8, or holds more than is read.
        RecursionError: it is nested too deep.
    """
    if BOUND.is_exceeded_by(payload):
        raise ValueError("more values than are read")
    is_collecting = gc.isenabled() and len(payload) > SHORT_BYTES
    if is_collecting:
        gc.disable()  # none of what is made is garbage; to look for it takes as long again
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        # An emoji cut in two by a provider that counts in UTF-16 leaves half a pair in each
        # event, which orjson refuses.
        return json.loads(payload.decode())
    finally:
        if is_collecting:
            gc.enable()


class _Walk:
    """One pass over a document, in the order of its tokens and in slices."""

    __slots__ = (
        "_left",
        "_numbers",
        "_payload",
        "ended",
        "has_logprobs",
        "is_overfull",
        "may_hold_payload",
        "strings",
        "texts",
        "unscanned",
    )

    def __init__(self) -> None:
        self._left = SLICE_VALUES
        self._numbers = 0
        self._payload: tuple[str, UnscannedReason] | None = None
        self.strings = 0
        self.texts: list[AnswerText] = []
        self.ended: list[Path] = []
        self.unscanned: dict[UnscannedReason, None] = {}
        self.has_logprobs = False
        self.is_overfull = False
        self.may_hold_payload = False

    def run(self, document: dict[str, JsonValue], event: str) -> Cooperative[None]:
        """Collect everything."""
        kind = document.get("type", document.get("event_type"))
        name = kind if isinstance(kind, str) else event
        self._payload = EVENT_PAYLOADS.get(name)
        if name.startswith("response."):
            self.is_overfull = len(document) > SLICE_VALUES  # it has some ten members
            if not self.is_overfull:
                yield from self._responses_event(document, name)
            return
        index = index_of(document.get("index", document.get("contentBlockIndex")))
        lane: Path = () if index is None else ("block", index)
        yield from self._object(document, lane, lane, _JOIN)
        if lane and name in _BLOCK_ENDS:
            self.ended.append(lane)

    def _responses_event(self, document: dict[str, JsonValue], name: str) -> Cooperative[None]:
        """OpenAI's typed events: only `delta` comes in pieces, all else repeats it whole.

        A string in `delta` is a piece also in an event of a type that is new to us.
        """
        lane: Path = ("output", _number_of(document, "output_index"))
        stem = name.removesuffix(".delta")
        place = sum([_number_of(document, name) for name in _PLACES])
        # Clients join texts by their numbers: an id that changes would begin no text of its own.
        item = "" if "output_index" in document else str(document.get("item_id", ""))
        channel = (*lane, stem, place, item)
        for key, value in document.items():
            self.strings += 1
            if key == "delta" and isinstance(value, str):
                if not self._is_event_payload(key, value):
                    is_json = stem.endswith(("arguments", "input", "code"))
                    self._add(value, channel, lane, is_json=is_json)
                self.strings += 1
                continue
            path, mode = lane, _JOIN
            if key == "delta" and stem != name:  # an object with pieces of several texts
                path = channel
            else:
                if key not in KNOWN:
                    self._add(key, None, lane, is_json=False)
                mode = self._mode_below(key, value, _ONCE)
            if isinstance(value, dict):
                yield from self._object(value, path, lane, mode)
            elif isinstance(value, list):
                yield from self._list(key, value, path, lane, mode)
            elif value is not None:
                self._scalar(key, value, path, lane, mode)
        goes_on = name.endswith((".delta", ".added", ".created", ".in_progress"))
        if not (goes_on or isinstance(document.get("delta"), str)):
            self.ended.append(lane)

    # These run for every value of every event: arguments by position, and few calls.
    def _object(  # noqa: C901 - one branch a kind of value
        self, node: dict[str, JsonValue], path: Path, lane: Path, mode: int
    ) -> Cooperative[None]:
        is_text = mode in _TAKEN
        if not is_text and node.get("type") in SEALED:
            mode = _COUNT
        if len(path) > MAX_DEPTH:
            self.is_overfull = True
        is_counted = mode == _COUNT
        for key, value in node.items():
            self._left -= 1
            if self._left < 0:
                self._left = SLICE_VALUES
                yield
            if self.is_overfull:
                return
            inner = mode
            if is_counted:
                pass
            elif is_text or key not in KNOWN:
                self._add(key, None, lane, is_json=False)
            elif key in _MODES and not (key in _ECHOED and "type" in node):
                inner = self._mode_below(key, value, mode)
            elif key == "response" and path and path[-1] in _RESPONSES:
                inner = _RESULT
            if inner == _COUNT and isinstance(value, str):
                self.strings += 2
                continue
            self.strings += 1
            if value is None:
                continue
            below = (*path, _ALIASES.get(key, key)) if inner in _JOINED else path
            if isinstance(value, dict):
                yield from self._object(value, below, lane, inner)
            elif isinstance(value, list):
                yield from self._list(key, value, below, lane, inner)
            else:
                self._scalar(key, value, below, lane, inner)

    def _mode_below(self, key: str, value: JsonValue, mode: int) -> int:
        inner = _MODES.get(key, mode)
        if inner == _COUNT:
            if value and key in LOGPROBS:
                self.has_logprobs = True
        elif inner in _TAKEN and isinstance(value, str):
            return mode
        return inner

    def _list(  # noqa: C901 - one branch a kind of item
        self, key: str, items: list[JsonValue], path: Path, lane: Path, mode: int, first: int = 0
    ) -> Cooperative[None]:
        """Collect the items of a list, or of the slice of it that begins at *first*."""
        if len(items) > SLICE_ITEMS:
            for start in range(0, len(items), SLICE_ITEMS):
                piece = items[start : start + SLICE_ITEMS]
                yield from self._list(key, piece, path, lane, mode, start)
                yield
            return
        if len(items) > SHORT_LIST and self._is_counted(items, mode):
            return
        for position, item in enumerate(items, first):
            self._left -= 1
            if self._left < 0:
                self._left = SLICE_VALUES
                yield
            if self.is_overfull:
                return
            inner, own, is_lane = path, lane, False
            if mode in _JOINED:
                place: str | int = position
                if isinstance(item, dict):
                    place = _place(key, item, position)
                inner = (*path, place)
                if key in _LANES and len(path) == 1:
                    own, is_lane = inner, True
            if isinstance(item, dict):
                yield from self._object(item, inner, own, mode)
                if is_lane and (item.get("finish_reason") or item.get("finishReason")):
                    self.ended.append(own)
            elif isinstance(item, list):
                yield from self._list(key, item, inner, own, mode)
            elif item is not None:
                self._scalar(key, item, inner, own, mode)

    def _is_counted(self, items: list[JsonValue], mode: int) -> bool:
        """Return whether nothing of a long list is text, and count its values if so.

        For example the vector of an embedding, or the bytes of a token.
        """
        kinds = list(map(type, items))
        if not _UNCOUNTED.isdisjoint(kinds) or (mode != _COUNT and str in kinds):
            return False
        if mode in _TAKEN:
            numbers: list[Any] = list(filter(None, items))
            if numbers and not -LONG_NUMBER < min(numbers) <= max(numbers) < LONG_NUMBER:
                return False
        self.strings += kinds.count(str)
        self._numbers += kinds.count(float) + kinds.count(int)
        return True

    def _scalar(self, key: str, value: str | float, path: Path, lane: Path, mode: int) -> None:
        if isinstance(value, str):
            if mode != _COUNT and value:
                self._string(key, value, path, lane, mode)
            self.strings += 1
        elif not isinstance(value, bool):
            if mode in _TAKEN and LONG_NUMBER <= abs(value) < math.inf:  # not 1e999
                place = -1 - self._numbers
                self.is_overfull = self.is_overfull or len(self.texts) >= MAX_TEXTS
                self.texts.append(AnswerText(digits_of(value), place, None, lane, is_json=False))
            self._numbers += 1

    def _string(self, key: str, value: str, path: Path, lane: Path, mode: int) -> None:
        if self._payload is not None and self._is_event_payload(key, value):
            return
        if mode != _ALL and key in PAYLOADS:
            if (key != "url" or value.startswith("data:")) and (
                len(value) >= MIN_PAYLOAD and _PAYLOAD.fullmatch(value) is not None
            ):
                media = [MEDIA[step] for step in path if isinstance(step, str) and step in MEDIA]
                self.unscanned[media[-1] if media else PAYLOADS[key]] = None
                return
            self.may_hold_payload = True
        self._add(value, path if mode in _JOINED else None, lane, is_json=key in JSON_TEXT)

    def _is_event_payload(self, key: str, value: str) -> bool:
        """Return whether it is the payload of this kind of event, and record that."""
        if self._payload is None or self._payload[0] != key:
            return False
        if not _PAYLOAD.fullmatch(value):
            self.may_hold_payload = True
            return False
        self.unscanned[self._payload[1]] = None
        return True

    def _add(self, text: str, channel: Path | None, lane: Path, *, is_json: bool) -> None:
        if not text:
            return
        if len(self.texts) >= MAX_TEXTS:
            self.is_overfull = True
            return
        content = text.encode("utf-8", "replace")
        self.texts.append(AnswerText(content, self.strings, channel, lane, is_json=is_json))


_LANES: Final = frozenset({"choices", "candidates"})
_BLOCK_ENDS: Final = frozenset({"content_block_stop", "contentBlockStop", "step.stop"})
_ALIASES: Final = {"delta": "block", "content_block": "block", "start": "block"}
"""A block's text goes on in its deltas where its start has left off."""


def _place(key: str, item: dict[str, JsonValue], position: int) -> str | int:
    if key == "parts":
        # Gemini's clients join the text of all parts, and set apart only the thoughts.
        return "thought" if item.get("thought") is True else "said"
    if key == "partialArgs":
        return str(item.get("jsonPath"))
    index = item.get("index", position)
    if isinstance(index, int):  # mostly
        return index
    number = index_of(index)
    return position if number is None else number


def _number_of(document: dict[str, JsonValue], key: str) -> int:
    return index_of(document.get(key)) or 0
