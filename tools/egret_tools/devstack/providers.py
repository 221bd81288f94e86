"""Providers of the development stack: credentials, addresses, the mock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from egret_tools.devstack.certificates import Certificates
from egret_tools.devstack.envoy_config import HTTPS_PORT, SYSTEM_CA_FILE, Provider
from egret_tools.devstack.envoy_secrets import write_credential
from egret_tools.devstack.mock_provider import ProviderCredentials
from egret_tools.mock_llm.server import LOOPBACK, MockAddress

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


CREDENTIAL_HEADERS: Final = {
    "openai": "authorization",
    "anthropic": "x-api-key",
    "azure": "api-key",
    "gemini": "x-goog-api-key",
    "bedrock": "authorization",
}
"""Where each provider wants its key, by the name of its cluster and of its SDS file."""


@dataclass(frozen=True, slots=True)
class Providers:
    """Where Envoy sends each API, with what credential; `debug_url` is the mock's."""

    by_name: Mapping[str, Provider]
    credentials: ProviderCredentials
    debug_url: str | None = None


def mock_providers(
    mock: MockAddress, *, certificates: Certificates, credentials: ProviderCredentials
) -> Providers:
    """Return the mock in the place of every provider."""
    made = {
        name: Provider(
            host="localhost",
            address=LOOPBACK,
            port=mock.port,
            ca_file=str(certificates.provider_ca),
            credential_header=header,
        )
        for name, header in CREDENTIAL_HEADERS.items()
    }
    return Providers(made, credentials, mock.debug_url)


def upstream_providers(upstream: Upstream) -> Providers:
    """Return the upstream in the place of every provider; what has no key gets none."""
    values = upstream.credentials.header_values()
    made = {
        name: upstream.provider(credential_header=header, credential=values.get(name))
        for name, header in CREDENTIAL_HEADERS.items()
    }
    return Providers(made, upstream.credentials)


def write_credentials(directory: Path, providers: Providers) -> None:
    """Write the files that Envoy reads the providers' keys from."""
    for name, value in providers.credentials.header_values().items():
        write_credential(directory, name=name, header_value=value)
