"""Checks the rules of alerts and delivers their messages; any number of replicas may run."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from sidecar.admin.installation.objects import AlertRouteDocument
from sidecar.admin.owners import ChangeRefusedError
from sidecar.alerts.channels import NotDeliveredError, send_message
from sidecar.alerts.outbox import (
    LEASE_SECONDS,
    AlertMessage,
    claim_messages,
    forget_old_alerts,
    mark_delivered,
    mark_failed,
    raise_alerts,
    readable_routes,
)
from sidecar.alerts.rules import CHECK_SECONDS, Alert, alerts_by_rule, budget_alerts
from sidecar.alerts.schedule import retry_delay
from sidecar.domain.alerting import AlertRule
from sidecar.settings.stores import PostgresSettings
from sidecar.settings.telemetry import AlertSettings
from sidecar.storage.pool import UNAVAILABLE, Connection, connect
from sidecar.telemetry.admin_metrics import AdminMetrics
from sidecar.telemetry.logs import get_logger, type_name

DELIVER_SECONDS: Final = 2.0
"""How often the outbox is looked at."""
AT_ONCE: Final = 8
"""Messages that a replica sends at the same time."""
_BATCHES: Final = 4
_STEP_SECONDS: Final = 120.0
"""Of a check, or of sending what is due, before the connection is taken for dead."""
# Replicas check one after the other; the rows of `alerts` decide, whatever becomes of the lock.
_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('egret_alerts', 0)), now()"


class AlertService:
    """Raises alerts by the rules, and sends messages of the outbox until they are delivered."""

    def __init__(
        self,
        postgres: PostgresSettings,
        settings: AlertSettings,
        *,
        deliver_seconds: float = DELIVER_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        metrics: AdminMetrics | None = None,
    ) -> None:
        self._postgres = postgres
        self._settings = settings
        self._deliver_seconds = deliver_seconds
        self._lease_seconds = lease_seconds
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._checked_at: dict[AlertRule, float] = {}

    async def run(self) -> None:
        """Check and deliver until stopped; every error is logged, and the step tried again."""
        async with asyncio.TaskGroup() as group:
            for step, seconds in (
                (self.check, self._settings.check_seconds),
                (self.deliver, self._deliver_seconds),
            ):
                group.create_task(self._repeat(step, seconds))

    def stop(self) -> None:
        """End `run` once messages that are being sent have their outcome: no other is begun."""
        self._stopping.set()

    async def _repeat(self, step: Callable[[Connection], Awaitable[int]], seconds: float) -> None:
        is_failing = False
        while not self._stopping.is_set():
            try:
                async with connect(self._postgres) as connection:
                    while not self._stopping.is_set():
                        async with asyncio.timeout(_STEP_SECONDS):
                            await step(connection)
                        is_failing = False
                        await self._pause(seconds)
            except Exception as error:  # noqa: BLE001 - none may end it for good, in silence
                if not is_failing:
                    get_logger().warning(
                        "alerts.interrupted", step=step.__name__, error_type=type_name(error)
                    )
                is_failing = True
                await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def check(self, connection: Connection) -> int:
        """Raise the alerts of all rules in one transaction, and return the number of new ones.

        Does nothing while another replica does it, and raises nothing while there is no route: an
        alert is raised once, and the first route would not have it. A route that this version
        cannot read is logged each time, and left out.

        Raises:
            One of `UNAVAILABLE`.
        """
        checked_at: dict[AlertRule, float] = {}
        async with connection.transaction():
            ((is_ours, now),) = await connection.fetch(_LOCK)
            if not is_ours:
                return 0
            await forget_old_alerts(connection)
            routes, unreadable = await readable_routes(connection)
            for name in unreadable:
                get_logger().warning("alerts.route_unreadable", route=name)
            if not routes:
                return 0
            alerts: list[Alert] = []
            for rule, seconds in CHECK_SECONDS.items():
                began = time.monotonic()
                if began - self._checked_at.get(rule, -seconds) >= seconds:
                    alerts += await self._found(connection, rule, now.timestamp())
                    checked_at[rule] = began
            raised = await raise_alerts(connection, alerts, routes, now=now)
        self._checked_at |= checked_at  # once it is committed: else they are checked again
        if raised:
            get_logger().info("alerts.raised", alerts=raised)
        return raised

    @staticmethod
    async def _found(connection: Connection, rule: AlertRule, now: float) -> list[Alert]:
        """Return the alerts of a rule; one that fails is logged and holds no other up."""
        try:
            async with connection.transaction():
                if rule is AlertRule.BUDGET_THRESHOLD:
                    return await budget_alerts(connection, now=now)
                return await alerts_by_rule(connection, rule)
        except (*UNAVAILABLE, ChangeRefusedError) as error:
            if connection.is_closed():
                raise
            get_logger().warning(
                "alerts.rule_failed", rule=rule.value, error_type=type_name(error)
            )
            return []

    async def deliver(self, connection: Connection) -> int:
        """Send the messages that are due, some at the same time, and return their number.

        Raises:
            One of `UNAVAILABLE`: a message whose outcome is not stored is sent again.
        """
        count = 0
        for _ in range(_BATCHES):
            if self._stopping.is_set():
                break
            readable, unreadable = await readable_routes(connection)
            routes = {one.name: one for one in readable}
            messages = await claim_messages(
                connection,
                limit=AT_ONCE,
                lease_seconds=self._lease_seconds,
                unreadable=unreadable,
            )
            # One of a route that came since then is taken again when its lease has ended.
            sending = [
                self._send(one, routes[one.route]) for one in messages if one.route in routes
            ]
            for sent in asyncio.as_completed(sending):
                message, reason = await sent
                if self._metrics is not None:
                    self._metrics.alert_sent(is_delivered=reason is None)
                if reason is None:
                    await mark_delivered(connection, message)
                    continue
                delay = retry_delay(message.attempts, jitter=random.random())  # noqa: S311 - no secret
                gave_up = await mark_failed(connection, message, reason, retry_in=delay)
                get_logger().warning(
                    "alerts.not_delivered",
                    route=message.route,
                    message_id=message.id,
                    attempts=message.attempts,
                    reason=reason,
                    gave_up=gave_up,
                )
            count += len(messages)
            if not messages:
                break
        return count

    async def _send(
        self, message: AlertMessage, route: AlertRouteDocument
    ) -> tuple[AlertMessage, str | None]:
        """Return the message with the reason for which it was not delivered, None if it was."""
        try:
            await send_message(message, route, self._settings)
        except NotDeliveredError as error:
            return message, error.reason
        except Exception as error:  # noqa: BLE001 - of a library: it must not stop other messages
            return message, type_name(error)
        return message, None
