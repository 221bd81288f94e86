"""Envoy as a part of the stack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp

from egret_tools.devstack.processes import Children, Program, envoy_program
from sidecar.settings.sections import inherited_environment

PART: Final = "Envoy"
START_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class EnvoyAddress:
    """Where Envoy listens: the configuration has port 0, and Envoy reports the port it got."""

    admin_url: str
    https_port: int
    http_port: int | None


@dataclass(frozen=True, slots=True)
class EnvoyRun:
    """Where Envoy keeps its files, with how many threads it works, and with which options more."""

    directory: Path
    logs: Path
    threads: int = 2
    program: Path | None = None
    """None is the Envoy of the wheel."""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listening:
    """Where Envoy's admin is, and the port of each listener by its name."""

    admin_url: str
    ports: dict[str, int]


@asynccontextmanager
async def running_envoy(
    children: Children, *, run: EnvoyRun, config: str
) -> AsyncIterator[EnvoyAddress]:
    """Run Envoy with a configuration of our listeners; yield where it listens, once it is live.

    Raises:
        PartError: it does not come up.
    """
    async with listening_envoy(children, run=run, config=config) as envoy:
        yield EnvoyAddress(
            envoy.admin_url, https_port=envoy.ports["https"], http_port=envoy.ports.get("http")
        )


@asynccontextmanager
async def listening_envoy(
    children: Children, *, run: EnvoyRun, config: str
) -> AsyncIterator[Listening]:
    """Run Envoy with any configuration.

    Raises:
        PartError: it does not come up.
    """
    file = run.directory / "envoy.yaml"
    admin = run.directory / "envoy-admin-address"
    file.write_text(config, encoding="utf-8")
    program = Program(
        part=PART,
        command=(
            str(run.program or envoy_program()),
            *("-c", str(file), "--admin-address-path", str(admin)),
            *("--concurrency", str(run.threads), "--disable-hot-restart"),
            *("--log-level", "warning", "--file-flush-interval-msec", "100"),
            *run.options,
        ),
        log=run.logs / "envoy.log",
        environment=inherited_environment(),
    )
    admin.unlink(missing_ok=True)
    async with aiohttp.ClientSession() as client:

        async def is_live() -> bool:
            address = _read(admin)
            if not address:
                return False
            try:
                async with client.get(f"http://{address}/ready") as answer:
                    return answer.status == HTTPStatus.OK
            except aiohttp.ClientError:
                return False

        async with children.running(program, is_ready=is_live, seconds=START_SECONDS):
            yield await _listening(f"http://{_read(admin)}", client)


async def _listening(admin_url: str, client: aiohttp.ClientSession) -> Listening:
    async with client.get(f"{admin_url}/listeners", params={"format": "json"}) as answer:
        listeners = (await answer.json(content_type=None))["listener_statuses"]
    ports = {
        listener["name"]: int(listener["local_address"]["socket_address"]["port_value"])
        for listener in listeners
    }
    return Listening(admin_url, ports)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
