"""Throw-away certificates, and the files (SDS) from which Envoy reads certificates and keys."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme
from pydantic import SecretStr

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


TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def write_credential(directory: Path, *, name: str, header_value: SecretStr) -> None:
    """Write the whole value of the header that Envoy adds for provider *name*."""
    secret = {"generic_secret": {"secret": {"inline_string": header_value.get_secret_value()}}}
    _write(directory, name=name, secret=secret)


def write_certificate(directory: Path, *, name: str, certificate: ServerCertificate) -> None:
    """Write where a certificate lies; Envoy watches its directory and reads it anew."""
    secret = {
        "tls_certificate": {
            "certificate_chain": {"filename": str(certificate.chain)},
            "private_key": {"filename": str(certificate.private_key)},
            "watched_directory": {"path": str(certificate.chain.parent)},
        }
    }
    _write(directory, name=name, secret=secret)


def write_authority(directory: Path, *, name: str, ca_file: Path) -> None:
    """Write which authority the other side's certificate must be of."""
    secret = {
        "validation_context": {
            "trusted_ca": {"filename": str(ca_file)},
            "watched_directory": {"path": str(ca_file.parent)},
        }
    }
    _write(directory, name=name, secret=secret)


def _write(directory: Path, *, name: str, secret: Mapping[str, object]) -> None:
    """Replace the file in one step: Envoy acts on a rename, and never sees half a secret."""
    document = {"resources": [{"@type": TYPE_URL, "name": name, **secret}]}
    new = directory / f".{name}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file)
    new.replace(directory / f"{name}.yaml")
