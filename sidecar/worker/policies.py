"""The policies in force in a worker: loaded, compiled elsewhere, swapped whole.

A set of policies that does not load or compile never replaces the last good one. A request
keeps the snapshot it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Never, Protocol

from sidecar.domain.cooperative import Cooperative
from sidecar.guardrails.matching.database import CompileError
from sidecar.policy.compilation import CompiledPolicies, VersionedDocument
from sidecar.policy.snapshot import PolicySnapshot, snapshot_steps
from sidecar.storage.postgres_policies import PolicyStoreUnavailableError, StoredPolicy
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.metrics import Metrics

RETRY_SECONDS: Final = 1.0
"""After a failure; twice as long after each more, since compiling in vain costs CPU time."""
REFRESH_SECONDS: Final = 30.0
"""A notification can be lost (a pooler, a failover); then policies are late by this much."""

HOLD_SECONDS: Final = 0.001
"""How long building a snapshot keeps the event loop before exchanges have their turn."""


class Compile(Protocol):
    """Reads and compiles policies in another process."""

    def __call__(
        self, documents: Sequence[VersionedDocument], *, gives_way: bool
    ) -> Awaitable[CompiledPolicies]:
        """Return *documents* compiled; with *gives_way* at low priority, since requests go first.

        Raises:
            CompileError: they cannot be read or compiled.
        """
        ...


class PolicyStore(Protocol):
    """The database that holds the policies."""

    async def load_policies(self) -> tuple[StoredPolicy, ...]:
        """Return the version in force of every policy.

        Raises:
            PolicyStoreUnavailableError: they could not be read.
        """
        ...


class PolicyReloader:
    """Keeps `snapshot` up to date; it is None until policies were loaded once."""

    def __init__(
        self,
        store: PolicyStore,
        *,
        compile_policies: Compile,
        metrics: Metrics,
        on_loaded: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> None:
        """*on_loaded* gets the versions by name of policies that have come into force."""
        self._store = store
        self._compile = compile_policies
        self._metrics = metrics
        self._on_loaded = on_loaded
        self._changed = asyncio.Event()
        self._loaded: tuple[StoredPolicy, ...] | None = None
        self._snapshot: PolicySnapshot | None = None
        self._is_building = False

    @property
    def is_building(self) -> bool:
        """Whether policies were read and are being compiled, which takes a while but does end."""
        return self._is_building

    @property
    def snapshot(self) -> PolicySnapshot | None:
        """The policies in force now."""
        return self._snapshot

    def note_change(self) -> None:
        """Have the policies loaded soon: they may have changed."""
        self._changed.set()

    async def run(self) -> Never:
        """Load now, on every change and from time to time, until cancelled."""
        retry_seconds = RETRY_SECONDS
        while True:
            self._changed.clear()
            try:
                stored = await self._store.load_policies()
                if stored != self._loaded:
                    self._is_building = True
                    self._snapshot = await self._build(stored)
                    self._loaded = stored
                    self._on_loaded({one.name: one.version for one in stored})
            except (PolicyStoreUnavailableError, OSError, ValueError) as error:
                self._metrics.policy_reload_failed()
                get_logger().warning(
                    "policies.not_loaded",
                    error_type=type(error).__name__,
                    # Others may quote a document.
                    reason=str(error) if isinstance(error, CompileError) else None,
                    keeps_last_good=self._snapshot is not None,
                )
                wait_seconds = retry_seconds
                retry_seconds = min(2 * retry_seconds, REFRESH_SECONDS)
            else:
                self._metrics.policies_read()
                wait_seconds, retry_seconds = REFRESH_SECONDS, RETRY_SECONDS
            finally:
                self._is_building = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._changed.wait()
                retry_seconds = RETRY_SECONDS

    async def _build(self, stored: tuple[StoredPolicy, ...]) -> PolicySnapshot:
        began_at = time.monotonic()
        compiled = await self._compile(
            [(row.document, row.version) for row in stored], gives_way=self._snapshot is not None
        )
        # Requests will use the bindings of the old snapshot with the new one.
        bindings = () if self._snapshot is None else self._snapshot.bindings
        steps = snapshot_steps(compiled, prepared_for=bindings)
        snapshot, longest_hold_seconds = await _in_turns(steps)
        self._metrics.policies_loaded(compiled.policies)
        get_logger().info(
            "policies.loaded",
            policies={policy.name: policy.version for policy in compiled.policies},
            seconds=round(time.monotonic() - began_at, 3),
            longest_hold_ms=round(longest_hold_seconds * 1000, 3),
        )
        return snapshot


async def _in_turns(steps: Cooperative[PolicySnapshot]) -> tuple[PolicySnapshot, float]:
    """Take *steps* while requests go on; return the result and the longest hold in seconds."""
    longest = 0.0
    while True:
        began_at = now = time.monotonic()
        try:
            while now < began_at + HOLD_SECONDS:
                next(steps)
                now = time.monotonic()
        except StopIteration as end:
            snapshot: PolicySnapshot = end.value
            return snapshot, max(longest, time.monotonic() - began_at)
        longest = max(longest, now - began_at)
        await asyncio.sleep(0)
