"""The last gate before a log line: what is secret by type, name or shape goes no further.

Only values whose text is known to be harmless are written as they are; anything else is named by
its type. That an object has a talkative `repr` must not be enough to leak.
"""

from __future__ import annotations

import enum
import re
from collections.abc import MutableMapping
from typing import Final, cast

from pydantic import SecretBytes, SecretStr

REDACTED: Final = "[redacted]"
MAX_TEXT_CHARACTERS: Final = 1024
MAX_ITEMS: Final = 32
MAX_DEPTH: Final = 4

_Many = dict[object, object] | list[object] | tuple[object, ...] | set[object] | frozenset[object]
_MANY: Final = frozenset({dict, list, tuple, set, frozenset})
_PLAIN: Final = frozenset({int, float, bool, type(None)})

_SECRET_NAME: Final = re.compile(
    r"authorization|api[-_]?key|secret|passw|credential|cookie|bearer|^key$|token$|dsn$"
    r"|^(prompt|completion|content|body|messages)$",
    re.IGNORECASE,
)
_EGRET_KEY: Final = re.compile(r"egk_([0-9A-Za-z]{1,12})_[0-9A-Za-z]+")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+\S+")
_USER_INFO: Final = re.compile(r"://[^/\s@]+@")


def redact_fields(
    _logger: object, _method: str, fields: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Clean every field of a log line, as a structlog processor."""
    for name, value in fields.items():
        if type(value) not in _PLAIN:
            fields[name] = _clean_named(name, value, MAX_DEPTH)
    return fields


def is_harmless(line: bytes) -> bool:
    """Tell at a glance that no text within a line of JSON has the shape of a secret.

    Neither a key of ours nor a URL, and no blank of any kind between two words. That what is said
    of names and lengths holds as well is for the caller to know.
    """
    return (
        b" " not in line
        and b"\\" not in line  # other blanks are escaped
        and line.isascii()  # or no ASCII
        and (b"/" not in line or b"://" not in line)  # one byte is found faster than three
        and b"egk_" not in line
    )


def _clean_named(name: str, value: object, depth: int) -> object:
    # A number under such a name is a count (`input_token`), and None says that there is none.
    if type(value) in _PLAIN:
        return value
    return REDACTED if _is_secret_name(name) else _clean(value, depth)


def _clean(value: object, depth: int) -> object:
    # Exact types first: five times faster than `match` here, and this runs on every request.
    kind = type(value)
    if kind is str:
        return _clean_text(cast("str", value))
    if kind in _PLAIN:
        return value
    if kind in _MANY and depth > 0:
        return _clean_many(cast("_Many", value), depth - 1)
    return _clean_rare(value, depth)


def _clean_rare(value: object, depth: int) -> object:
    match value:
        case SecretStr() | SecretBytes():
            return REDACTED
        case enum.Enum():
            return _clean(value.value, depth)
        case str():
            return _clean_text(str(value))
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case _:
            return f"<{type(value).__name__}>"


def _clean_many(value: _Many, depth: int) -> object:
    if isinstance(value, dict):
        pairs = list(value.items())[:MAX_ITEMS]
        return {
            _clean_text(name): _clean_named(name, item, depth)
            for name, item in pairs
            if isinstance(name, str)
        }
    return [_clean(item, depth) for item in list(value)[:MAX_ITEMS]]


def _clean_text(text: str) -> str:
    if len(text) > MAX_TEXT_CHARACTERS:
        text = text[:MAX_TEXT_CHARACTERS] + "…"
    if "egk_" in text:
        text = _EGRET_KEY.sub(rf"egk_\1_{REDACTED}", text)
    if "://" in text:
        text = _USER_INFO.sub(f"://{REDACTED}@", text)
    if " " in text:
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return text


_names: dict[str, bool] = {}


def _is_secret_name(name: str) -> bool:
    known = _names.get(name)
    if known is None:
        known = _SECRET_NAME.search(name) is not None
        if len(_names) < MAX_TEXT_CHARACTERS:  # names come from our code, but need not
            _names[name] = known
    return known
