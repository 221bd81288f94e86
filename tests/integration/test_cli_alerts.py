"""`egret alerts` beside a service on a real database."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from sidecar.storage.pool import connect
from tests.support.alerts import SECRET, AlertReceiver, leak, route_text, secrets_of, service
from tests.support.command_line import Egret
from tests.support.postgres import Database


def apply(egret: Egret, directory: Path, text: str) -> None:
    file = directory / "alerts.yaml"
    file.write_text(text, encoding="utf-8")
    ran = egret("apply", "-f", str(file), "--yes", "--no-wait")
    assert ran.code == 0, ran.err


def test_routes_are_listed_without_secrets(egret: Egret, tmp_path: Path) -> None:
    apply(egret, tmp_path, route_text(more="severity: critical\nquiet_hours: 22:00-07:00\n"))

    listed = egret("alerts", "list")
    (found,) = egret("alerts", "list", "--output", "json").json

    assert listed.lines[1] == "ops|yes|webhook|-|critical|-|22:00-07:00|-"
    assert (found["name"], found["secret"]) == ("ops", "file:ops")


def test_a_history_of_an_organization_that_is_not_there_is_an_error(egret: Egret) -> None:
    ran = egret("alerts", "history", "--org", "nope")

    assert ran.code == 1
    assert ran.err == (
        "error: there is no organization nope; create it with `egret orgs create`\n"
    )


def test_a_test_that_is_not_sent_says_to_run_the_service(egret: Egret, tmp_path: Path) -> None:
    apply(egret, tmp_path, route_text())

    ran = egret("alerts", "test", "ops", "--wait", "0")
    unknown = egret("alerts", "test", "oops")

    assert (ran.code, unknown.code) == (1, 1)
    assert "check that `egret admin` or `egret alerts run` runs on this database" in ran.err
    assert "there is no alert route oops; see `egret alerts list`" in unknown.err


def test_a_test_waits_until_the_service_has_delivered_it(
    egret: Egret, database: Database, tmp_path: Path
) -> None:
    """And reports the reason if it is not delivered."""
    receiver = AlertReceiver()
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with receiver.listening():
            alerts = service(database.settings, secrets_of(tmp_path, "ops"))
            running = asyncio.ensure_future(alerts.run())
            ready.set()
            await asyncio.to_thread(done.wait)
            alerts.stop()
            await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        apply(egret, tmp_path, route_text(url=receiver.url))
        delivered = egret("alerts", "test", "ops", "-o", "json")
        receiver.status = 410
        refused = egret("alerts", "test", "ops")
    finally:
        done.set()
        thread.join()
    history = egret("alerts", "history", "--since", "1h")

    assert delivered.code == 0, delivered.err
    assert delivered.json["route"] == "ops"
    assert delivered.err == f"The test was delivered: {delivered.json['message_id']}.\n"
    assert "error: the test was not delivered (status_410)" in refused.err
    assert "its secret where `egret admin` or `egret alerts run` runs" in refused.err
    assert [line.split("|")[2:6] for line in history.lines[1:]] == [
        ["test", "Test of route ops", "ops", "retried"],
        ["test", "Test of route ops", "ops", "delivered"],
    ]


def test_the_command_raises_and_sends_until_it_is_stopped(
    database: Database, tmp_path: Path, egret: Egret
) -> None:
    """As an operator runs it: settings and secrets are in its environment."""
    receiver = AlertReceiver()

    async def facts() -> None:
        async with receiver.listening(), connect(database.settings) as connection:
            apply_text = route_text(url=receiver.url).replace("file:ops", "env:ALERT_OPS")
            await asyncio.to_thread(apply, egret, tmp_path, apply_text)
            await leak(connection, "strict")
            process = subprocess.Popen(  # noqa: ASYNC220 - it outlives this loop's wait
                [sys.executable, "-m", "sidecar", "alerts", "run"],
                env={
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "EGRET_POSTGRES__DSN": database.dsn,
                    "EGRET_POSTGRES__ACQUIRE_SECONDS": "20",
                    "EGRET_ALERTS__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
                    "EGRET_ALERTS__CHECK_SECONDS": "1",
                    "ALERT_OPS": SECRET,
                },
                stderr=subprocess.PIPE,
            )
            for _ in range(600):
                if receiver.bodies:
                    break
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            _, lines = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, lines
        assert b'"event":"alerts.started"' in lines
        assert SECRET.encode() not in lines

    asyncio.run(facts())
    assert receiver.alerts() == ["strict secrets user"]
