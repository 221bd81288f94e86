"""The TLS context of a server, whose files are rotated by replacing them.

The files are checked at each handshake, of which Envoy makes one for each connection. If a new
set does not match, the server logs it and keeps the last good one.

A resumed session is not verified again. A context keeps the sessions that began with it, so each
connection begins with the newest one: a client of a CA that was replaced must show a certificate
of the new one. And no session leads to a further one, so that it ends with its own time.
"""

from __future__ import annotations

import ssl

from typing_extensions import override

from sidecar.server.options import SocketError, TlsFiles
from sidecar.telemetry.logs import get_logger

_Stamp = tuple[tuple[int, int, int], ...]


def rotating_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context for HTTP/2 that follows *files*, and refuses clients without a certificate.

    Raises:
        SocketError: the files cannot be read, or do not match.
    """
    context = _RotatingContext(ssl.PROTOCOL_TLS_SERVER)
    context.rotation = _Rotation(files)
    context.newest = context.rotation.first()
    return context


class _RotatingContext(ssl.SSLContext):
    rotation: _Rotation
    newest: ssl.SSLContext

    @override
    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection; the event loop calls it for each."""
        self.newest = self.rotation.newer() or self.newest
        return self.newest.wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
        )


class _Handshake(ssl.SSLObject):
    """Logs why a handshake failed, which asyncio does in its debug mode only."""

    @override
    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            detail = getattr(error, "verify_message", None)
            get_logger().warning("server.tls_handshake_failed", reason=error.reason, detail=detail)
            raise


class _Rotation:
    """Makes a context of the files whenever they have changed."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp: _Stamp = ()

    def first(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            SocketError: a file is missing, or they do not match.
        """
        files = self._files
        try:
            return self._stamped()
        except OSError as error:  # ssl.SSLError is an OSError
            raise SocketError(
                f"cannot serve TLS with {files.certificate}, {files.key} and {files.client_ca}"
                f" ({type(error).__name__}): use PEM files that match, readable by this user, and"
                " a key without a passphrase"
            ) from None

    def newer(self) -> ssl.SSLContext | None:
        """Return a context of the files if they have changed and match."""
        try:
            return None if self._look() == self._stamp else self._stamped()
        except OSError as error:
            get_logger().warning("server.tls_files_not_read", error_type=type(error).__name__)
            return None

    def _stamped(self) -> ssl.SSLContext:
        # Stamped before reading: a file that is replaced meanwhile is read again next time.
        stamp = self._look()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._files.client_ca)
        # With a password, or OpenSSL asks on the terminal for that of an encrypted key, and waits.
        context.load_cert_chain(self._files.certificate, self._files.key, password="")
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0  # TLS 1.3, where each ticket that is used brings another
        context.sslobject_class = _Handshake
        self._stamp = stamp
        return context

    def _look(self) -> _Stamp:
        files = (self._files.certificate, self._files.key, self._files.client_ca)
        found = [file.stat() for file in files]
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)
