"""A server's certificate and key, and the authority of its clients, as their files are now.

They are rotated by replacing files. Looked at with each handshake, which an Envoy does once a
connection; a set that does not fit together is not taken, and the last good one goes on.
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
        SocketError: they cannot be read, or do not fit together.
    """
    rotation = _Rotation(files)
    try:
        first = rotation.read()
    except OSError as error:  # ssl.SSLError is an OSError
        raise SocketError(
            f"no TLS with {files.certificate}, {files.key} and {files.client_ca}"
            f" ({type(error).__name__}): PEM files that fit together, readable by this user"
        ) from None
    return grpc.dynamic_ssl_server_credentials(
        first,
        rotation.newer,  # type: ignore[arg-type]  # None means «as before», say gRPC's documents
        require_client_authentication=True,
    )


class _Rotation:
    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp: _Stamp = ()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read the files.

        Raises:
            OSError: one is not there, or they do not fit together.
        """
        files = self._files
        # Stamped before it is read: what is replaced meanwhile is read again next time.
        stamp = self._look()
        # gRPC would take anything, and fail handshake after handshake without a reason.
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.client_ca)
        context.load_cert_chain(files.certificate, files.key)
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        read = grpc.ssl_server_certificate_configuration([pair], files.client_ca.read_bytes())
        self._stamp = stamp
        return read

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files hold if that has changed. gRPC calls it from its own threads."""
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
