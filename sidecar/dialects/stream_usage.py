"""Asking for the counts of a stream, in OpenAI's APIs, which tell them only to those who ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.dialects import json_text
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

_TOKEN: Final = re.compile(
    rb'(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<open>[{\[])|(?P<close>[}\]])|(?P<mark>[:,])'
    rb"|(?P<scalar>[^\s{}\[\]:,\"]++)",
    re.DOTALL,
)


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
    inner = list(members(body, options.start))
    asked = next((one for one in inner if one.name == INCLUDE_USAGE), None)
    if asked is not None:
        return body[: asked.start] + b"true" + body[asked.end :]
    begin = options.start + 1
    return body[:begin] + _ASKED + (b"," if inner else b"") + body[begin:]


def members(text: bytes, start: int) -> Iterator[Member]:
    """Yield the members of the object that begins at or after *start* in valid JSON."""
    tokens: list[re.Match[bytes]] = []  # of one member: its name, a colon, its value
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += _STEPS.get(token.group(), 0)
        if depth == 1 and not tokens and token.lastgroup == "open":
            continue  # the object itself begins
        if depth == 0 or (depth == 1 and token.group() == b","):
            if tokens:
                name = json_text.decode(tokens[0].group()[1:-1])
                yield Member(name, tokens[0].start(), tokens[2].start(), tokens[-1].end())
            tokens = []
        else:
            tokens.append(token)
        if depth == 0:
            return


_STEPS: Final = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}
