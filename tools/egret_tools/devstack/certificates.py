"""Throw-away certificates: a CA nobody trusts unless told, and two servers it vouches for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme

CA_NAME: Final = "ca.pem"
LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """Files of one server."""

    chain: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """Two authorities, so that trusting the gateway does not mean trusting its upstream."""

    gateway_ca: Path
    gateway: ServerCertificate
    provider_ca: Path
    provider: ServerCertificate


def write_certificates(directory: Path) -> Certificates:
    """Make everything anew below *directory*; private keys are readable by the owner only."""
    directory.mkdir(mode=0o700)
    gateway, provider = trustme.CA(), trustme.CA()
    return Certificates(
        gateway_ca=_write_ca(gateway, directory / CA_NAME),
        gateway=_write_server(gateway, directory / "gateway"),
        provider_ca=_write_ca(provider, directory / "provider-ca.pem"),
        provider=_write_server(provider, directory / "provider"),
    )


def _write_ca(authority: trustme.CA, path: Path) -> Path:
    authority.cert_pem.write_to_path(path)
    return path


def _write_server(authority: trustme.CA, directory: Path) -> ServerCertificate:
    directory.mkdir(mode=0o700)
    issued = authority.issue_cert(*LOCAL_NAMES)
    written = ServerCertificate(
        chain=directory / "certificate.pem", private_key=directory / "private-key.pem"
    )
    written.chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    descriptor = os.open(written.private_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(issued.private_key_pem.bytes())
    return written
