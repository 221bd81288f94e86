"""What a body must look like for us and a provider to read the same request in it."""

from __future__ import annotations

from typing import Final, assert_never

from sidecar.dialects.strict_json import JsonValue
from sidecar.domain.subject import RequestForm

# An enum's members are slow to look up on Python 3.11; most requests are of this form.
_MESSAGES: Final = RequestForm.MESSAGES

Fields = dict[str, JsonValue]


def shape_problem(form: RequestForm, fields: Fields) -> str | None:
    """Return what is wrong with a body, in words that repeat none of it."""
    return _common_problem(fields) or _content_problem(form, fields)


def _common_problem(fields: Fields) -> str | None:
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


_DECIDING = frozenset({"model", "models", "fallbacks", "tools", "stream"})
"""Fields that are acted on, not only scanned."""


def _content_problem(form: RequestForm, fields: Fields) -> str | None:  # noqa: C901, PLR0911 - forms
    if form is _MESSAGES:
        return _messages_problem(fields.get("messages"))
    match form:
        case RequestForm.ANY_OBJECT:
            return None
        case RequestForm.CONVERSE:
            # A prompt that is stored at the provider may stand in the place of messages.
            return _messages_problem(fields.get("messages", []))
        case RequestForm.RESPONSES:
            return _text_problem("input", fields.get("input", ""))
        case RequestForm.PROMPT:
            return _text_problem("prompt", fields.get("prompt"))
        case RequestForm.INPUT:
            return _text_problem("input", fields.get("input"))
        case RequestForm.CONTENTS:
            return _parts_problem("contents", fields.get("contents"))
        case RequestForm.CONTENT:
            return _parts_problem("content", fields.get("content"))
        case RequestForm.REQUESTS:
            return _parts_problem("requests", fields.get("requests"))
        case _:
            assert_never(form)


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


def _parts_problem(name: str, value: JsonValue) -> str | None:
    """Judge a field that Google takes as one object or as many."""
    if isinstance(value, (dict, list)):
        return None
    return f"The field `{name}` is missing or neither an object nor an array."


def has_tokens(text: JsonValue) -> bool:
    """Tell whether numbers stand where text could: a model's tokens, which only it can read."""
    return isinstance(text, list) and any(
        isinstance(item, (int, float)) or (isinstance(item, list) and has_tokens(item))
        for item in text
    )
