"""TLS credentials of a server that are rotated by replacing their files.

The files are checked at each handshake, of which Envoy makes one for each connection. If a new
set does not match, the server logs it and keeps the last good one.
"""

from __future__ import annotations

import ssl

import grpc

from sidecar.server.engine import SocketError, TlsFiles
from sidecar.telemetry.logs import get_logger

_Stamp = tuple[tuple[int, int, int], ...]


def rotating_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that follow *files*, and refuse clients without a certificate.

    Raises:
        SocketError: the files cannot be read, or do not match.
    """
    rotation = _Rotation(files)
    try:
        first = rotation.read()
    except OSError as error:  # ssl.SSLError is an OSError
        raise SocketError(
            f"cannot serve TLS with {files.certificate}, {files.key} and {files.client_ca}"
            f" ({type(error).__name__}): use PEM files that match, readable by this user"
        ) from None
    return grpc.dynamic_ssl_server_credentials(
        first,
        rotation.newer,  # type: ignore[arg-type]  # None keeps the last, by gRPC's docs
        require_client_authentication=True,
    )


class _Rotation:
    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp: _Stamp = ()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read the files.

        Raises:
            OSError: a file is missing, or they do not match.
        """
        files = self._files
        # Stamped before reading: a file that is replaced meanwhile is read again next time.
        stamp = self._look()
        # gRPC accepts any bytes here, and then fails each handshake without a reason.
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.client_ca)
        context.load_cert_chain(files.certificate, files.key)
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        read = grpc.ssl_server_certificate_configuration([pair], files.client_ca.read_bytes())
        self._stamp = stamp
        return read

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the files' content if it has changed; gRPC calls this from its own threads."""
        try:
            if self._look() == self._stamp:
                return None
            return self.read()
        except OSError as error:
            get_logger().warning("server.tls_files_not_read", error_type=type(error).__name__)
            return None

    def _look(self) -> _Stamp:
        files = (self._files.certificate, self._files.key, self._files.client_ca)
        found = [file.stat() for file in files]
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)
