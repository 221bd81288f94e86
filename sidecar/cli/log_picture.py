"""A log line as a terminal may show it: coloured, and with nothing in it that steers one.

What stands in a line may have been chosen by whoever wants to be read: an escape sequence would
move the cursor, set the title or hide what follows; a mark of writing direction turns words round.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final, cast

import orjson
from rich.style import Style

from sidecar.cli.log_lines import ACCESS, LogLine

MAX_VALUE_CHARACTERS: Final = 400
_CALM: Final = frozenset({"allowed", "pass", "completed"})
_CHANGED: Final = frozenset({"redacted", "flagged", "redact", "flag", "aborted", "skipped"})
_LEVEL_STYLES: Final = {
    "debug": Style(dim=True),
    "info": Style(color="green"),
    "warning": Style(color="yellow"),
    "error": Style(color="red", bold=True),
    "critical": Style(color="red", bold=True, reverse=True),
}
_PLAIN: Final = Style()
_DIM: Final = Style(dim=True)
_BOLD: Final = Style(bold=True)
_GREEN: Final = Style(color="green")
_YELLOW: Final = Style(color="yellow")
_RED: Final = Style(color="red")

_STEERING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, marks of format and direction, halves of characters, separators of lines."""
_ASCII_AND_LATIN: Final = re.compile(r"[\x20-\x7e\xa1-\xac\xae-\u02ff]*")

_BARE: Final = re.compile(r'[^\s="{}\[\],]+')

Piece = tuple[str, Style]


def harmless(text: str) -> str:
    """Return *text* with everything that could steer a terminal written as its escape."""
    if _ASCII_AND_LATIN.fullmatch(text):
        return text
    return "".join(_escape(one) if unicodedata.category(one) in _STEERING else one for one in text)


def harmless_json(raw: bytes) -> str:
    """Return a line of JSON that says the same and steers no terminal."""
    # JSON has C0 controls between its tokens alone, where a space says the same; all others are
    # within strings, where the escape does.
    text = raw.decode()
    return harmless("".join(max(one, " ") for one in text))


def _escape(one: str) -> str:
    code = ord(one)
    if code > 0xFFFF:  # noqa: PLR2004 - JSON writes two halves
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return f"\\u{code:04x}"


def picture(line: LogLine) -> Iterator[Piece]:
    """Return the pieces of one line, in order."""
    at = "-" * 18 if line.at is None else line.at.strftime("%m-%d %H:%M:%S.%f")[:-3]
    yield f"{at} ", _DIM
    yield f"{_word(line.level or '-'):<7} ", _LEVEL_STYLES.get(line.level, _PLAIN)
    yield _word(line.event or "-"), _BOLD
    for name, value in line.fields.items():
        yield f" {_word(name)}=", _DIM
        yield from _value(name, value, is_access=line.event == ACCESS)


def other(raw: bytes) -> Piece:
    """Return a line that is no JSON."""
    return _short(raw.decode("utf-8", "backslashreplace")), _DIM


def _value(name: str, value: object, *, is_access: bool) -> Iterator[Piece]:
    if isinstance(value, dict) and name == "egret" and is_access:
        yield "{", _DIM
        for at, (inner, one) in enumerate(cast("dict[str, object]", value).items()):
            yield f"{' ' if at else ''}{_word(inner)}=", _DIM
            yield _shown(one), _style("outcome" if inner == "verdict" else inner, one)
        yield "}", _DIM
    elif isinstance(value, list) and name == "guardrails":
        for at, one in enumerate(cast("list[object]", value)):
            yield "," if at else "", _DIM
            yield from _guardrail(one)
    else:
        yield _shown(value), _style(name, value)


def _guardrail(one: object) -> Iterator[Piece]:
    fields = cast("dict[str, Any]", one) if isinstance(one, dict) else {}
    name, verdict = fields.get("name"), fields.get("verdict")
    if not (isinstance(name, str) and isinstance(verdict, str)):
        yield _shown(one), _PLAIN
        return
    yield f"{_word(name)}:", _PLAIN
    yield _word(verdict), _style("outcome", verdict)
    if isinstance(fields.get("ms"), int | float):
        yield f":{fields['ms']}ms", _DIM


def _style(name: str, value: object) -> Style:
    if name != "outcome":
        return _PLAIN
    return _GREEN if value in _CALM else _YELLOW if value in _CHANGED else _RED


def _shown(value: object) -> str:
    if isinstance(value, str):
        return _word(value)
    try:
        return _short(orjson.dumps(value).decode())
    except TypeError:  # nested deeper than orjson writes, though it reads it
        return "…"


def _word(text: str) -> str:
    """Return *text* so that it ends where it ends: ` outcome=allowed` in a value is no field."""
    if _BARE.fullmatch(text):
        return _short(text)
    cut = "…" if len(text) > MAX_VALUE_CHARACTERS else ""
    quoted = text[:MAX_VALUE_CHARACTERS].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{harmless(quoted)}{cut}"'


def _short(text: str) -> str:
    cut = "…" if len(text) > MAX_VALUE_CHARACTERS else ""
    return harmless(text[:MAX_VALUE_CHARACTERS]) + cut
