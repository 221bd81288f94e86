"""`egret doctor`: checks of settings, databases and sockets, or of a gateway by canaries."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import stat
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from sidecar.admin.diagnostics import (
    Checked,
    CheckState,
    Use,
    check_postgres,
    check_usage,
    check_valkey,
    failed,
    ok,
    skipped,
    warning,
)
from sidecar.cli.arguments import check_api_key, trusting, write_metrics
from sidecar.cli.connection import settings_or_exit
from sidecar.cli.health import WorkerState, worker_states
from sidecar.cli.terminal import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    fail,
    note,
    print_rows,
)
from sidecar.policy.policy_lint import missing_extras
from sidecar.server.options import is_alive
from sidecar.settings.administration import AdminSettings
from sidecar.settings.process import Settings, former_variables, unknown_variables
from sidecar.settings.sections import http_url, inherited_environment
from sidecar.settings.serving import MAX_SOCKET_PATH_BYTES, NetworkTls, ServerSettings
from sidecar.settings.stores import UsageSource
from sidecar.storage.spool_files import not_adoptable
from sidecar.telemetry.process_metrics import expiry_of

_COLUMNS: Final = ("check", "state", "found", "hint")
_PACKAGES: Final = "guardrail packages"

BLOCKED: Final = "Use ghp_16C7e42F292c6912E7710c838347Ae178B4a for it."
REDACTED: Final = "bob.builder@example.com"
"""Both have these verdicts under the built-in policy."""


def doctor(  # noqa: PLR0913, PLR0917 - one option each
    use: Annotated[
        Use,
        typer.Option(
            "--for",
            help="The purpose of the database's role: workers, this command line, `egret admin`.",
        ),
    ] = Use.WORKER,
    through: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Send canaries through this gateway, and check no more."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="EGRET_KEY", callback=check_api_key, help="An API key for the canaries."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Of the canary that reaches the provider.")] = (
        "gpt-4o-mini"
    ),
    path: Annotated[
        str, typer.Option(help="A path of OpenAI's chat completions on this gateway.")
    ] = "/v1/chat/completions",
    blocked: Annotated[str, typer.Option(help="A text that the key's policy blocks.")] = BLOCKED,
    redacted: Annotated[
        str, typer.Option(help="A text that the key's policy takes out.")
    ] = REDACTED,
    seen_at: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where a test provider shows its last request, such as …/last."
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="CA of the gateway's certificate, in PEM.")
    ] = None,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Write the canaries' results for node exporter to it.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look at databases, clocks, sockets, packages and variables, and say how to fix each fault.

    With --through it sends canary requests through a gateway instead, and reports whether Egret
    is attached there and its verdicts hold. Changes nothing. Exits with 1 if a check failed; a
    warning is none.

    Example: egret doctor --through https://llm.example.com
    """
    if through is None:
        settings = settings_or_exit(for_workers=use is Use.WORKER)
        found = asyncio.run(_check(settings, use=use))
    elif not key:
        hint = "set EGRET_KEY, which keeps it out of process lists, or pass --key"
        fail("--through needs an API key for its canaries", hint=hint, code=WRONG_USAGE)
    elif http_url(through) is None:
        hint = "write http://host or https://host, without a user or a password"
        fail("--through is no URL of a gateway", hint=hint, code=WRONG_USAGE)
    else:
        # Here, since only canaries need aiohttp.
        from sidecar.admin.attachment import Gateway, check_attachment, textfile  # noqa: PLC0415

        if ca_file is not None:
            trusting(ca_file)  # a file that cannot be used is no fault of the gateway
        gateway = Gateway(
            url=through,
            key=key,
            model=model,
            path=path,
            blocked=blocked,
            redacted=redacted,
            seen_at=seen_at,
            ca_file=None if ca_file is None else str(ca_file),
        )
        found = asyncio.run(check_attachment(gateway))
        if metrics_file is not None:
            write_metrics(metrics_file, textfile(through, found, now=time.time()))
    # `mend` is the former name of `hint`, for one more version.
    rows = [asdict(one) | {"state": one.state.value, "mend": one.hint} for one in found]
    if output is Output.TABLE and not sys.stdout.isatty():
        for one in found:
            hint = f" (hint: {one.hint})" if one.hint else ""
            typer.echo(f"{one.state.value}: {one.check}: {one.found}{hint}")
    else:
        print_rows(rows, columns=_COLUMNS, output=output)
    broken = sum(one.state is CheckState.FAILED for one in found)
    if broken:
        note(f"{broken} of {len(found)} checks failed")
        raise typer.Exit(FAILED)


