"""The status page in a headless Chromium: `make status-page-test`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from egret_tools.devstack.run_directory import run_directory
from egret_tools.devstack.stack import StackFacts, StackOptions, running_stack
from prometheus_client import Counter

from dashboards.set_up import set_up
from dashboards.traffic import Gateway, mixed_requests
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.endpoint import MetricsEndpoint
from sidecar.telemetry.process_metrics import WorkerMetrics
from tests.support.browser import Tab, running_browser

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

CHARTS = [
    "outcomes",
    "overhead_ms",
    "errors",
    "guardrails",
    "tiers",
    "limits",
    "providers",
    "faults",
]
LEGENDS = """
    Object.fromEntries([...document.querySelectorAll("section")].map((one) =>
        [one.id, [...one.querySelectorAll("li")].map((item) => item.textContent)]))
"""
SUMMARY = """
    Object.fromEntries([...document.querySelectorAll("#summary div")].map((one) =>
        [...one.children].map((child) => child.textContent)))
"""
LOOKED = """
    performance.getEntriesByType("resource").some((one) => one.name.includes("status.json"))
"""
WATCH = """
    window.blocked = [];
    document.addEventListener("securitypolicyviolation",
        (one) => window.blocked.push(one.effectiveDirective));
"""
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


async def _names(tab: Tab, chart: str) -> set[str]:
    legends: dict[str, list[str]] = await tab.tell(LEGENDS)
    return {entry.rpartition(" ")[0] for entry in legends[chart]}


async def _send(facts: StackFacts, keys: dict[str, str], seconds: float) -> None:
    async with (
        aiohttp.ClientSession(facts.mock_debug_url) as debug,
        aiohttp.ClientSession() as client,
    ):
        (await debug.post("/delay", json={"ms": 40, "event_ms": 5})).raise_for_status()
        tls = ssl.create_default_context(cafile=str(facts.ca_file))
        gateway = Gateway(client, facts.https_url, tls, keys)
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        seed = 0
        while loop.time() < ends_at:
            seed += 1
            await mixed_requests(gateway, seed=seed)
            await asyncio.sleep(0.3)


async def test_the_page_draws_what_a_live_stack_does(
    chromium: str, pictures: Path, tmp_path: Path
) -> None:
    """Every chart of a run of every kind of request; the browser has nothing to complain about."""
    with run_directory(tmp_path / "run") as run:
        async with (
            running_stack(StackOptions(), run=run) as stack,
            running_browser(chromium) as tab,
        ):
            keys = await set_up(stack.facts.postgres_dsn, log=run.logs / "workers.log")
            place = f"http://{urlsplit(stack.facts.metrics_url).netloc}"
            await tab.go(f"{place}/status")
            sending = asyncio.ensure_future(_send(stack.facts, keys, 45))
            await asyncio.sleep(42)
            summary: dict[str, str] = await tab.tell(SUMMARY)
            names = {chart: await _names(tab, chart) for chart in CHARTS}
            drawn: list[int] = await tab.tell(
                "[...document.querySelectorAll('.series')].map((one) => one.getTotalLength())"
            )
            image = await tab.picture()
            await sending

    assert summary["workers"] == "2 of 2"
    assert float(summary["requests"].removesuffix("/s")) > 5
    assert summary["own time, p95"].endswith(" ms")
    assert {"allowed", "redacted", "refused", "flagged"} <= names["outcomes"]
    assert {"p50", "p95", "p99"} <= {name.split()[0] for name in names["overhead_ms"]}
    assert {"pii redact", "words block", "hook error_open"} <= names["guardrails"]
    assert "l1" in names["tiers"]
    assert {"granted shared", "refused shared"} <= names["limits"]
    assert any(name.startswith("openai") for name in names["providers"])
    assert names["errors"] >= {"invalid_api_key"}
    assert min(drawn) > 0
    assert tab.complaints == []
    assert {urlsplit(url).netloc for url in tab.requested} == {urlsplit(place).netloc}
    (pictures / "status-page.png").write_bytes(image)


class Counted:
    """An endpoint that counts under a name that somebody chose."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.endpoint = MetricsEndpoint(
            WorkerMetrics(folder), TelemetrySettings(metrics_port=port)
        )
        self.port = self.endpoint.port
        labels = ["guardrail", "type", "verdict", "action", "mode", "stage"]
        verdicts = Counter(
            "egret_guardrail_verdicts", "of guardrails", labels, registry=self.endpoint.registry
        )
        self.verdict = verdicts.labels(HOSTILE, "pii", "block", "block", "enforce", "input")


@contextmanager
def _counted(folder: Path, port: int = 0) -> Iterator[Counted]:
    counted = Counted(folder, port)
    counted.endpoint.start()
    try:
        yield counted
    finally:
        counted.endpoint.close()


async def test_a_name_is_shown_as_text_whatever_is_in_it(chromium: str, tmp_path: Path) -> None:
    """A policy's author cannot run a script at whoever looks."""
    with _counted(tmp_path) as counted:
        async with running_browser(chromium) as tab:
            await tab.go(f"http://localhost:{counted.port}/status")
            await tab.until(LOOKED)
            counted.verdict.inc(40)
            await tab.until(
                "document.querySelector('#guardrails li')?.textContent.includes('<script>')"
            )
            shown = await _names(tab, "guardrails")
            title = await tab.tell("document.title")
            made = await tab.tell("document.querySelectorAll('img, section script').length")

    assert shown == {f"{HOSTILE} block"}
    assert (title, made) == ("Egret", 0)
    assert tab.complaints == []


_MADE = "let one = document.createElement({0!r}); one.{1}; document.body.append(one)".format
ELSEWHERE = "http://127.0.0.2:1/x"
BREAKS = {
    "a script within the page": _MADE("div", "setAttribute('onclick', '1')") + "; one.click()",
    "a script of somebody else": _MADE("script", f"setAttribute('src', '{ELSEWHERE}')"),
    "an image": _MADE("img", f"src = '{ELSEWHERE}?all=data'"),
    "a call": f"fetch('{ELSEWHERE}').catch(() => null)",
    "a style": f"document.body.setAttribute('style', 'background: url({ELSEWHERE})')",
    "markup": "document.body.innerHTML = '<b>x</b>'",
}


@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS.keys())
async def test_the_browser_itself_forbids_what_the_page_does_not_need(
    chromium: str, tmp_path: Path, script: str
) -> None:
    """Should somebody get something into the page all the same."""
    with _counted(tmp_path) as counted:
        async with running_browser(chromium) as tab:
            await tab.go(f"http://localhost:{counted.port}/status")
            await tab.tell(f"{WATCH}; void 0")
            await tab.tell(f"try {{ {script} }} catch {{ }}; void 0")
            await tab.until("window.blocked.length > 0")
            title = await tab.tell("document.title")

    assert title == "Egret"


async def test_a_page_says_that_nobody_answers_and_goes_on_with_the_next_supervisor(
    chromium: str, tmp_path: Path
) -> None:
    """What is shown then is old; numbers begin anew afterwards."""
    hidden: Any = "document.getElementById('problem').hidden"
    points = "document.querySelectorAll('#guardrails .series').length"
    async with running_browser(chromium) as tab:
        with _counted(tmp_path / "one") as counted:
            port = counted.port
            await tab.go(f"http://127.0.0.1:{port}/status")
            await tab.until(LOOKED)
            counted.verdict.inc()
            await tab.until(f"{points} === 1")
            assert await tab.tell(hidden)
        await tab.until(f"!{hidden}")
        with _counted(tmp_path / "two", port):
            await tab.until(hidden)
            await tab.until(f"{points} === 0")
