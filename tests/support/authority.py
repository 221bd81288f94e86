"""A throw-away authority, its certificates and keys in files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)


class Authority:
    """An authority with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)

    def identity(
        self, *names: str, file: str = "own", not_after: datetime | None = None
    ) -> dict[str, Path]:
        """Write a certificate for *names* and its key; return their files by field."""
        issued = self.ca.issue_cert(*names, not_after=not_after)
        cert, key = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return {"cert_file": cert, "key_file": key}


def encrypt(key: Path) -> None:
    """Give the key in a file a passphrase."""
    secret = BestAvailableEncryption(b"passphrase")
    private = load_pem_private_key(key.read_bytes(), password=None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
