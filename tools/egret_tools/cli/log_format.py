"""Formats log lines for a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final, cast

import orjson
from rich.style import Style

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_INFO: Final = LEVELS.index("info")

ACCESS: Final = "envoy.access"
"""How a line of Envoy's access log is called here, since it has no `event`."""

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `facts` are the fields that filters go by, under the names of Egret's log."""

    raw: bytes
    at: datetime | None
    level: str
    event: str
    fields: Fields
    facts: Fields


def read_line(raw: bytes) -> LogLine | None:
    """Return the fields of *raw*; None if it is no JSON object."""
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict):
        return None
    fields = cast("Fields", value)
    if "event" not in fields and "time" in fields and "status" in fields:
        own = fields.get("egret")
        egret = cast("Fields", own) if isinstance(own, dict) else {}
        status = fields["status"]
        is_failure = isinstance(status, int) and status >= 500  # noqa: PLR2004 - server errors
        overhead_us = egret.get("egret_us")
        return LogLine(
            raw=raw,
            at=_moment(fields["time"]),
            level="error" if is_failure else "info",
            event=ACCESS,
            fields={name: fields[name] for name in fields if name != "time"},
            facts={
                **egret,
                "request_id": egret.get("request_id", fields.get("request_id")),
                "trace_id": fields.get("trace_id"),
                "outcome": egret.get("verdict"),
                "overhead_ms": overhead_us / 1000
                if isinstance(overhead_us, int | float)
                else None,
            },
        )
    shown = {name: fields[name] for name in fields if name not in {"timestamp", "level", "event"}}
    return LogLine(
        raw=raw,
        at=_moment(fields.get("timestamp")),
        level=_text(fields.get("level")),
        event=_text(fields.get("event")),
        fields=shown,
        facts=fields,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_text(value))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines are shown: those that every part that is given is true of."""

    level: str | None = None
    events: Sequence[str] = ()
    key_id: str | None = None
    team: str | None = None
    verdicts: Sequence[str] = ()
    trace_id: str | None = None
    request_id: str | None = None
    slow_ms: float | None = None
    since: datetime | None = None

    @property
    def is_everything(self) -> bool:
        """Whether lines without an event are wanted as well."""
        return self == Wanted()

    def has(self, line: LogLine) -> bool:
        """Return whether *line* is wanted."""
        facts = line.facts
        team = _text(facts.get("team"))
        return (
            (self.level is None or _rank(line.level) >= _rank(self.level))
            and (not self.events or _is_like(line.event, self.events))
            and (self.key_id is None or facts.get("key_id") == self.key_id)
            and (
                self.team is None
                or self.team in {team, f"{_text(facts.get('organization'))}/{team}"}
            )
            and (not self.verdicts or any(_is_like(one, self.verdicts) for one in _said(facts)))
            and (self.trace_id is None or facts.get("trace_id") == self.trace_id)
            and (self.request_id is None or facts.get("request_id") == self.request_id)
            and (self.slow_ms is None or _number(facts.get("overhead_ms")) >= self.slow_ms)
            and (self.since is None or (line.at is not None and line.at >= self.since))
        )


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else _INFO


def _is_like(value: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _said(facts: Fields) -> Iterator[str]:
    """Return the outcome of the exchange and of each guardrail."""
    yield _text(facts.get("outcome"))
    guardrails = facts.get("guardrails")
    if isinstance(guardrails, str):  # of Envoy's: `pii=redact keys=pass`
        yield from (one.rpartition("=")[2] for one in guardrails.split())
    elif isinstance(guardrails, list):
        for one in cast("list[object]", guardrails):
            if isinstance(one, dict):
                yield _text(cast("Fields", one).get("verdict"))


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(cast("float", value)) if is_number else float("-inf")


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
            fields = cast("dict[str, Any]", one) if isinstance(one, dict) else {}
            guardrail, verdict = fields.get("name"), fields.get("verdict")
            if not (isinstance(guardrail, str) and isinstance(verdict, str)):
                yield _shown(one), _PLAIN
                continue
            yield f"{_word(guardrail)}:", _PLAIN
            yield _word(verdict), _style("outcome", verdict)
            if isinstance(fields.get("ms"), int | float):
                yield f":{fields['ms']}ms", _DIM
            findings = fields.get("findings")
            for cause in (*(findings if isinstance(findings, list) else ()), fields.get("error")):
                if isinstance(cause, str):
                    yield f":{_word(cause)}", _DIM
    else:
        yield _shown(value), _style(name, value)


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
