"""Asking for the counts of a stream, in OpenAI's APIs, which tell them only to those who ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.dialects import json_text
from sidecar.dialects.json_text import WHOLE_STRING
from sidecar.dialects.strict_json import JsonValue
from sidecar.domain.subject import Dialect, Operation, RequestForm, Route

OPTIONS: Final = b"stream_options"
INCLUDE_USAGE: Final = b"include_usage"
_ASKED: Final = b'"include_usage":true'

_DIALECTS: Final = frozenset({Dialect.OPENAI, Dialect.AZURE_OPENAI})
_ASKABLE: Final = frozenset(
    {(Operation.CHAT, RequestForm.MESSAGES), (Operation.TEXT_COMPLETION, RequestForm.PROMPT)}
)
"""Not responses, whose streams tell anyway and whose options have no such field."""

_NAME: Final = re.compile(rb"[\s,]*+(" + WHOLE_STRING + rb")\s*+:\s*+", re.DOTALL)
_SCALAR: Final = re.compile(WHOLE_STRING + rb'|[^"\s,{}\[\]]++', re.DOTALL)


def _whole_inside(levels: int) -> bytes:
    """Match what stands in an object or array, other ones included that are *levels* deep."""
    within = rb'[^"{}\[\]]++|' + WHOLE_STRING
    if levels:
        within += rb"|[{\[]" + _whole_inside(levels - 1) + rb"[}\]]"
    return rb"(?:" + within + rb")*+"


_INSIDE: Final = re.compile(_whole_inside(4), re.DOTALL)
"""Messages with parts with pictures, in one match: one for each bracket costs seconds where
someone sends ten megabytes of them."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object, from `text[at]` on; its value's bytes are `text[start:end]`."""

    name: bytes
    at: int
    start: int
    end: int


def can_ask_for_usage(route: Route) -> bool:
    """Tell whether streams of *route* tell their counts only if they are asked to."""
    return route.dialect in _DIALECTS and (route.operation, route.form) in _ASKABLE


def asks_for_usage(options: JsonValue) -> bool:
    """Tell whether the `stream_options` of a request ask already."""
    return isinstance(options, dict) and options.get("include_usage") is True


def ask_for_usage(body: bytes) -> bytes:
    """Return *body*, a valid JSON object with members, asking for the counts of its stream.

    All other bytes stay. Options that are no object are left alone: the provider refuses them.
    """
    options = next((one for one in members(body, 0) if one.name == OPTIONS), None)
    if options is None:
        end = body.rindex(b"}")
        return body[:end] + b',"stream_options":{' + _ASKED + b"}" + body[end:]
    value = body[options.start : options.end]
    if value == b"null":
        return body[: options.start] + b"{" + _ASKED + b"}" + body[options.end :]
    if not value.startswith(b"{"):
        return body
    asked = next((one for one in members(body, options.start) if one.name == INCLUDE_USAGE), None)
    if asked is not None:
        return body[: asked.start] + b"true" + body[asked.end :]
    begin = options.start + 1
    comma = b"" if next(members(body, options.start), None) is None else b","
    return body[:begin] + _ASKED + comma + body[begin:]


def members(text: bytes, start: int) -> Iterator[Member]:
    """Yield the members of the object that begins at or after *start* in valid JSON."""
    at = text.index(b"{", start) + 1
    while (name := _NAME.match(text, at)) is not None:
        at = _end_of_value(text, name.end())
        yield Member(json_text.decode(name[1][1:-1]), name.start(1), name.end(), at)


def _end_of_value(text: bytes, start: int) -> int:
    scalar = _SCALAR.match(text, start)
    if scalar is not None:
        return scalar.end()
    at, depth = start + 1, 1
    while depth:
        inside = _INSIDE.match(text, at)
        at = at if inside is None else inside.end()
        depth += 1 if text[at] in b"{[" else -1
        at += 1
    return at
