"""The mock LLM as a part of the stack."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from egret_tools.devstack.certificates import ServerCertificate
from egret_tools.devstack.child import Children, Program
from egret_tools.devstack.run_directory import RunDirectory
from egret_tools.mock_llm.server import MockAddress
from sidecar.settings.sections import inherited_environment

PART: Final = "Mock LLM"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCredentials:
    """What the providers accept. Envoy adds them; neither client nor Egret ever sees them."""

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
    _write_config(config, certificate=certificate, credentials=credentials)
    program = Program(
        part=PART,
        command=(sys.executable, "-m", "egret_tools.mock_llm", "--config", str(config)),
        log=run.logs / "mock-llm.log",
        environment=inherited_environment(),
    )
    async with children.running(program, piped=True) as child:
        line = await child.first_line()
        if not line:
            raise await child.ended()
        ready = json.loads(line)
        yield MockAddress(port=ready["port"], debug_port=ready["debug_port"])


def _write_config(
    path: Path, *, certificate: ServerCertificate, credentials: ProviderCredentials
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
        **keys,
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(config, file)
