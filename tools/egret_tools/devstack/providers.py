"""Providers of the development stack: addresses, credentials, and the mock LLM."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from egret_tools.devstack.credentials import Certificates, ServerCertificate, write_credential
from egret_tools.devstack.envoy_config import HTTPS_PORT, SYSTEM_CA_FILE, Provider
from egret_tools.devstack.processes import Children, Program, is_free
from egret_tools.devstack.run_directory import RunDirectory
from egret_tools.mock_llm.server import LOOPBACK, MockAddress
from sidecar.settings.sections import inherited_environment

PART: Final = "Mock LLM"
ANY_PORTS: Final = MockAddress(port=0, debug_port=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCredentials:
    """Keys of the providers. Envoy adds them; neither client nor Egret receives them."""

    openai: SecretStr | None = None
    anthropic: SecretStr | None = None
    azure: SecretStr | None = None
    gemini: SecretStr | None = None
    bedrock: SecretStr | None = None

    def header_values(self) -> dict[str, SecretStr]:
        """Return the value of each provider's credential header, by the provider's name."""
        values = {
            "openai": _bearer(self.openai),
            "anthropic": self.anthropic,
            "azure": self.azure,
            "gemini": self.gemini,
            "bedrock": _bearer(self.bedrock),
        }
        return {name: value for name, value in values.items() if value is not None}


def _bearer(key: SecretStr | None) -> SecretStr | None:
    return None if key is None else SecretStr(f"Bearer {key.get_secret_value()}")


def made_up_credentials() -> ProviderCredentials:
    """Return new ones for one run of the mock."""
    return ProviderCredentials(
        openai=SecretStr(f"sk-mock-{secrets.token_hex(12)}"),
        anthropic=SecretStr(f"sk-ant-mock-{secrets.token_hex(12)}"),
        azure=SecretStr(secrets.token_hex(16)),
        gemini=SecretStr(f"AIza-mock-{secrets.token_hex(12)}"),
        bedrock=SecretStr(f"bedrock-mock-{secrets.token_hex(12)}"),
    )


@asynccontextmanager
async def running_mock_provider(
    children: Children,
    *,
    run: RunDirectory,
    certificate: ServerCertificate,
    credentials: ProviderCredentials,
) -> AsyncIterator[MockAddress]:
    """Run the mock and yield where it listens.

    Raises:
        PartError: it cannot be started.
    """
    config = run.path / "mock-llm.json"
    _write_config(config, certificate=certificate, credentials=credentials, address=ANY_PORTS)
    program = Program(
        part=PART,
        command=(sys.executable, "-m", "egret_tools.mock_llm", "--config", str(config)),
        log=run.logs / "mock-llm.log",
        environment=inherited_environment(),
    )
    address = ANY_PORTS

    async def listens() -> bool:
        # Before the first start its own line says so, and the ports.
        return address is ANY_PORTS or not is_free(address.debug_port)

    async with children.running(program, piped=True, is_ready=listens) as child:
        line = await child.first_line()
        if not line:
            raise await child.ended()
        ready = json.loads(line)
        address = MockAddress(port=ready["port"], debug_port=ready["debug_port"])
        # Restarted, it must listen where Envoy sends requests.
        _write_config(config, certificate=certificate, credentials=credentials, address=address)
        yield address


def _write_config(
    path: Path,
    *,
    certificate: ServerCertificate,
    credentials: ProviderCredentials,
    address: MockAddress,
) -> None:
    """In a file that only we can read: arguments of a process are shown to every user."""
    keys = {
        f"{one.name}_key": "" if (key := getattr(credentials, one.name)) is None
        else key.get_secret_value()
        for one in fields(credentials)
    }  # fmt: skip
    config = {
        "certificate_chain": str(certificate.chain),
        "private_key": str(certificate.private_key),
        "port": address.port,
        "debug_port": address.debug_port,
        **keys,
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(config, file)


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
    """The destination and the credential of each API; `debug_url` is the mock's."""

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
    """Return the upstream in the place of every provider; one without a key gets none."""
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
