"""The whole stack for a soak, and a provider that is no bottleneck.

PostgreSQL, Valkey, workers, Envoy with TLS to the provider, limits, budgets and usage records are
those of `egret up`. Of the provider, another Envoy answers whole requests at once; streams
come from the mock, event by event, with something in them to take out.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import aiohttp
from egret_tools.devstack.credentials import Certificates, write_certificates
from egret_tools.devstack.envoy import EnvoyRun, listening_envoy
from egret_tools.devstack.processes import Children, PartError
from egret_tools.devstack.providers import (
    ProviderCredentials,
    Upstream,
    made_up_credentials,
    running_mock_provider,
)
from egret_tools.devstack.run_directory import RunDirectory
from egret_tools.devstack.stack import StackFacts, StackOptions, running_stack
from egret_tools.mock_llm.server import MockAddress
from pydantic import SecretStr

from loadtest.bench_envoy import port_address, provider_config
from sidecar.admin.keys import create_key
from sidecar.admin.limits import OwnedLimits, Owner, change_limits
from sidecar.admin.owners import Rules, create_organization, create_team
from sidecar.domain.limits import Level, Limit
from sidecar.keys.credentials import generate
from sidecar.limits.limit_syntax import Selectors, parse_limit
from sidecar.policy.parse import parse_documents
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import Connection, connect
from sidecar.storage.postgres_policies import apply_policy
from sidecar.storage.usage_store import set_prices
from sidecar.usage.prices import Price

OWNER: Final = "soak"
TEAM: Final = f"{OWNER}/{OWNER}"
WATCHED: Final = "watched"
POLICIES: Final = f"""\
name: {WATCHED}
guardrails:
  - {{name: secrets, type: secrets, action: block, stage: both}}
  - {{name: pii, type: pii, action: redact, stage: both}}
"""
KEYS: Final = {"plain": Rules(), "limited": Rules(), WATCHED: Rules(policy=WATCHED)}
TEAM_LIMITS: Final = ("requests/minute=1000000", "tokens/minute=1000000000")
ORGANIZATION_LIMITS: Final = ("cost/day=1000000.00",)
PRICE: Final = Price(
    model="*", valid_from=datetime(2020, 1, 1, tzinfo=UTC), input=Decimal(1), output=Decimal(1)
)
"""Of every model: a budget refuses those without one."""
KEY_LIMITS: Final = {"limited": ("requests/minute=60",), WATCHED: ("concurrent=1000",)}
"""Most requests of the one are refused; those of the other hold a slot each while they last."""
SETTLE_SECONDS: Final = "30"
"""An hour by default; here, so that requests are declared lost before a soak ends."""
EVENT_MS: Final = 10
COMPILE_SECONDS: Final = 120.0
ANSWERS_IN_A_ROW: Final = 20
"""Which worker is asked is Envoy's choice."""
STORY: Final = "Once there was a writer whose address was ann@example.org and wrote no more."


@dataclass(frozen=True, slots=True)
class SoakStack:
    """A running stack and its keys by name; `unknown` is in no database."""

    facts: StackFacts
    keys: Mapping[str, str]


@asynccontextmanager
async def running_soak_stack(
    *, run: RunDirectory, provider_run: RunDirectory
) -> AsyncIterator[SoakStack]:
    """Start everything, yield once requests are answered, stop in the opposite order.

    Raises:
        PartError: a part does not come up.
    """
    async with AsyncExitStack() as parts:
        upstream = await parts.enter_async_context(_running_provider(provider_run))
        options = StackOptions(
            upstream=upstream,
            traces=False,
            worker_settings={"EGRET_USAGE__SETTLE_SECONDS": SETTLE_SECONDS},
        )
        stack = await parts.enter_async_context(running_stack(options, run=run))
        keys = await _set_up(stack.facts)
        await _until_guarded(stack.facts, keys[WATCHED])
        yield SoakStack(stack.facts, keys)