async def _check(settings: Settings, *, use: Use) -> tuple[Checked, ...]:
    listen = settings.listen
    files = None if listen.host is None or listen.tls is NetworkTls.OFF else listen.tls_files
    packages = ok(_PACKAGES, "all present")
    if missing := missing_extras():
        extras = ",".join(sorted(missing.values()))
        packages = warning(
            _PACKAGES,
            f"missing for {' and '.join(sorted(missing))}, which cannot judge without",
            hint=(
                f"install Egret's wheel with its extras {extras} (docs/deploy.md), in a checkout"
                " run `make setup`, or have no policy with these"
            ),
        )
    environment = ok("environment", "no variable that is no setting")
    if former := former_variables(inherited_environment()):
        environment = warning(
            "environment",
            f"without effect in this version: {', '.join(former)}",
            hint="remove it (docs/upgrade.md)",
        )
    if found := unknown_variables(inherited_environment()):
        names = ", ".join(one.variable for one in found)
        meant = " or ".join(sorted({one.meant for one in found if one.meant}))
        hint = f"is {meant} meant?" if meant else "see docs/deploy.md for all settings"
        environment = warning("environment", f"no such setting, ignored: {names}", hint=hint)
    return (
        *await check_postgres(
            settings.postgres, use=use, listens=settings.cache.invalidation.listens
        ),
        await check_usage(settings.postgres, settings.usage.source, use=use),
        *await check_valkey(settings.valkey),
        *await check_sockets(settings.server, use=use),
        await asyncio.to_thread(check_spool, settings, use=use),
        environment,
        packages,
        *([check_proxies(settings.admin)] if use is Use.CONSOLE else []),
        *([check_certificates(files)] if use is Use.WORKER and files is not None else []),
    )


def check_certificates(files: tuple[Path, Path, Path]) -> Checked:
    """Look when a certificate of the gRPC server's port expires: its own, or its clients' CA."""
    certificate, _, client_ca = files
    for file in (certificate, client_ca):
        days = (expiry_of(file) - time.time()) / 86_400
        if math.isnan(days):
            hint = "name files in PEM that this user can read in EGRET_LISTEN__…"
            return failed(CERTIFICATES, f"{file} cannot be read as certificates", hint=hint)
        if days < MIN_CERTIFICATE_DAYS:
            hint = "replace the file; no restart is needed"
            if days < 0:
                found = f"one in {file} has expired, and new connections of Envoy fail"
                return failed(CERTIFICATES, found, hint=hint)
            return warning(CERTIFICATES, f"one in {file} expires in {days:.0f} days", hint=hint)
    return ok(CERTIFICATES, f"valid for {MIN_CERTIFICATE_DAYS} days and more")


def check_proxies(settings: AdminSettings) -> Checked:
    """Look whether `egret admin` can tell the people behind its proxy apart."""
    if not settings.hides_addresses:
        return ok(PROXIES, settings.proxies or "none needed")
    return warning(
        PROXIES,
        f"none, and {settings.origin} is a proxy's: all people have its address, and share one"
        " bound of logins and refused tokens",
        hint="set EGRET_ADMIN__PROXIES to the addresses of the proxy",
    )


PROXIES: Final = "proxies"
CERTIFICATES: Final = "certificates"
MIN_CERTIFICATE_DAYS: Final = 7
"""As in the alert EgretCertificateExpires."""
FOLDER: Final = "socket folder"
PATHS: Final = "socket paths"
STALE: Final = "stale sockets"
SPOOL: Final = "usage spool"


