"""The policies in force in a worker: loaded, compiled elsewhere, swapped whole.

A set of policies that does not load or compile never replaces the last good one. An exchange
keeps the snapshot it began with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Never

from sidecar.domain.policy import Policy
from sidecar.guardrails.policy_document import PolicyDocumentError, parse_policies
from sidecar.guardrails.snapshot import PolicySnapshot, build_snapshot
from sidecar.storage.postgres_policies import (
    PolicyStoreUnavailableError,
    PostgresPolicyStore,
    StoredPolicy,
)
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.metrics import Metrics

RETRY_SECONDS: Final = 1.0
REFRESH_SECONDS: Final = 30.0
"""A notification can be lost (a pooler, a failover); no policy is older than this for that."""

Compile = Callable[[tuple[Policy, ...]], Awaitable[bytes]]


class PolicyReloader:
    """Keeps `snapshot` up to date; `None` until policies could be loaded once."""

    def __init__(
        self, store: PostgresPolicyStore, *, compile_database: Compile, metrics: Metrics
    ) -> None:
        self._store = store
        self._compile = compile_database
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._loaded: tuple[StoredPolicy, ...] | None = None
        self._snapshot: PolicySnapshot | None = None

    @property
    def snapshot(self) -> PolicySnapshot | None:
        """The policies in force now."""
        return self._snapshot

    def note_change(self) -> None:
        """Policies may have changed: load them soon."""
        self._changed.set()

    async def run(self) -> Never:
        """Load now, on every change and from time to time, until cancelled."""
        while True:
            self._changed.clear()
            is_current = await self._reload()
            try:
                async with asyncio.timeout(REFRESH_SECONDS if is_current else RETRY_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _reload(self) -> bool:
        try:
            stored = await self._store.load_policies()
            if stored != self._loaded:
                self._snapshot = await self._build(stored)
                self._loaded = stored
        except (PolicyStoreUnavailableError, PolicyDocumentError, OSError, ValueError) as error:
            self._metrics.policy_reload_failed()
            get_logger().warning(
                "policies.not_loaded",
                error_type=type(error).__name__,
                keeps_last_good=self._snapshot is not None,
            )
            return False
        return True

    async def _build(self, stored: tuple[StoredPolicy, ...]) -> PolicySnapshot:
        policies = tuple(
            policy
            for row in stored
            for policy in parse_policies(row.document, version=row.version, expressions="trust")
        )
        snapshot = build_snapshot(policies, database=await self._compile(policies))
        self._metrics.policies_loaded(policies)
        get_logger().info(
            "policies.loaded", policies={policy.name: policy.version for policy in policies}
        )
        return snapshot
