"""Files of keys for import and export: CSV, JSON and JSON lines."""

from __future__ import annotations

import csv
import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, cast

import orjson

from sidecar.domain.limits import Priority
from sidecar.domain.validation import ACCEPTED_TIMES, fault_of_models, is_accepted, is_text
from sidecar.keys.credentials import KEY_ID_LENGTH
from sidecar.keys.scopes import ScopeError, parse_operations, parse_sources, parse_tags

FIELDS: Final = (
    "key_id", "secret_sha256", "team", "name", "enabled", "not_before", "expires_at",
    "revoked_at", "replaced_by", "policy", "allowed_models", "created_at", "allowed_operations",
    "allowed_sources", "tags", "priority",
)  # fmt: skip
REQUIRED: Final = frozenset(FIELDS[:4])

_NAME: Final = r"[a-z0-9][a-z0-9._-]{0,62}"
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_PRIORITIES: Final = tuple(priority.value for priority in Priority)
_BOOLEANS: Final = {"true": True, "false": False}
_KEPT_FAULTS: Final = 10_000
"""Further faults are only counted."""

_Reader = Callable[[object], object]
KeyRow = tuple[object, ...]
"""The number of the line, then a value for each of `FIELDS`, as asyncpg takes them."""


class FileFormat(enum.Enum):
    """How keys are written down."""

    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class LineFault:
    """The fault of one line. Never holds a value that could be a secret."""

    line: int
    problem: str


@dataclass(slots=True)
class Faults:
    """All that is wrong with a file: how much, and the first of it."""

    count: int = 0
    kept: list[LineFault] = field(default_factory=list)

    def add(self, line: int, problem: str) -> None:
        """Note one fault."""
        self.count += 1
        if len(self.kept) < _KEPT_FAULTS:
            self.kept.append(LineFault(line, problem))


class _FieldError(ValueError):
    """A field holds an invalid value."""


def read_csv(lines: Iterable[bytes], faults: Faults) -> Iterator[KeyRow]:
    """Yield the rows that are right; note every line that is not in *faults*.

    With a header that is wrong no line can be read, and none is.
    """
    # Bytes that are not UTF-8 become characters that no field takes, so that the line is named.
    texts = (line.decode("utf-8", "surrogateescape") for line in lines)
    reader = csv.reader(texts, strict=True)
    header = next(_cells(reader, faults), None)
    if header is None:
        faults.add(1, "there is no header")
        return
    header[:1] = [name.removeprefix("\ufeff") for name in header[:1]]
    if not _FIELD_SET.issuperset(header) or len(set(header)) != len(header):
        faults.add(1, f"the header may hold these, once each: {', '.join(FIELDS)}")
        return
    if not REQUIRED.issubset(header):
        missing = [name for name in FIELDS if name in REQUIRED and name not in header]
        faults.add(1, f"the header lacks {', '.join(missing)}")
        return
    for cells in _cells(reader, faults):
        if not cells:
            continue
        if len(cells) != len(header):
            faults.add(
                reader.line_num, f"has {len(cells)} cells where the header has {len(header)}"
            )
            continue
        fields = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
        row = _row(fields, line=reader.line_num, faults=faults)
        if row is not None:
            yield row


def read_jsonl(lines: Iterable[bytes], faults: Faults) -> Iterator[KeyRow]:
    """Yield the rows that are right; note every line that is not in *faults*."""
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError:
            faults.add(number, "is not JSON")
            continue
        if not isinstance(fields, dict):
            faults.add(number, "is not a JSON object")
            continue
        known = cast("dict[str, Any]", fields)
        if not known.keys() <= _FIELD_SET:
            faults.add(number, f"has a field that no key has; there are {', '.join(FIELDS)}")
            continue
        present = {name: value for name, value in known.items() if value is not None}
        row = _row(present, line=number, faults=faults)
        if row is not None:
            yield row


def _cells(reader: Any, faults: Faults) -> Iterator[list[str]]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.add(reader.line_num, f"is not CSV: {error}")


def _row(fields: Mapping[str, Any], *, line: int, faults: Faults) -> KeyRow | None:
    row: list[object] = [line]
    for name in FIELDS:
        value = fields.get(name)
        if value is None:
            if name in REQUIRED:
                faults.add(line, f"{name} is missing")
                return None
            row.append(True if name == "enabled" else None)
            continue
        try:
            row.append(_READERS[name](value))
        except _FieldError as error:
            faults.add(line, f"{name} {error}")
            return None
    return tuple(row)


def _matching(pattern: str, problem: str) -> _Reader:
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if isinstance(value, str) and compiled.fullmatch(value):
            return value
        raise _FieldError(problem)

    return read


def _digest(value: object) -> bytes:
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return bytes.fromhex(value)
    raise _FieldError("is not the 64 hexadecimal digits of a SHA-256")


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _BOOLEANS:
        return _BOOLEANS[value]
    raise _FieldError("is not true or false")


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(cast("str", value))
    except (ValueError, TypeError):
        raise _FieldError("is no time, write for example 2027-01-31T12:00:00Z") from None
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    if not is_accepted(moment):
        raise _FieldError(f"is not {ACCEPTED_TIMES}")
    return moment.astimezone(UTC)


def _strings(value: object, *, example: str) -> list[str]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            _refuse_list(example)
    if not isinstance(value, list):
        _refuse_list(example)
    strings = cast("list[object]", value)
    if not all(isinstance(string, str) and is_text(string) for string in strings):
        _refuse_list(example)
    return cast("list[str]", strings)


def _models(value: object) -> list[str]:
    globs = _strings(value, example='["gpt-*"]')
    if fault := fault_of_models(globs):
        raise _FieldError(f"is wrong: {fault}")
    return globs


def _scoped(parse: Callable[[Sequence[str]], Sequence[Any]], example: str) -> _Reader:
    def read(value: object) -> list[Any]:
        try:
            return list(parse(_strings(value, example=example)))
        except ScopeError as error:
            raise _FieldError(f"is wrong: {error}") from None

    return read


def _refuse_list(example: str) -> NoReturn:
    raise _FieldError(f"is not a JSON array of strings, write for example {example}")


_FIELD_SET: Final = frozenset(FIELDS)
_KEY_ID: Final = _matching(
    rf"[0-9A-Za-z]{{{KEY_ID_LENGTH}}}", f"is not {KEY_ID_LENGTH} letters and digits"
)
_ONE_NAME: Final = _matching(
    _NAME, "is no name: lower case letters, digits, dots, dashes and underscores, at most 63"
)
_READERS: Final[Mapping[str, _Reader]] = {
    "key_id": _KEY_ID,
    "secret_sha256": _digest,
    "team": _matching(f"{_NAME}/{_NAME}", "is not ORGANIZATION/TEAM"),
    "name": _ONE_NAME,
    "enabled": _boolean,
    "not_before": _moment,
    "expires_at": _moment,
    "revoked_at": _moment,
    "replaced_by": _KEY_ID,
    "policy": _ONE_NAME,
    "allowed_models": _models,
    "created_at": _moment,
    "allowed_operations": _scoped(parse_operations, '["chat"]'),
    "allowed_sources": _scoped(
        lambda texts: [*map(str, parse_sources(texts))], '["192.0.2.0/24"]'
    ),
    "tags": _scoped(parse_tags, '["env=prod"]'),
    "priority": _matching("|".join(_PRIORITIES), f"is none of {', '.join(_PRIORITIES)}"),
}
