"""What a line of Egret's log, or of Envoy's access log, tells; and which lines are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final, cast

import orjson

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
    """Return what *raw* tells; None where it is no JSON object."""
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict):
        return None
    fields = cast("Fields", value)
    if "event" not in fields and "time" in fields and "status" in fields:
        return _access(raw, fields)
    shown = {name: fields[name] for name in fields if name not in {"timestamp", "level", "event"}}
    return LogLine(
        raw=raw,
        at=_moment(fields.get("timestamp")),
        level=_text(fields.get("level")),
        event=_text(fields.get("event")),
        fields=shown,
        facts=fields,
    )


def _access(raw: bytes, fields: Fields) -> LogLine:
    told = fields.get("egret")
    egret = cast("Fields", told) if isinstance(told, dict) else {}
    status = fields["status"]
    is_failure = isinstance(status, int) and status >= 500  # noqa: PLR2004 - server errors
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
            "overhead_ms": _milliseconds(egret.get("egret_us")),
        },
    )


def _milliseconds(microseconds: object) -> float | None:
    return microseconds / 1000 if isinstance(microseconds, int | float) else None


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
        """Whether lines that tell nothing are wanted as well."""
        return self == Wanted()

    def has(self, line: LogLine) -> bool:
        """Return whether *line* is wanted."""
        facts = line.facts
        return (
            (self.level is None or _rank(line.level) >= _rank(self.level))
            and (not self.events or _is_like(line.event, self.events))
            and (self.key_id is None or facts.get("key_id") == self.key_id)
            and (self.team is None or self.team in _teams(facts))
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


def _teams(facts: Fields) -> set[str]:
    team, organization = _text(facts.get("team")), _text(facts.get("organization"))
    return {team, f"{organization}/{team}"}


def _said(facts: Fields) -> Iterator[str]:
    """Return how the exchange ended and what each guardrail said."""
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
