"""Arguments that several commands share: times, files, the actor."""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, NoReturn

import typer
from typing_extensions import Buffer, override

from sidecar.cli.terminal import FAILED, WRONG_USAGE, fail
from sidecar.domain.validation import ACCEPTED_TIMES, is_accepted

if TYPE_CHECKING:
    import ssl

_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY_ID", help="For one key: its public id.")
]
TeamOption = Annotated[
    str | None, typer.Option("--team", metavar="TEAM", help="For a team: ORGANIZATION/TEAM.")
]
OrgOption = Annotated[
    str | None, typer.Option("--org", metavar="NAME", help="For an organization: its name.")
]


class MomentError(ValueError):
    """Not a time or a span; the message has an example."""


def parse_span(text: str) -> timedelta:
    """Read 90s, 15m, 12h, 30d or 2w.

    Raises:
        MomentError: anything else.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        raise MomentError(f"{text!r} is no span of time, write for example 12h or 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_span_ahead(text: str, *, now: datetime) -> timedelta:
    """Read a span that begins *now*.

    Raises:
        MomentError: no span, or one that ends beyond the calendar.
    """
    span = parse_span(text)
    try:
        is_within = is_accepted(now + span)
    except OverflowError:
        is_within = False
    if not is_within:
        raise MomentError(f"{text!r} ends beyond any calendar, write for example 12h or 30d")
    return span


def parse_moment(text: str, *, now: datetime) -> datetime | None:
    """Read a time as `parse_time` does, or never, which is None.

    Raises:
        MomentError: anything else.
    """
    if text == "never":
        return None
    return parse_time(text, now=now, forms="30d, 2027-01-31T12:00:00Z, now or never")


def parse_time(
    text: str, *, now: datetime, forms: str = "30d, 2027-01-31T12:00:00Z or now"
) -> datetime:
    """Read a span from *now*, an ISO 8601 time (UTC unless it says otherwise), or now.

    Raises:
        MomentError: anything else; the error names *forms*.
    """
    match text:
        case "now":
            return now
        case _ if _SPAN.fullmatch(text):
            return _later(now, by=parse_span(text))
        case _:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                raise MomentError(f"{text!r} is no time, write for example {forms}") from None
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            if not is_accepted(moment):
                raise MomentError(f"{text!r} is not {ACCEPTED_TIMES}, write a year of these")
            return moment


def since_or_exit(text: str | None) -> datetime | None:
    """Read --since: how long ago, or a time. None is the beginning of time."""
    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        return now - parse_span(text)
    except OverflowError:
        return None
    except MomentError:
        pass
    try:
        return parse_time(text, now=now)
    except MomentError as error:
        fail(f"--since: {error}", hint="give another", code=WRONG_USAGE)


def _later(now: datetime, *, by: timedelta) -> datetime:
    try:
        later = now + by
    except OverflowError:
        later = None
    if later is None or not is_accepted(later):
        raise MomentError("that is later than any calendar goes, write never")
    return later


_NO_HEADER: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes that are not UTF-8: no header can hold them (RFC 9110)."""


def check_api_key(context: typer.Context, parameter: typer.CallbackParam, key: str) -> str:
    """Exit if a header cannot hold *key*, such as one from a file with Windows line ends.

    For an option that EGRET_KEY sets; the message never has the key.
    """
    if key and _NO_HEADER.search(key):
        source = context.get_parameter_source(parameter.name or "")
        name = "EGRET_KEY" if source is not None and source.name == "ENVIRONMENT" else "--key"
        problem = f"{name} has a line end or another control character"
        fail(problem, hint="remove it", code=WRONG_USAGE)
    return key


def trusting(file: Path) -> ssl.SSLContext:
    """Return a context that trusts the certificates of *file*, or exit."""
    # Here, since few commands need it.
    import ssl  # noqa: PLC0415

    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # of which SSLError is one
        problem = f"{file}: {error.strerror or 'no certificates in PEM'}"
        fail(problem, hint="name a file of certificates", code=WRONG_USAGE)


STANDARD_STREAM: Final = Path("-")


def read_file(file: Path) -> bytes:
    """Return all of *file*."""
    with open_file(file) as stream:
        return stream.read()


_MAX_TEXT_BYTES: Final = 128 << 20
"""More than any reader accepts: the largest takes 32 million characters."""


def read_text(file: Path, *, code: int = FAILED) -> str:
    """Return all of *file*; one that is not UTF-8, or is endless, exits with *code*."""
    with open_file(file) as stream:
        content = stream.read(_MAX_TEXT_BYTES + 1)
    if len(content) > _MAX_TEXT_BYTES:
        reason = f"{file} is longer than {_MAX_TEXT_BYTES >> 20} MiB"
        fail(reason, hint="name a shorter file", code=code)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"{file}: byte {error.start} is not UTF-8"
        fail(reason, hint="save it as UTF-8", code=code)


@contextmanager
def open_file(file: Path) -> Iterator[BinaryIO]:
    """Give the stream of *file*, which exits if it cannot be read; standard input stays open."""
    if file == STANDARD_STREAM:
        yield sys.stdin.buffer
        return
    try:
        source = _Source(file)
    except OSError as error:
        _fail_to_read(file, error)
    with io.BufferedReader(source) as stream:
        yield stream


class _Source(io.FileIO):
    """A file whose error is told from one of standard output, which `run` reports."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._file = file

    @override
    def readinto(self, buffer: Buffer, /) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            _fail_to_read(self._file, error)

    @override
    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as error:
            _fail_to_read(self._file, error)


def _fail_to_read(file: Path, error: OSError) -> NoReturn:
    fail(f"{file}: {error.strerror}", hint="name a file that can be read", code=WRONG_USAGE)


def write_metrics(file: Path, text: str) -> None:
    """Replace *file* as a whole, or exit: node exporter may read at any moment."""
    replace_file(file, text, hint="name another --metrics-file")


def replace_file(file: Path, text: str, *, hint: str) -> None:
    """Replace *file* by *text* as a whole, or exit and leave it as it was.

    Links to it and its mode stay.
    """
    target = file.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            part.write_text(text, encoding="utf-8")
            if target.exists():
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        fail(f"cannot write {file}: {error.strerror}", hint=hint)


def size_of(file: Path) -> int:
    """Return the size of *file* in bytes, 0 if unknown."""
    return 0 if file == STANDARD_STREAM or not file.exists() else file.stat().st_size


ACTOR: Final[ContextVar[str | None]] = ContextVar("ACTOR", default=None)
"""None is the user of the operating system."""

SERVER: Final[ContextVar[str | None]] = ContextVar("SERVER", default=None)
"""The address of `egret admin`; None is the database of the settings."""
