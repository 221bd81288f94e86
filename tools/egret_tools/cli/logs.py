"""`egret logs`: reads and filters the workers' logs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Annotated, Final, Protocol, cast

import typer
from rich.color import ColorSystem

from egret_tools.cli.log_format import (
    LEVELS,
    LogLine,
    Piece,
    Wanted,
    harmless_json,
    other,
    picture,
    read_line,
)
from sidecar.cli.arguments import STANDARD_STREAM, since_or_exit
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    console,
    ends_quietly,
    fail,
    note,
)

MAX_LINE_BYTES: Final = 1024**2
"""No line of Egret's comes near it; longer ones are counted and dropped."""
CHUNK_BYTES: Final = 64 * 1024
POLL_SECONDS: Final = 0.2
"""How soon a line that was added to a followed file is seen."""


class Readable(Protocol):
    """Returns the bytes there are, waits for more, and returns nothing at the end."""

    def read1(self, size: int, /) -> bytes:
        """Return up to *size* bytes."""
        ...


class Lines:
    """Puts chunks together to lines; holds at most one line of the largest size."""

    def __init__(self) -> None:
        self.too_long = 0
        self._begun = bytearray()
        self._is_skipping = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Return the lines that *chunk* ends, without their line feed."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._keep(piece)
            line = self._take()
            if line is not None:
                yield line
        self._keep(rest)

    def close(self) -> Iterator[bytes]:
        """Return the last line where it does not end in a line feed."""
        line = self._take()
        if line:
            yield line

    def _keep(self, piece: bytes) -> None:
        if self._is_skipping:
            return
        self._begun += piece
        if len(self._begun) > MAX_LINE_BYTES:
            self.too_long += 1
            self._is_skipping = True
            self._begun.clear()

    def _take(self) -> bytes | None:
        line = None if self._is_skipping else bytes(self._begun)
        self._begun.clear()
        self._is_skipping = False
        return line


def chunks_of(stream: Readable) -> Iterable[bytes]:
    """Return a reader of a stream, to its end."""
    return iter(lambda: stream.read1(CHUNK_BYTES), b"")


def followed(path: Path) -> Iterator[bytes]:
    """Return a reader of a file that follows additions to it, endlessly.

    A file that is replaced (rotated) is read to its end and the new one from its beginning; one
    that is cut is read anew. While there is none of that name, one is waited for.
    """
    file = FileIO(path)
    try:
        while True:
            chunk = file.read(CHUNK_BYTES)
            if chunk:
                yield chunk
                continue
            newer = _newer(path, file)
            if newer is None:
                time.sleep(POLL_SECONDS)
                continue
            yield b"\n"  # half a line of the old one is no beginning of the new one's
            if newer is not file:
                file.close()
                file = newer
    finally:
        file.close()


def _newer(path: Path, file: FileIO) -> FileIO | None:
    ours = os.fstat(file.fileno())
    try:
        named = path.stat()
        if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            return FileIO(path)
    except FileNotFoundError:
        return None
    if ours.st_size < file.tell():
        file.seek(0)
        return file
    return None


_COLORS: Final = ColorSystem.STANDARD


def logs(  # noqa: PLR0913, PLR0917 - options of a command
    file: Annotated[
        Path, typer.Argument(help="A file; without one, or -, standard input.")
    ] = STANDARD_STREAM,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for additions to the file.")
    ] = False,
    level: Annotated[
        str | None, typer.Option("--level", help=f"At least: {', '.join(LEVELS)}.")
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option("--event", help="By name; * stands for anything. Again: or."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="ID", help="Public id of a key.")
    ] = None,
    team: Annotated[
        str | None, typer.Option("--team", help="A team, or organization/team.")
    ] = None,
    verdict: Annotated[
        list[str] | None,
        typer.Option("--verdict", help="Outcome, or a guardrail's verdict; as --event."),
    ] = None,
    trace: Annotated[str | None, typer.Option("--trace", metavar="ID", help="One trace.")] = None,
    request_id: Annotated[
        str | None, typer.Option("--request-id", metavar="ID", help="x-egret-request-id.")
    ] = None,
    slow: Annotated[
        float | None, typer.Option("--slow", metavar="MS", help="Egret's own share is no less.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="How long ago (15m), or a time.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read log lines of Egret and of Envoy's access log, and show those that are wanted.

    A line that is not JSON is shown unchanged if no filter is given, else only counted.
    With --output json lines pass unchanged.

    Example: kubectl logs -f deploy/egret | egret logs --verdict 'error_*' --team acme/search
    """
    if level is not None and level not in LEVELS:
        fail(
            f"there is no level {level}", hint=f"say one of {', '.join(LEVELS)}", code=WRONG_USAGE
        )
    wanted = Wanted(
        level=level,
        events=event or (),
        key_id=key,
        team=team,
        verdicts=verdict or (),
        trace_id=trace,
        request_id=request_id,
        slow_ms=slow,
        since=since_or_exit(since),
    )
    lines = Lines()
    shown = _Shown(wanted, output)
    with ends_quietly():
        for chunk in _chunks(file, is_followed=follow):
            shown.show(lines.feed(chunk))
        shown.show(lines.close())
    if shown.not_json:
        note(f"lines that are no JSON: {shown.not_json}")
    if lines.too_long:
        note(f"lines of over {MAX_LINE_BYTES} bytes: {lines.too_long}")


class _Shown:
    """Standard output, a batch of lines at a time."""

    def __init__(self, wanted: Wanted, output: Output) -> None:
        self.not_json = 0
        self._wanted = wanted
        self._output = output
        screen = console()
        self._is_terminal = screen.is_terminal
        self._has_colors = screen.color_system is not None
        if hasattr(sys.stdout, "reconfigure"):
            # A terminal of another character set gets escapes instead of a traceback.
            sys.stdout.reconfigure(errors="backslashreplace")

    def show(self, lines: Iterable[bytes]) -> None:
        """Write the selected *lines* at once."""
        for raw in lines:
            line = read_line(raw)
            if line is not None:
                if self._wanted.has(line):
                    self._show(line)
            elif raw.strip():
                if self._output is Output.JSON or not self._wanted.is_everything:
                    self.not_json += 1
                else:
                    self._write((other(raw),))
        sys.stdout.flush()

    def _show(self, line: LogLine) -> None:
        if self._output is Output.TABLE:
            self._write(picture(line))
        elif self._is_terminal:
            sys.stdout.write(harmless_json(line.raw) + "\n")
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(line.raw + b"\n")

    def _write(self, pieces: Iterable[Piece]) -> None:
        # Not by the console: it wraps, takes ten times as long, and exits with 1 on a closed pipe.
        color_system = _COLORS if self._has_colors else None
        for text, style in pieces:
            sys.stdout.write(style.render(text, color_system=color_system))
        sys.stdout.write("\n")


def _chunks(file: Path, *, is_followed: bool) -> Iterator[bytes]:
    if file == STANDARD_STREAM:
        if is_followed:
            fail("--follow needs a file", hint="a pipe is read to its end", code=WRONG_USAGE)
        if sys.stdin.isatty():
            fail("nothing is piped in", hint="name a file, or pipe log lines in", code=WRONG_USAGE)
        yield from chunks_of(cast("Readable", sys.stdin.buffer))
        return
    try:
        if is_followed:
            yield from followed(file)
        else:
            with file.open("rb") as opened:
                yield from chunks_of(opened)
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"{file}: {error.strerror}", hint="name a file that can be read", code=WRONG_USAGE)
