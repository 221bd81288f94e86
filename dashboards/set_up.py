"""Policies, keys, a limit and prices for a mixture of requests."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from pathlib import Path
from typing import Final

from egret_tools.devstack.demo_setup import ORGANIZATION, TEAM
from egret_tools.devstack.processes import PartError
from pydantic import SecretStr

from dashboards.traffic import POLICIES
from sidecar.admin.keys import create_key
from sidecar.admin.owners import Rules
from sidecar.keys.credentials import ApiKey, generate
from sidecar.policy.parse import parse_documents
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import Connection, connect
from sidecar.storage.postgres_policies import apply_policy

POLICY_TEXTS: Final = """
name: redact
guardrails: [{name: pii, type: pii, action: redact}]
---
name: block
guardrails: [{name: words, type: denied_terms, action: block, terms: [Bluebird]}]
---
name: flag
unscanned: flag
guardrails: [{name: pii, type: pii, action: flag}]
---
name: shadow
guardrails:
  - {name: pii, type: pii, action: redact, mode: shadow}
  - {name: words, type: denied_terms, action: block, mode: shadow, terms: [Bluebird]}
---
name: free
unscanned: allow
guardrails: []
---
name: answers-redact
guardrails: [{name: pii, type: pii, stage: output, action: redact}]
---
name: hook-error-allow
guardrails: [{name: hook, type: webhook, url: "http://127.0.0.1:9/", timeout: 1s, on_error: allow}]
---
name: hook-error-block
guardrails: [{name: hook, type: webhook, url: "http://127.0.0.1:9/", timeout: 1s, on_error: block}]
"""

WORKERS: Final = 2
PATIENCE_SECONDS: Final = 90.0


async def set_up(dsn: str, *, log: Path) -> dict[str, str]:
    """Fill the database of a new stack; return a key for each policy once all workers have them.

    Raises:
        PartError: they do not get them, or a command fails.
    """
    async with connect(PostgresSettings(dsn=SecretStr(dsn))) as connection:
        for document in parse_documents(POLICY_TEXTS):
            await apply_policy(
                connection, document.policy.name, document=document.text, expected_version=0
            )
        keys = {policy: await _new_key(connection, policy, name=policy) for policy in POLICIES}
        keys["limited"] = await _new_key(connection, "redact", name="limited")
    await change_a_key(dsn, keys["limited"].key_id, requests=30)
    for model, price in (("gpt-4o", "2.5"), ("gpt-4o-mini", "0.15")):
        await _egret(
            dsn, "price", "set", model, "--input", price, "--output-tokens", "10",
            "--from", "2020-01-01",
        )  # fmt: skip
    await _until_loaded(log)
    return {name: key.reveal() for name, key in keys.items()}


async def change_a_key(dsn: str, key_id: str, *, requests: int) -> None:
    """Set how many requests a key has a minute: workers hear of it."""
    await _egret(dsn, "limits", "set", "--key", key_id, f"requests/minute={requests}")


async def _new_key(connection: Connection, policy: str, *, name: str) -> ApiKey:
    key = generate(secrets.token_bytes)
    owner = (f"{ORGANIZATION}/{TEAM}", name)
    await create_key(connection, key, owner=owner, expires_at=None, rules=Rules(policy=policy))
    return key


async def _egret(dsn: str, *words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", *words,
        env=inherited_environment() | {"EGRET_POSTGRES__DSN": dsn},
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait():
        raise PartError("Set-up", f"egret {words[0]} failed", hint="it says above why")


async def _until_loaded(log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _loads_in(log) < WORKERS:
        if time.monotonic() > deadline:
            raise PartError("Set-up", "workers do not load the policies", hint=f"look at {log}")
        await asyncio.sleep(0.2)


def _loads_in(log: Path) -> int:
    return log.read_text(encoding="utf-8").count('"hook-error-block"')
