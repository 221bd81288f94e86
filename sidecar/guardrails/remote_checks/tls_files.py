"""Certificates and keys of endpoints, read from their files and again when these change.

A certificate is rotated by replacing files, one after the other: a set that does not fit together
is not taken, and the last good one goes on.
"""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from sidecar.domain.remote_guardrails import RemoteEndpoint
from sidecar.guardrails.remote import RemoteCheckError, RemoteFault
from sidecar.telemetry.logs import get_logger

LOOK_SECONDS: Final = 10.0
"""How often files are looked at for a change; a rotated certificate has hours of overlap."""

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""A bundle of all public authorities is a quarter of a megabyte."""

_T = TypeVar("_T")
_Files = tuple[str | None, str | None, str | None]
_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Read(Generic[_T]):
    value: _T
    stamp: _Stamp
    looked_at: float


class TlsFiles(Generic[_T]):
    """What *build* makes of the files of an endpoint; the same object until they change."""

    def __init__(
        self, build: Callable[[RemoteEndpoint], _T], *, clock: Callable[[], float]
    ) -> None:
        """Read with *build*, which blocks and raises OSError or ValueError; monotonic *clock*."""
        self._build = build
        self._clock = clock
        self._read: dict[_Files, _Read[_T]] = {}
        self._lock = asyncio.Lock()

    async def get(self, endpoint: RemoteEndpoint) -> _T:
        """Return what the files hold.

        Raises:
            RemoteCheckError: they cannot be read, and never could.
        """
        files = (endpoint.ca_file, endpoint.cert_file, endpoint.key_file)
        known = self._read.get(files)
        if known is not None and self._clock() - known.looked_at < LOOK_SECONDS:
            return known.value
        async with self._lock:
            return await self._look(endpoint, files)

    async def _look(self, endpoint: RemoteEndpoint, files: _Files) -> _T:
        known = self._read.get(files)
        try:
            # Stamped before it is read: what is replaced meanwhile is read again next time.
            stamp = await asyncio.to_thread(_stamp, files)
            if known is not None and stamp == known.stamp:
                known.looked_at = self._clock()
                return known.value
            value = await asyncio.to_thread(self._build, endpoint)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            get_logger().warning(
                "guardrails.tls_files_not_read",
                error_type=type(error).__name__,
                keeps_last_good=known is not None,
            )
            if known is None:
                raise RemoteCheckError("tls_files", RemoteFault.LOCAL) from None
            known.looked_at = self._clock()
            return known.value
        self._read[files] = _Read(value, stamp, self._clock())
        return value


def tls_context(endpoint: RemoteEndpoint) -> ssl.SSLContext:
    """Return a client's context for *endpoint*: its authorities, and its identity if it has one.

    Raises:
        OSError: a file is not there, is no certificate or key, or the two do not fit.
    """
    context = ssl.create_default_context(cafile=endpoint.ca_file)
    if endpoint.cert_file is not None:
        context.load_cert_chain(endpoint.cert_file, endpoint.key_file)
    return context


def _stamp(files: _Files) -> _Stamp:
    return tuple(None if file is None else _stamp_of(Path(file)) for file in files)


def _stamp_of(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
        raise OSError("no file of a certificate's size")  # a pipe or a device would never end
    return found.st_mtime_ns, found.st_size, found.st_ino
