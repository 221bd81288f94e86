"""The parts of a bench in which features are switched on one by one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Final

from egret_tools.devstack.child import Children, Program, until_ready
from egret_tools.devstack.envoy_config import OtlpCollector
from egret_tools.devstack.run_directory import RunDirectory
from egret_tools.devstack.trace_receiver import running_trace_receiver
from egret_tools.devstack.valkey import running_valkey
from pydantic import SecretStr

from loadtest.bench_envoy import BARE, MoreListeners
from loadtest.bench_stack import BenchStack, Extras, running_bench_stack, until_compiled
from loadtest.texts import MODEL
from sidecar.admin.limits import OwnedLimits, Owner, change_limits
from sidecar.cli.limit_syntax import Selectors, parse_limit
from sidecar.domain.limits import Level, Limit
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect
from sidecar.storage.usage_store import set_prices
from sidecar.usage.prices import Price

IDLE: Final = "idle"
RARELY: Final = 1
ALWAYS: Final = 100
LIMITS: Final = ("requests/minute=1000000", "tokens/minute=1000000000", "cost/day=1000000.00")
_DEFAULT: Final = (
    resources.files("sidecar.policy").joinpath("default_policy.yaml").read_text("utf-8")
)
POLICIES: Final = "\n---\n".join(
    (
        "name: nothing\nunscanned: allow\nguardrails: []",
        _DEFAULT.replace("name: default", "name: limited", 1),
        _DEFAULT.replace("name: default", "name: window", 1)
        .replace("type: secrets\n", "type: secrets\n    stage: both\n", 1)
        .replace("type: pii\n", "type: pii\n    stage: both\n", 1),
    )
)
"""`limited` is the default policy of a key with limits; `window` also judges answers."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One step: the listener that is asked, and with whose key; `{}` stands for the engine."""

    name: str
    listener: str
    key: str = ""


FEATURES: Final = (
    Feature("Envoy alone", BARE),
    Feature("exchange that judges nothing", IDLE),
    Feature("+ key", "{}", "nothing"),
    Feature("+ guardrails", "{}"),
    Feature("+ 1 % of traces", f"{{}}@{RARELY}"),
    Feature("+ limits", f"{{}}@{RARELY}", "limited"),
    Feature("+ answers judged", f"{{}}@{RARELY}", "window"),
    Feature("all traces, no limits", f"{{}}@{ALWAYS}"),
)


@dataclass(frozen=True, slots=True)
class FeatureStack:
    """The running parts, and the server that judges nothing."""

    bench: BenchStack
    idle_pid: int

    def key(self, name: str) -> SecretStr:
        """Return the key of a feature."""
        return self.bench.keys[name] if name else self.bench.key

    def pids(self, listener: str) -> tuple[int, ...]:
        """Return who judges the requests of a listener."""
        if listener == IDLE:
            return (self.idle_pid,)
        return self.bench.workers.get(listener.partition("@")[0], ())


@asynccontextmanager
async def running_feature_stack(engine: str, *, run: RunDirectory) -> AsyncIterator[FeatureStack]:
    """Start everything for one engine.

    Raises:
        PartError: a part does not come up.
    """
    children = Children()
    async with AsyncExitStack() as parts:
        otlp_port = await parts.enter_async_context(running_trace_receiver(run.traces_file))
        valkey_url = await parts.enter_async_context(
            running_valkey(children, directory=run.path / "valkey", logs=run.logs)
        )
        socket = run.path / "idle.sock"
        program = Program(
            part="idle worker",
            command=(sys.executable, "-m", "loadtest.idle_worker", engine, str(socket)),
            log=run.logs / "idle.log",
            environment=inherited_environment(),
        )
        idle = await parts.enter_async_context(children.running(program))
        await until_ready(idle, lambda: _exists(socket))
        extras = Extras(
            settings={
                "EGRET_VALKEY__URL": valkey_url,
                "EGRET_TELEMETRY__OTLP_ENDPOINT": f"http://127.0.0.1:{otlp_port}",
            },
            servers={IDLE: socket},
            otlp=OtlpCollector("127.0.0.1", otlp_port),
            listeners=MoreListeners(samplings=(RARELY, ALWAYS)),
        )
        bench = await parts.enter_async_context(
            running_bench_stack(
                (engine,), workers=1, envoy_threads=1, run=run, policies=POLICIES, extras=extras
            )
        )
        await _limit(bench, ("limited", "window"))
        await until_compiled(bench.urls[engine], bench.keys)
        yield FeatureStack(bench, idle.pid)


async def _exists(path: Path) -> bool:
    return await asyncio.to_thread(path.exists)


async def _limit(bench: BenchStack, names: tuple[str, ...]) -> None:
    """Set limits, and a price: without one the budget would have nothing to count.

    Workers read prices every ten seconds; the warm-up takes longer.
    """
    price = Price(
        model=MODEL,
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        input=Decimal("0.15"),
        output=Decimal("0.60"),
    )
    async with connect(PostgresSettings(dsn=bench.dsn)) as connection:
        await set_prices(connection, [price])
        for name in names:
            key_id = bench.keys[name].get_secret_value().split("_")[1]
            await change_limits(connection, Owner(Level.KEY, key_id), _limits)


def _limits(before: OwnedLimits) -> tuple[Limit, ...]:
    return tuple(
        parse_limit(words, level=Level.KEY, owner=before.owner_id, selectors=Selectors())
        for words in LIMITS
    )
