"""From a request's headers and body to what guardrails judge."""

from __future__ import annotations

from typing import Final, assert_never

from sidecar.dialects.strict_json import JsonDocument, JsonValue, parse
from sidecar.dialects.walk import MAX_PARTS, Walk
from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import (
    Malformed,
    Operation,
    Route,
    Subject,
    Unreadable,
    UnscannedReason,
)

_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})


def read_request(route: Route, headers: Headers, body: bytes) -> Subject | Unreadable | Malformed:
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
        return Unreadable(reason)
    document = parse(body)
    if isinstance(document, Malformed):
        return document
    return _subject(route.operation, document)


def _declared_unreadable(headers: Headers) -> UnscannedReason | None:
    encodings = set(headers.all(HeaderName.CONTENT_ENCODING))
    if not {one.strip().lower() for one in encodings} <= {b"identity", b""}:
        return UnscannedReason.ENCODED_BODY
    types = set(headers.all(HeaderName.CONTENT_TYPE))
    if len(types) > 1:
        return UnscannedReason.CHARSET
    return next((_unreadable_type(one.decode("latin-1")) for one in types), None)


def _unreadable_type(content_type: str) -> UnscannedReason | None:
    """Read a media type (RFC 9110 section 8.3.1); an odd parameter counts as a charset."""
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


def _subject(operation: Operation, document: JsonDocument) -> Subject | Malformed:
    fields = document.value
    if not isinstance(fields, dict):
        return Malformed("The body is not a JSON object.")
    problem = _common_problem(fields) or _content_problem(operation, fields)
    if problem is not None:
        return Malformed(problem)
    walk = Walk()
    walk.document(fields)
    if walk.is_overfull:
        return Malformed(f"The body holds more than {MAX_PARTS} texts.")
    if _has_tokens(fields.get("prompt")) or _has_tokens(fields.get("input")):
        walk.unscanned[UnscannedReason.UNKNOWN_SHAPE] = None
    model = fields.get("model")
    return Subject(
        model=model if isinstance(model, str) else None,
        streamed=fields.get("stream") is True,
        parts=tuple(walk.parts),
        unscanned=tuple(walk.unscanned),
    )


def _common_problem(fields: dict[str, JsonValue]) -> str | None:
    for name in fields:
        # A provider that takes names in any case would run a model that we did not judge.
        if name not in _DECIDING and name.casefold() in _DECIDING:
            return f"A field differs from `{name.casefold()}` only in case."
    if not isinstance(fields.get("model", ""), str):
        return "The field `model` is not a string."
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        return "The field `stream` is not a boolean."
    return None


_DECIDING: Final = frozenset({"model", "stream"})
"""Fields that are acted on, not only scanned."""


def _content_problem(operation: Operation, fields: dict[str, JsonValue]) -> str | None:
    match operation:
        case Operation.CHAT | Operation.COUNT_TOKENS:
            return _messages_problem(fields.get("messages"))
        case Operation.TEXT_COMPLETION:
            return _text_problem("prompt", fields.get("prompt"))
        case Operation.EMBEDDINGS:
            return _text_problem("input", fields.get("input"))
        case Operation.LIST_MODELS:
            return None
        case _:
            assert_never(operation)


def _messages_problem(messages: JsonValue) -> str | None:
    if not isinstance(messages, list):
        return "The field `messages` is missing or not an array."
    for message in messages:
        if not isinstance(message, dict):
            return "The field `messages` holds something that is not an object."
        if not isinstance(message.get("role", ""), str):
            return "The field `role` of a message is not a string."
        content = message.get("content")
        if content is not None and not isinstance(content, (str, list)):
            return "The field `content` of a message is neither a string nor an array."
    return None


def _text_problem(name: str, text: JsonValue) -> str | None:
    if isinstance(text, (str, list)):
        return None
    return f"The field `{name}` is missing or neither a string nor an array."


def _has_tokens(text: JsonValue) -> bool:
    """Tell whether numbers stand where text could: a model's tokens, which only it can read."""
    return isinstance(text, list) and any(
        isinstance(item, (int, float)) or (isinstance(item, list) and _has_tokens(item))
        for item in text
    )