@asynccontextmanager
async def _running_provider(run: RunDirectory) -> AsyncIterator[Upstream]:
    certificates = write_certificates(run.path / "certificates")
    credentials = made_up_credentials()
    children = Children()
    async with (
        running_mock_provider(
            children, run=run, certificate=certificates.provider, credentials=credentials
        ) as mock,
        listening_envoy(
            children,
            run=EnvoyRun(run.path, run.logs, threads=1),
            config=provider_with_tls(mock, certificates),
        ) as envoy,
    ):
        await _instruct(mock)
        yield _upstream(envoy.ports["provider"], certificates, credentials)


def _upstream(port: int, certificates: Certificates, credentials: ProviderCredentials) -> Upstream:
    return Upstream("localhost", port, ca_file=certificates.provider_ca, credentials=credentials)


async def _instruct(mock: MockAddress) -> None:
    async with aiohttp.ClientSession(mock.debug_url) as debug:
        for path, order in (("/delay", {"event_ms": EVENT_MS}), ("/answer", {"text": STORY})):
            async with debug.post(path, json=order) as answer:
                answer.raise_for_status()


async def _set_up(facts: StackFacts) -> dict[str, str]:
    keys = {"unknown": generate(secrets.token_bytes).reveal()}
    async with connect(PostgresSettings(dsn=SecretStr(facts.postgres_dsn))) as connection:
        await create_organization(connection, OWNER, rules=Rules())
        await create_team(connection, OWNER, organization=OWNER, rules=Rules())
        for document in parse_documents(POLICIES):
            name = document.policy.name
            await apply_policy(connection, name, document=document.text, expected_version=0)
        for name, rules in KEYS.items():
            key = generate(secrets.token_bytes)
            await create_key(connection, key, owner=(TEAM, name), expires_at=None, rules=rules)
            keys[name] = key.reveal()
            limits = KEY_LIMITS.get(name, ())
            await _limit(connection, Owner(Level.KEY, key.key_id), limits)
        await _limit(connection, Owner(Level.TEAM, TEAM), TEAM_LIMITS)
        await _limit(connection, Owner(Level.ORGANIZATION, OWNER), ORGANIZATION_LIMITS)
        await set_prices(connection, [PRICE])
    return keys


async def _until_guarded(facts: StackFacts, key: str) -> None:
    """Wait until every worker has compiled the policy: until then its key is answered 503.

    Raises:
        PartError: that does not come to pass.
    """
    deadline, in_a_row = time.monotonic() + COMPILE_SECONDS, 0
    chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello."}]}
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as client:
        while in_a_row < ANSWERS_IN_A_ROW:
            if time.monotonic() > deadline:
                raise PartError("Policies", "were not compiled", hint="look at workers.log")
            async with client.post(f"{facts.url}/v1/chat/completions", json=chat) as answer:
                in_a_row = in_a_row + 1 if answer.ok else 0
            await asyncio.sleep(0.1)


async def _limit(connection: Connection, owner: Owner, words: tuple[str, ...]) -> None:
    def change(before: OwnedLimits) -> tuple[Limit, ...]:
        return tuple(
            parse_limit(one, level=owner.level, owner=before.owner_id, selectors=Selectors())
            for one in words
        )

    await change_limits(connection, owner, change)


def provider_with_tls(mock: MockAddress, certificates: Certificates) -> str:
    """Return the configuration of the provider's Envoy, which passes streams on to *mock*."""
    config = json.loads(provider_config(port_address(0), streams=port_address(mock.port)))
    (listener,) = config["static_resources"]["listeners"]
    (cluster,) = config["static_resources"]["clusters"]
    server = {
        "certificate_chain": {"filename": str(certificates.provider.chain)},
        "private_key": {"filename": str(certificates.provider.private_key)},
    }
    listener["filter_chains"][0]["transport_socket"] = _tls(
        "Downstream", tls_certificates=[server], alpn_protocols=["h2", "http/1.1"]
    )
    trusted = {"trusted_ca": {"filename": str(certificates.provider_ca)}}
    cluster["transport_socket"] = _tls("Upstream", validation_context=trusted)
    return json.dumps(config)


def _tls(side: str, **common: object) -> dict[str, Any]:
    kind = f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext"
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": kind, "common_tls_context": common},
    }
