"""What requests used, as a part of a worker: from the access log to the disk to the database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.app.background import BackgroundTasks
from sidecar.domain.usage import JudgedRequest
from sidecar.server.engine import ReceiveLog
from sidecar.settings.process import Settings
from sidecar.settings.stores import UsageSource
from sidecar.storage.pool import Pool
from sidecar.storage.spool_files import SpoolLimits
from sidecar.storage.usage_delivery import UsageDelivery
from sidecar.storage.usage_spool import UsageSpool
from sidecar.storage.usage_store import PostgresUsage
from sidecar.telemetry.usage_metrics import UsageMetrics
from sidecar.transport.access_log_receiver import AccessLogReceiver
from sidecar.usage.ports import EndedListener, GivenVerdicts, UsageNotes
from sidecar.usage.unnamed_ends import UnnamedEnds

if TYPE_CHECKING:
    from sidecar.storage.valkey_ends import ValkeyEnds


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """`receive_log` is None where nobody is to send a log."""

    notes: UsageNotes
    verdicts: GivenVerdicts
    receive_log: ReceiveLog | None


class _NoNotes:
    """Notes nothing, and remembers nothing."""

    def note(self, request: JudgedRequest) -> None:
        del request

    def given(self, stream: str, request: JudgedRequest) -> None:
        del stream, request


async def open_usage(  # noqa: PLR0913 - each is a part of its own
    settings: Settings,
    pool: Pool,
    *,
    metrics: UsageMetrics,
    listeners: Sequence[EndedListener],
    instance: str,
    stack: AsyncExitStack,
) -> WorkerUsage:
    """Open the spool, to be closed with *stack*, and deliver from now on.

    Metrics and *listeners* hear of every exchange that ends.

    Raises:
        SpoolError: there is no place for it.
    """
    if settings.usage.source is UsageSource.OFF:
        return WorkerUsage(_NoNotes(), _NoNotes(), None)
    spool = await UsageSpool.open(
        settings.usage.spool_directory.absolute(),
        instance=instance,
        limits=SpoolLimits(max_bytes=settings.usage.spool_max_bytes),
        on_note_lost=lambda: metrics.lost("note"),
    )
    store = PostgresUsage(pool, settings.postgres, batch_seconds=settings.usage.batch_seconds)
    delivery = UsageDelivery(spool, store, metrics, settle_seconds=settings.usage.settle_seconds)
    stack.push_async_callback(delivery.aclose)
    tasks = await stack.enter_async_context(BackgroundTasks())
    tasks.start(delivery.run(), name="usage")
    everybody = [metrics, *listeners]
    others = _other_workers(settings)
    unnamed = UnnamedEnds(
        delivery,
        everybody,
        others=others,
        clock=time.monotonic,
        on_found=metrics.verdict_unheard,
    )
    if others is not None:
        tasks.start(others.run_telling(), name="ends told")
        tasks.start(others.run_hearing(unnamed.hear_of_others), name="ends heard")
    receiver = AccessLogReceiver(
        delivery,
        everybody,
        unnamed=unnamed,
        on_unreadable=lambda count: metrics.lost("unreadable_log", count),
        on_unnamed=metrics.ends_unnamed,
    )
    return WorkerUsage(spool, unnamed, receiver.receive)


def _other_workers(settings: Settings) -> ValkeyEnds | None:
    """Without Valkey a worker tells nobody: limits are each worker's own share then, too."""
    if settings.valkey.url is None:
        return None
    # As for keys: a worker without Valkey never loads its client.
    from sidecar.storage.valkey_ends import ValkeyEnds  # noqa: PLC0415

    return ValkeyEnds(settings.valkey)
