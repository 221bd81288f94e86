"""`egret keys import` and `export`: a million keys in one go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from sidecar.admin.key_files import Faults, FileFormat, read_csv, read_jsonl
from sidecar.admin.key_transfer import (
    Existing,
    Imported,
    ImportOptions,
    ImportRefusedError,
    count_keys,
    export_keys,
    import_keys,
)
from sidecar.cli.arguments import STANDARD_STREAM, open_file, size_of
from sidecar.cli.connection import ChangeNotice, on_connection
from sidecar.cli.terminal import (
    FAILED,
    WRONG_USAGE,
    Advance,
    Output,
    OutputOption,
    Row,
    counted,
    fail,
    note,
    print_json,
    print_record,
    progress,
)
from sidecar.storage.pool import Connection

_SHOWN_FAULTS: Final = 20
_SUFFIXES: Final = {
    ".csv": FileFormat.CSV,
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
}

FormatOption = Annotated[
    FileFormat | None,
    typer.Option("--format", help="Else by the file's suffix: .csv, .jsonl or .ndjson."),
]


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON lines; - is stdin.")],
    file_format: FormatOption = None,
    existing: Annotated[
        Existing, typer.Option("--existing", help="Keys that are there: refuse, or skip them.")
    ] = Existing.REFUSE,
    create_owners: Annotated[
        bool, typer.Option("--create-owners", help="Make organizations and teams that lack.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if a line is wrong.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make keys of all lines of a file, or of none if one is wrong; wrong lines are named.

    Fields: key_id, secret_sha256 (64 hex digits), team (ORGANIZATION/TEAM) and name; and, if
    wanted, enabled, not_before, expires_at, revoked_at, replaced_by, policy, created_at, and as
    JSON arrays allowed_models, allowed_operations, allowed_sources, tags, and priority. Secrets
    are never in such a file, only their digests; nor are limits.

    Example: egret keys import keys.csv --create-owners
    """
    chosen = _format(file, file_format)
    options = ImportOptions(existing=existing, creates_owners=create_owners, commits=not check)
    try:
        result = _import(file, chosen, options)
    except ImportRefusedError as error:
        if output is Output.JSON:
            print_json({"imported": 0, "wrong": error.faults.count, "faults": error.faults.kept})
        else:
            for fault in error.faults.kept[:_SHOWN_FAULTS]:
                note(f"{file}:{fault.line}: {fault.problem}")
            if error.faults.count > _SHOWN_FAULTS:
                left = error.faults.count - _SHOWN_FAULTS
                note(f"… and {left} more; --output json shows 10000 of them")
        faulty = counted(error.faults.count, "fault")
        fail(f"{file} has {faulty}", hint="nothing was imported", code=FAILED)
    if output is Output.JSON:
        row: Row = {"imported": 0 if check else result.keys, "skipped": result.skipped}
        print_record(row, output=output)
        return
    done = "would be imported" if check else "imported"
    note(f"{counted(result.keys, 'key')} {done}, {result.skipped} skipped that exist already")


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; - is stdout.")],
    file_format: FormatOption = None,
    team: Annotated[
        str | None, typer.Option("--team", metavar="TEAM", help="Of one team: ORGANIZATION/TEAM.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write keys to a file that `egret keys import` takes: digests, never secrets.

    The file is as of one moment, appears when it is whole, and can be read by its owner alone.
    Limits of keys are not in it: it is said how many keys have some.

    Example: egret keys export keys.jsonl --team acme/search
    """
    chosen = _format(file, file_format)
    if file != STANDARD_STREAM and file.exists() and not force:
        fail(f"{file} exists", hint="name another, or say --force", code=WRONG_USAGE)

    async def work(connection: Connection) -> tuple[int, int]:
        total, limited = await count_keys(connection, team=team)
        with _written(file) as stream, progress(f"Writing {file}", total=total) as advance:
            lines = 0

            async def write(chunk: bytes) -> None:
                nonlocal lines
                stream.write(chunk)
                lines += chunk.count(b"\n")
                advance(lines)

            count = await export_keys(connection, write, team=team, file_format=chosen)
        return count, limited

    count, limited = on_connection(work)
    if file != STANDARD_STREAM:
        note(f"{counted(count, 'key')} exported to {file}")
    if limited:
        note(
            f"{counted(limited, 'key')} of them with limits that are not in the file;"
            " set them anew with `egret limits set --key`"
        )


def _format(file: Path, chosen: FileFormat | None) -> FileFormat:
    found = chosen or _SUFFIXES.get(file.suffix)
    if found is None:
        problem = f"the name of {file} does not tell its format ({', '.join(_SUFFIXES)})"
        fail(problem, hint="pass --format csv or --format jsonl", code=WRONG_USAGE)
    return found


def _import(file: Path, file_format: FileFormat, options: ImportOptions) -> Imported:
    faults = Faults()
    read = read_csv if file_format is FileFormat.CSV else read_jsonl
    size = size_of(file)
    with open_file(file) as stream, progress(f"Reading {file}", total=size) as advance:
        counted = _Lines(stream, advance)

        async def work(connection: Connection) -> Imported:
            def written(line: int) -> None:
                advance(size * (1 + line) // (1 + counted.count))

            return await import_keys(
                connection,
                read(counted, faults),
                faults=faults,
                options=options,
                on_written=written,
            )

        return on_connection(
            work, notice=lambda _: ChangeNotice(keys=("*",) if options.commits else ())
        )


class _Lines:
    """The lines of a stream, telling how far they go: to a half, as the other is for writing."""

    def __init__(self, stream: BinaryIO, advance: Advance) -> None:
        self._stream = stream
        self._advance = advance
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        position = 0
        for line in self._stream:
            self.count += 1
            position += len(line)
            if self.count % 10_000 == 0:
                self._advance(position)
            yield line


@contextmanager
def _written(file: Path) -> Iterator[BinaryIO]:
    """Give a stream whose content becomes *file* only when the block ends well."""
    if file == STANDARD_STREAM:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = file.with_name(f".{file.name}.partial")
    try:
        number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        fail(f"{file}: {error.strerror}", hint="name a place to write to", code=WRONG_USAGE)
    try:
        with os.fdopen(number, "wb") as stream:
            yield stream
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
