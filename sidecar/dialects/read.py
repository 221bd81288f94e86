"""From a request's headers and body to what guardrails judge."""

from __future__ import annotations

from typing import Final

from sidecar.dialects.named_models import MAX_OTHER_MODELS, named_models
from sidecar.dialects.output_bound import output_bound
from sidecar.dialects.shape import has_tokens, shape_problem
from sidecar.dialects.stream_usage import asks_for_usage
from sidecar.dialects.strict_json import JsonDocument, parse
from sidecar.dialects.vocabulary import vocabulary
from sidecar.dialects.walk import MAX_PARTS, Walk
from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import (
    Malformed,
    Route,
    Subject,
    Unreadable,
    UnscannedReason,
)

_NO_ENCODING: Final = frozenset({b"identity", b""})
_JSON: Final = (b"application/json",)
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
        if reason is UnscannedReason.UNKNOWN_SHAPE and _is_form(headers):
            reason = route.operation.spec.uploads or reason
        return Unreadable(reason)
    document = parse(body)
    if isinstance(document, Malformed):
        return document
    return _subject(route, document)


def _is_form(headers: Headers) -> bool:
    return headers.text(HeaderName.CONTENT_TYPE).lower().startswith("multipart/form-data")


def _declared_unreadable(headers: Headers) -> UnscannedReason | None:
    for encoding in headers.all(HeaderName.CONTENT_ENCODING):
        if encoding.strip().lower() not in _NO_ENCODING:
            return UnscannedReason.ENCODED_BODY
    types = headers.all(HeaderName.CONTENT_TYPE)
    if not types or types == _JSON:
        return None
    if len(set(types)) > 1:
        return UnscannedReason.CHARSET
    return _unreadable_type(types[0].decode("latin-1"))


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


def _subject(route: Route, document: JsonDocument) -> Subject | Malformed:
    fields = document.value
    if not isinstance(fields, dict):
        return Malformed("The body is not a JSON object.")
    problem = shape_problem(route.form, fields)
    if problem is not None:
        return Malformed(problem)
    walk = Walk(vocabulary(route.dialect))
    walk.document(fields)
    if walk.is_overfull:
        return Malformed(f"The body holds more than {MAX_PARTS} texts.")
    if has_tokens(fields.get("prompt")) or has_tokens(fields.get("input")):
        walk.unscanned[UnscannedReason.UNKNOWN_SHAPE] = None
    model, others = named_models(route, fields)
    if len(others) > MAX_OTHER_MODELS:
        return Malformed(f"The body names more than {MAX_OTHER_MODELS} further models.")
    return Subject(
        model=model,
        streamed=route.is_streamed or fields.get("stream") is True,
        parts=tuple(walk.parts),
        unscanned=tuple(walk.unscanned),
        other_models=others,
        runs=tuple(walk.runs),
        asks_for_usage=asks_for_usage(fields.get("stream_options")),
        max_output_tokens=output_bound(fields),
    )
