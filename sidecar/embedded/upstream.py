"""Where requests go when not to the mock: an address typed by a person, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from sidecar.embedded.envoy_config import HTTPS_PORT, SYSTEM_CA_FILE, Provider
from sidecar.embedded.mock_provider import ProviderCredentials

SUPERFLUOUS_PATHS: Final = ("", "/", "/v1", "/v1/")
"""Clients write `/v1` into their base URL, so people write it here as well."""


NO_CREDENTIALS: Final = ProviderCredentials()


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider of one's own. Every dialect is sent to it."""

    host: str
    port: int
    ca_file: Path = Path(SYSTEM_CA_FILE)
    credentials: ProviderCredentials = NO_CREDENTIALS

    def provider(self, *, credential_header: str, credential: SecretStr | None) -> Provider:
        """Return it as Envoy's configuration wants it."""
        return Provider(
            host=self.host,
            port=self.port,
            ca_file=str(self.ca_file),
            credential_header=None if credential is None else credential_header,
        )


def read_address(url: str) -> tuple[str, int]:
    """Return host and port.

    Raises:
        ValueError: not an https address of a host alone; the message says why.
    """
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise ValueError(
            "an upstream starts with https://: prompts and keys do not go in the clear"
        )
    if not parts.hostname:
        raise ValueError("an upstream names a host, for example https://api.openai.com")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("an upstream is a host, with no user, query or fragment")
    if parts.path not in SUPERFLUOUS_PATHS:
        raise ValueError(f"an upstream has no path of its own, but this one has {parts.path}")
    return parts.hostname, parts.port or HTTPS_PORT
