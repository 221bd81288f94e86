"""The policies in force in a worker: loaded, compiled elsewhere, swapped whole.

A set of policies that does not load or compile never replaces the last good one. A request
keeps the snapshot it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from typing import Final, Never, Protocol

from sidecar.domain.cooperative import Cooperative
from sidecar.domain.principal import PolicyBinding
from sidecar.guardrails.matching.database import CompileError
from sidecar.policy.compilation import MAX_LOST, CompiledPolicy
from sidecar.policy.parse import DEFAULT_POLICY_NAME
from sidecar.policy.snapshot import MissingPolicy, PolicySnapshot, snapshot_steps
from sidecar.storage.postgres_policies import PolicyStoreUnavailableError, StoredPolicy
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.metrics import Metrics

RETRY_SECONDS: Final = 1.0
"""After a failure; twice as long after each more, since compiling in vain costs CPU time."""
REFRESH_SECONDS: Final = 30.0
"""A notification can be lost (a pooler, a failover); then policies are late by this much."""

HOLD_SECONDS: Final = 0.001
"""How long building a snapshot keeps the event loop before exchanges have their turn."""

MOST_AT_ONCE: Final = 32
"""Policies that come into force together when a worker starts, unless requests wait for one."""
PAUSE_SECONDS: Final = 0.1
"""While the next policy takes longer, those before it come into force: requests would get 503."""


class Compile(Protocol):
    """Reads and compiles policies in another process."""

    def __call__(
        self, documents: Iterable[str], *, gives_way: bool
    ) -> AsyncGenerator[CompiledPolicy]:
        """Yield *documents* compiled; with *gives_way* at low priority, since requests go first.

        Raises:
            CompileError: one cannot be read or compiled.
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
    """Keeps `snapshot` up to date; it is None until policies were loaded once.

    The policies that a worker finds at its start come into force a few at a time, first those that
    requests wait for. Later changes come into force whole, or not at all.
    """

    def __init__(
        self,
        store: PolicyStore,
        *,
        compile_policies: Compile,
        metrics: Metrics,
        on_loaded: Callable[
            [Mapping[str, int], Iterable[str]], None
        ] = lambda _versions, _documents: None,
    ) -> None:
        """*on_loaded* gets the versions by name that are in force, and all documents."""
        self._store = store
        self._compile = compile_policies
        self._metrics = metrics
        self._on_loaded = on_loaded
        self._changed = asyncio.Event()
        self._published = asyncio.Event()
        self._loaded: tuple[StoredPolicy, ...] | None = None
        self._stored: dict[str, StoredPolicy] = {}
        self._in_force: dict[str, StoredPolicy] = {}
        self._waiting: dict[str, None] = {}
        """Names of policies that are not compiled yet: none of their requests is judged."""
        self._wanted: dict[str, None] = {}
        """Those of them that requests wait for."""
        self._refused: set[str] = set()
        """Those of them that could not be compiled."""
        self._snapshot: PolicySnapshot | None = None
        self._longest_hold_seconds = 0.0
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

    async def compiled(self, binding: PolicyBinding) -> bool:
        """Wait for the policies of *binding*, compiled next; return False if they cannot be."""
        while self._snapshot is not None:
            found = self._snapshot.effective(binding)
            if not isinstance(found, MissingPolicy):
                return True
            if not found.is_pending or found.name in self._refused:
                break
            self._wanted[found.name] = None
            await self._published.wait()
        return False

    async def run(self) -> Never:
        """Load now, on every change and from time to time, until cancelled."""
        retry_seconds = RETRY_SECONDS
        while True:
            self._changed.clear()
            try:
                stored = await self._store.load_policies()
                if stored != self._loaded:
                    self._is_building = True
                    await self._build(stored)
                    # Policies that still wait are built in the next round, changed or not.
                    self._loaded = None if self._waiting else stored
            except (PolicyStoreUnavailableError, OSError, ValueError) as error:
                self._metrics.policy_reload_failed()
                get_logger().warning(
                    "policies.not_loaded",
                    error_type=type(error).__name__,
                    # Others may quote a document.
                    reason=str(error) if isinstance(error, CompileError) else None,
                    refused=sorted(self._refused),
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

    async def _build(self, stored: tuple[StoredPolicy, ...]) -> None:
        """Bring what has changed into force; all else stays as it is.

        Raises:
            CompileError: some of it cannot be compiled.
        """
        began_at, before, was = time.monotonic(), dict(self._in_force), self._snapshot
        self._longest_hold_seconds = 0.0
        self._stored = {one.name: one for one in stored}
        changed = [name for name, one in self._stored.items() if before.get(name) != one]
        is_starting = self._snapshot is None or bool(self._waiting)
        late = [name for name in changed if is_starting and name not in before]
        # Those that were refused come last, and the policy of most requests first.
        late.sort(key=lambda name: (name in self._refused, name != DEFAULT_POLICY_NAME))
        self._waiting = dict.fromkeys(late)
        self._refused.clear()
        failure: CompileError | None = None
        try:
            names = [name for name in changed if name not in self._waiting]
            async with contextlib.aclosing(self._compile_named(names)) as every:
                compiled = [one async for one in every]
            gone = before.keys() - self._stored.keys()
            if compiled or gone or not (self._snapshot or late):
                await self._publish(compiled, gone=gone)
        except CompileError as error:
            failure = error
        while not self._changed.is_set() and self._waiting.keys() - self._refused:
            failure = await self._fill() or failure
            if len(self._refused) >= MAX_LOST:
                break
        snapshot = self._snapshot
        if snapshot is not None and snapshot is not was:
            versions = {policy.name: policy.version for policy in snapshot.policies}
            self._metrics.policies_loaded(snapshot.policies)
            self._on_loaded(versions, [one.document for one in stored])
            get_logger().info(
                "policies.loaded",
                policies=versions,
                changed=len(changed) + len(before.keys() - self._stored.keys()),
                waiting=len(self._waiting),
                seconds=round(time.monotonic() - began_at, 3),
                longest_hold_ms=round(self._longest_hold_seconds * 1000, 3),
            )
        if failure is not None:
            raise failure

    async def _compile_named(self, names: Iterable[str]) -> AsyncGenerator[CompiledPolicy]:
        """Yield the policies of these *names*, of which the next is taken when one is done."""
        row: StoredPolicy | None = None

        def documents() -> Iterator[str]:
            nonlocal row
            for name in names:
                row = self._stored[name]
                yield row.document

        # While a worker starts, requests may wait for it.
        gives_way = self._snapshot is not None and not self._waiting
        every = self._compile(documents(), gives_way=gives_way)
        async with contextlib.aclosing(every):
            async for one in every:
                assert row is not None  # noqa: S101 - it was taken
                policy = replace(one.policy, name=row.name, version=row.version)
                yield replace(one, policy=policy)

    async def _fill(self) -> CompileError | None:
        """Compile policies that wait, up to a change or a failure, which is returned."""
        taken: dict[str, None] = {}
        done: list[CompiledPolicy] = []
        failure: CompileError | None = None

        def names() -> Iterator[str]:
            while not self._changed.is_set():
                left = self._waiting.keys() - taken.keys() - self._refused
                for name in (*self._wanted, *self._waiting):
                    if name in left:
                        break
                else:
                    return
                taken[name] = None
                yield name

        try:
            async with contextlib.aclosing(self._compile_named(names())) as every:
                while True:
                    coming = asyncio.ensure_future(anext(every, None))
                    try:
                        await asyncio.wait([coming], timeout=PAUSE_SECONDS)
                        if done and self._snapshot is not None and not coming.done():
                            await self._publish(done)
                            done = []
                        one = await coming
                    finally:
                        coming.cancel()
                        await asyncio.wait([coming])
                    if one is None:
                        break
                    done.append(one)
                    if self._wanted or len(done) >= MOST_AT_ONCE:
                        await self._publish(done)
                        done = []
        except CompileError as error:
            self._refused.add(next(reversed(taken)))
            failure = error
        await self._publish(done)
        return failure

    async def _publish(
        self, compiled: Sequence[CompiledPolicy], *, gone: Collection[str] = ()
    ) -> None:
        """Swap the snapshot for one with *compiled* in it, and without those *gone*."""
        names = {one.policy.name for one in compiled}
        before = self._snapshot
        if names or gone or (before is None and not self._waiting):
            steps = snapshot_steps(
                compiled,
                before=before,
                without=gone,
                pending=self._waiting.keys() - names,
                # Requests will use the bindings of the old snapshot with the new one.
                prepared_for=() if before is None else before.bindings,
            )
            self._snapshot, hold_seconds = await _in_turns(steps)
            self._longest_hold_seconds = max(self._longest_hold_seconds, hold_seconds)
        for name in gone:
            del self._in_force[name]
        for name in names:
            self._in_force[name] = self._stored[name]
            self._waiting.pop(name, None)
            self._wanted.pop(name, None)
        self._published.set()
        self._published = asyncio.Event()


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