async def check_sockets(settings: ServerSettings, *, use: Use) -> tuple[Checked, ...]:
    """Look at the folder without changing it."""
    folder = settings.socket_directory.absolute()
    if use is not Use.WORKER and not os.access(folder, os.F_OK):
        return tuple(skipped(one, "no workers run here") for one in (FOLDER, PATHS, STALE))
    longest = len(str(settings.worker_socket(settings.workers - 1)).encode())
    paths = ok(PATHS, f"{longest} bytes at most of {MAX_SOCKET_PATH_BYTES}")
    if longest > MAX_SOCKET_PATH_BYTES:
        hint = "set EGRET_SERVER__SOCKET_DIRECTORY to a shorter folder"
        paths = failed(PATHS, paths.found, hint=hint)
    try:
        sockets = await asyncio.to_thread(
            lambda: sorted(
                path
                for path in folder.iterdir()
                if path.name.endswith(".sock") and path.is_socket()
            )
        )
    except OSError:
        stale = skipped(STALE, f"waits for {FOLDER}")
    else:
        stale = ok(STALE, f"none; {len(sockets)} in use")
        if dead := [path.name for path in sockets if not await is_alive(path)]:
            stale = warning(
                STALE,
                f"no worker listens on {', '.join(dead)}",
                hint="start those workers, or remove the files and take them out of Envoy's"
                " endpoints",
            )
        elif hung := [
            path.name
            for path, state in zip(sockets, await worker_states(sockets), strict=True)
            if state is WorkerState.SILENT
        ]:
            stale = failed(
                STALE,
                f"no answer from the worker behind {', '.join(hung)}, which accepts connections",
                hint="look at its last log lines, and kill its process: the supervisor starts"
                " another",
            )
    return await asyncio.to_thread(_folder, folder), paths, stale


def _folder(folder: Path) -> Checked:
    if fault := _fault(FOLDER, folder, setting="EGRET_SERVER__SOCKET_DIRECTORY"):
        return fault
    if not folder.exists():
        return ok(FOLDER, f"{folder}, which `egret serve` makes")
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH:
        return failed(
            FOLDER,
            f"{folder} can be written to by everybody, who could put a socket in a worker's place",
            hint=f"chmod o-w {folder}",
        )
    return ok(FOLDER, f"{folder}, mode {stat.S_IMODE(mode):04o}")


def check_spool(settings: Settings, *, use: Use) -> Checked:
    """Look whether workers can keep usage on the disk while the database is away."""
    usage, workers = settings.usage, settings.server.workers
    if use is not Use.WORKER or usage.source is UsageSource.OFF:
        return skipped(SPOOL, "only workers with a source of usage have one")
    folder = usage.spool_directory.absolute()
    if fault := _fault(SPOOL, folder, setting="EGRET_USAGE__SPOOL_DIRECTORY"):
        return fault
    socket = settings.server.worker_socket(0)
    if not folder.exists() and os.access(socket, os.F_OK):
        return warning(
            SPOOL,
            f"{folder} is missing, and the worker of {socket} keeps usage in another folder",
            hint="set EGRET_USAGE__SPOOL_DIRECTORY as the worker has it; beside `make run` that"
            " is run/data/usage",
        )
    room = shutil.disk_usage(_existing(folder)).free
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # delivered and removed in the meantime
                room += (Path(place) / name).stat().st_size
    if room < (most := workers * usage.spool_max_bytes):
        return warning(
            SPOOL,
            f"{folder} has room for {room >> 20} MiB, and {workers} workers may keep"
            f" {most >> 20} MiB; usage is lost when the disk is full",
            hint="free space for it, or lower EGRET_USAGE__SPOOL_MAX_BYTES",
        )
    left = not_adoptable(folder) if folder.exists() else {}
    if left:
        folders = ", ".join(f"{name} ({reason.value})" for name, reason in left.items())
        return warning(
            SPOOL,
            f"no worker of this user can adopt the usage in {folders}, below {folder}",
            hint="run this as the workers' user; then make that user the owner of these folders"
            " (chown -R), or remove them if their usage may be lost",
        )
    return ok(SPOOL, f"{folder}, with room for {workers} workers")


def _existing(folder: Path) -> Path:
    """Return *folder*, or the nearest folder above it that this user can see."""
    return next(one for one in (folder, *folder.parents) if os.access(one, os.F_OK))


def _fault(check: str, folder: Path, *, setting: str) -> Checked | None:
    """Return the reason why this user cannot write to a folder, None if there is none."""
    hint = f"name another with {setting}, or change its owner"
    existing = _existing(folder)
    if existing != folder:
        if existing.is_dir() and not os.access(existing, os.X_OK):
            return failed(check, f"{folder} is hidden from this user by {existing}", hint=hint)
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            return failed(check, f"{folder} is missing and cannot be made", hint=hint)
        return None
    if not folder.is_dir():
        return failed(check, f"{folder} is no folder", hint=hint)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return failed(check, f"{folder} cannot be written to by this user", hint=hint)
    return None
