"""Looks at the folder of the workers' sockets."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sidecar.server.engine import is_alive
from sidecar.settings.serving import MAX_SOCKET_PATH_BYTES, ServerSettings
from sidecar.storage.checkup import Checked, failed, ok, skipped, warning

FOLDER: Final = "socket folder"
PATHS: Final = "socket paths"
STALE: Final = "stale sockets"


async def check_sockets(settings: ServerSettings) -> tuple[Checked, ...]:
    """Look at the folder without changing it."""
    folder = settings.socket_directory.absolute()
    return (
        await asyncio.to_thread(_folder, folder),
        _paths(folder, workers=settings.workers),
        await _stale(folder),
    )


def _folder(folder: Path) -> Checked:
    mend = "name another with EGRET_SERVER__SOCKET_DIRECTORY, or change its owner"
    if not folder.exists():
        parent = next(parent for parent in folder.parents if parent.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            return failed(FOLDER, f"{folder} is missing and cannot be made", mend=mend)
        return warning(FOLDER, f"{folder} is missing", mend="none needed: `egret serve` makes it")
    if not folder.is_dir():
        return failed(FOLDER, f"{folder} is no folder", mend=mend)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return failed(FOLDER, f"{folder} cannot be written to by this user", mend=mend)
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH:
        return failed(
            FOLDER,
            f"{folder} can be written to by everybody, who could put a socket in a worker's place",
            mend=f"chmod o-w {folder}",
        )
    return ok(FOLDER, f"{folder}, mode {stat.S_IMODE(mode):04o}")


def _paths(folder: Path, *, workers: int) -> Checked:
    longest = len(str(folder / f"worker-{workers - 1}.sock").encode())
    found = f"{longest} bytes at most of {MAX_SOCKET_PATH_BYTES}"
    if longest > MAX_SOCKET_PATH_BYTES:
        return failed(PATHS, found, mend="set EGRET_SERVER__SOCKET_DIRECTORY to a shorter folder")
    return ok(PATHS, found)


async def _stale(folder: Path) -> Checked:
    try:
        sockets = sorted(await asyncio.to_thread(_sockets, folder))
    except OSError:
        return skipped(STALE, f"waits for {FOLDER}")
    dead = [path for path in sockets if not await is_alive(path)]
    if dead:
        names = ", ".join(path.name for path in dead)
        return warning(
            STALE,
            f"nobody listens on {names}",
            mend="start those workers, or remove the files and take them out of Envoy's endpoints",
        )
    return ok(STALE, f"none; {len(sockets)} in use")


def _sockets(folder: Path) -> Iterable[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".sock") and path.is_socket()]
