"""Secrets as Envoy reads them from files (SDS): the server certificate and provider keys."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def write_credential(directory: Path, *, name: str, header_value: SecretStr) -> None:
    """Write the whole value of the header that Envoy adds for provider *name*."""
    secret = {"generic_secret": {"secret": {"inline_string": header_value.get_secret_value()}}}
    _write(directory, name=name, secret=secret)


def write_certificate(directory: Path, *, name: str, chain: Path, private_key: Path) -> None:
    """Write where a certificate lies; Envoy watches its directory and reads it anew."""
    secret = {
        "tls_certificate": {
            "certificate_chain": {"filename": str(chain)},
            "private_key": {"filename": str(private_key)},
            "watched_directory": {"path": str(chain.parent)},
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
