"""The providers of one run: the mock behind every API, or an upstream of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.embedded.certificates import Certificates
from sidecar.embedded.envoy_config import Provider
from sidecar.embedded.envoy_secrets import write_credential
from sidecar.embedded.mock_provider import ProviderCredentials
from sidecar.embedded.upstream import Upstream
from sidecar.mock_llm.server import LOOPBACK, MockAddress

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
