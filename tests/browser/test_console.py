"""The console in a headless Chromium, on a whole stack: `make console-test`."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from egret_tools.devstack.console import login_link
from egret_tools.devstack.run_directory import run_directory
from egret_tools.devstack.stack import StackFacts, StackOptions, running_stack
from playwright.async_api import Browser, Page, async_playwright, expect

from sidecar.admin.keys import create_key
from sidecar.admin.owners import Rules
from sidecar.keys.credentials import generate
from sidecar.keys.scopes import Scopes
from sidecar.storage.usage_store import set_prices
from sidecar.usage.prices import Price
from sidecar.worker.usage import PRICES_SECONDS as READ_SECONDS

pytestmark = [
    pytest.mark.stack,
    pytest.mark.long,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]

expect.set_options(timeout=90_000)  # workers compile a new policy first

DESK: Final = {"width": 1280, "height": 800}
PHONE: Final = {"width": 390, "height": 844}
SERIOUS: Final = {"serious", "critical"}
CHAT: Final = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "mail bob@example.com"}],
}
OK: Final = 200
REQUESTS: Final = 30
PRICES_SECONDS: Final = 31
"""Workers may count with prices that were read half a minute ago; pictures show costs."""
PAGES: Final = [
    "/", "/usage?by=model", "/keys", "/keys/new", "/keys/{key}", "/organizations",
    "/organizations/heron", "/organizations/heron/teams/checkout",
    "/organizations/heron/teams/checkout/keys/new", "/limits", "/policies", "/policies/demo",
    "/policies/demo/edit", "/policies/demo/versions/1", "/prices", "/findings",
    "/findings?by=team", "/tokens", "/audit", "/doctor",
    "/alerts", "/no-such-page", "/login", "/login/link?token=none",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """A browser's page, all that it requested, and all that it complained about."""

    page: Page
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Console:
    """A stack with its console, and a browser."""

    facts: StackFacts
    browser: Browser
    pictures: Path | None

    @property
    def url(self) -> str:
        """Return the console's address."""
        assert self.facts.console_url is not None
        return self.facts.console_url

    @asynccontextmanager
    async def window(self, *, signed_in: bool = True, **options: Any) -> AsyncIterator[Window]:
        """Open a window of its own; in the end it has complained of nothing."""
        context = await self.browser.new_context(
            base_url=self.url, **{"viewport": DESK, **options}
        )
        context.set_default_timeout(90_000)  # a busy machine compiles slowly
        page = await context.new_page()
        window = Window(page)
        page.on("request", lambda one: window.requested.append(one.url))
        page.on("pageerror", lambda one: window.complaints.append(str(one)))
        page.on(
            "console",
            lambda one: window.complaints.append(one.text) if one.type == "error" else None,
        )
        try:
            if signed_in:
                await self.sign_in(page)
            yield window
            assert [one for one in window.complaints if "status of 4" not in one] == []
            assert {urlsplit(url).netloc for url in window.requested} == {
                urlsplit(self.url).netloc
            }
        finally:
            await context.close()

    async def sign_in(self, page: Page) -> None:
        """Use a one-time link as `egret up` prints it."""
        await page.goto(await login_link(self.facts.postgres_dsn, self.url))
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("heading", name="Overview", exact=True)).to_be_visible()
        await page.wait_for_load_state()  # its scripts run: keys and charts work

    async def status_of_request(self, key: str) -> int:
        """Send a chat request through Envoy."""
        async with aiohttp.ClientSession() as client:
            url = f"{self.facts.url}/v1/chat/completions"
            headers = {"authorization": f"Bearer {key}"}
            async with client.post(url, json=CHAT, headers=headers) as answer:
                return answer.status

    async def picture(self, page: Page, name: str) -> None:
        """Draw the page for the docs, if asked."""
        if self.pictures is not None:
            await page.screenshot(path=str(self.pictures / f"console-{name}.png"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(pytestconfig: pytest.Config) -> AsyncIterator[Console]:
    """One stack and one browser for all tests."""
    pictures = pytestconfig.getoption("pictures")
    program = shutil.which(str(pytestconfig.getoption("browser")))
    with (
        tempfile.TemporaryDirectory(prefix="egret-console-") as parent,
        run_directory(Path(parent) / "run") as run,
    ):
        async with (
            running_stack(StackOptions(console=True), run=run) as stack,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(
                executable_path=program, args=["--no-sandbox"]
            )
            made = Console(stack.facts, browser, Path(pictures) if pictures else None)
            await _send_requests(made)
            yield made
            await browser.close()


async def _send_requests(console: Console) -> None:
    """Make some usage with a price, and wait until it is recorded."""
    connection = await asyncpg.connect(console.facts.postgres_dsn)
    try:
        price = Price(
            model="gpt-*",
            valid_from=datetime(2026, 1, 1, tzinfo=UTC),
            input=Decimal(3000),
            output=Decimal(9000),
        )
        await set_prices(connection, [price])
        keys = [console.facts.key.get_secret_value()]
        for team in ("heron/checkout", "ibis/research"):
            key = generate(secrets.token_bytes)
            scopes = Scopes(tags=("env=prod",))
            await create_key(
                connection, key, owner=(team, "web"), expires_at=None, rules=Rules(), scopes=scopes
            )
            keys.append(key.reveal())
        # A budget refuses a model at a worker that has not read its price yet.
        await asyncio.sleep(READ_SECONDS + 1 if console.pictures is None else PRICES_SECONDS)
        for number in range(REQUESTS):
            assert await console.status_of_request(keys[number % len(keys)]) == OK
        async with asyncio.timeout(60):
            recorded = "SELECT sum(requests) FROM usage_by_hour"
            while (await connection.fetchval(recorded) or 0) < REQUESTS:  # noqa: ASYNC110 - by a worker
                await asyncio.sleep(0.2)
    finally:
        await connection.close()


async def test_a_newcomer_sets_up_a_team_with_a_budget_and_a_policy(console: Console) -> None:
    """The steps of docs/console.md, one after the other."""
    async with console.window() as window:
        page = window.page
        await page.get_by_role("link", name="Organizations").click()
        await page.get_by_text("Create an organization").click()
        await page.get_by_label("Name", exact=True).fill("acme")
        await console.picture(page, "organizations")
        await page.get_by_role("button", name="Create").click()
        await page.get_by_label("Team", exact=True).fill("search")
        await page.get_by_label("Policy", exact=True).first.select_option("demo")
        await page.get_by_label("Budget a month").fill("250")
        await console.picture(page, "team-new")
        await page.get_by_role("button", name="Create the team").click()
        await expect(page.get_by_text("cost/month=250.00")).to_be_visible()
        await console.picture(page, "team")
        await page.get_by_role("link", name="Create a key").click()
        await page.get_by_label("Name", exact=True).fill("laptop")
        await page.get_by_role("button", name="Create the key").click()
        secret = await page.locator("#secret").inner_text()
        assert secret not in page.url
        await page.evaluate(
            "document.querySelector('#secret').textContent = 'egk_' + '•'.repeat(40)"
        )
        await console.picture(page, "key-new")

    assert await console.status_of_request(secret) == OK


async def test_every_page_passes_axe_on_a_desk_and_on_a_phone(console: Console) -> None:
    key_id = console.facts.key.get_secret_value().removeprefix("egk_")[:12]
    for size, scheme in ((DESK, "light"), (PHONE, "dark")):
        async with console.window(viewport=size, color_scheme=scheme) as window:
            for path in PAGES:
                await window.page.goto(path.format(key=key_id))
                found = await Axe().run(window.page)
                grave = [one for one in found.response["violations"] if one["impact"] in SERIOUS]
                assert grave == [], (path, scheme)
                overflow = await window.page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert overflow <= 0, (path, size)
    async with console.window(color_scheme="light") as window:
        for path, name in (("/", "overview"), ("/limits", "limits")):
            await window.page.goto(path)
            await console.picture(window.page, name)


async def test_a_revoked_key_is_watched_until_every_worker_refuses_it(console: Console) -> None:
    async with console.window() as window:
        page = window.page
        await page.goto("/organizations/ibis/teams/research/keys/new")
        await page.get_by_label("Name", exact=True).fill("lost-laptop")
        await page.get_by_role("button", name="Create the key").click()
        secret = await page.locator("#secret").inner_text()
        assert await console.status_of_request(secret) == OK
        await page.get_by_role("link", name="Go to the key").click()
        await page.get_by_text("Revoke for good").click()
        await page.get_by_role("button", name="Revoke lost-laptop").click()
        await expect(page.get_by_text("In force in all 2 workers.")).to_be_visible()
        await console.picture(page, "revoked")

    assert await console.status_of_request(secret) == 401


async def test_a_key_is_rotated_with_an_overlap(console: Console) -> None:
    async with console.window() as window:
        page = window.page
        await page.goto("/organizations/ibis/teams/research/keys/new")
        await page.get_by_label("Name", exact=True).fill("service")
        await page.get_by_role("button", name="Create the key").click()
        old = await page.locator("#secret").inner_text()
        await page.get_by_role("link", name="Go to the key").click()
        await page.get_by_text("Rotate: a new key in its place").click()
        await page.get_by_label("Old key stays good for").select_option("1 hour")
        await page.get_by_role("button", name="Rotate").click()
        await expect(page.get_by_text("In force in all 2 workers.")).to_be_visible()
        new = await page.locator("#secret").inner_text()

    assert [await console.status_of_request(key) for key in (old, new)] == [200, 200]


async def test_a_price_is_set_and_a_token_made_and_revoked(console: Console) -> None:
    """The token's text is on one page, and on none after it."""
    async with console.window() as window:
        page = window.page
        await page.goto("/prices")
        if not await page.get_by_label("Model").is_visible():
            await page.get_by_text("Set a price").click()
        await page.get_by_label("Model").fill("tern-*")
        await page.get_by_label("Input", exact=True).fill("2.5")
        await page.get_by_label("Output", exact=True).fill("10")
        await page.get_by_role("button", name="Set", exact=True).click()
        await expect(page.get_by_role("row", name="tern-*")).to_contain_text("$2.50")
        await page.goto("/tokens")
        await page.get_by_label("Name", exact=True).fill("deploy")
        await page.get_by_label("Organization or team").fill("heron")
        await page.get_by_role("button", name="Create the token").click()
        secret = await page.locator("#secret").inner_text()
        await page.get_by_role("link", name="All tokens").click()
        await page.get_by_role("button", name="Revoke deploy").click()
        await expect(page.get_by_role("row", name="deploy")).to_contain_text("revoked")

        assert secret.startswith("ega_")
        assert secret not in await page.content()


async def test_a_policy_is_edited_with_completion_tried_applied_and_rolled_back(
    console: Console,
) -> None:
    async with console.window() as window:
        page = window.page
        await page.goto("/policies/demo/edit")
        editor = page.get_by_label("Policy, YAML")
        await editor.press("Control+End")
        await editor.press_sequentially("\n  - name: projects\n    type: denied_te")
        await page.keyboard.press("Control+Space")
        await expect(page.get_by_role("option", name="denied_terms")).to_be_visible()
        await console.picture(page, "editor")
        await page.keyboard.press("Enter")
        await editor.press_sequentially("\n    te")
        await page.keyboard.press("Control+Space")
        await page.keyboard.press("Enter")
        await editor.press_sequentially("[falcon]\n    action: block\n")
        await page.get_by_text("Try a text with this policy").click()
        await page.get_by_label("Text", exact=True).fill("the falcon flies")
        await page.get_by_role("button", name="Judge it").click()
        await expect(page.locator("mark")).to_have_text("falcon")
        await page.get_by_role("button", name="Show the difference").click()
        await expect(page.locator(".diff .plus", has_text="falcon")).to_be_visible()
        await page.get_by_label("Reason").fill("the project is secret")
        await page.get_by_role("button", name="Apply version 2").click()
        await expect(page.get_by_text("In force in all 2 workers.")).to_be_visible()
        await page.get_by_role("button", name="Put into shadow: projects").click()
        await expect(page.get_by_role("button", name="Promote: projects")).to_be_visible()
        await page.get_by_role("button", name="Roll back to version 1").click()
        await expect(page.get_by_text("rollback to version 1")).to_be_visible()


async def test_the_keyboard_leads_to_pages_filters_and_past_the_navigation(
    console: Console,
) -> None:
    async with console.window() as window:
        page = window.page
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#main")).to_be_focused()
        await page.keyboard.press("g")
        await page.keyboard.press("k")
        await expect(page.get_by_role("heading", name="Keys")).to_be_visible()
        await page.wait_for_load_state()
        await page.keyboard.press("/")
        await expect(page.get_by_label("Organization", exact=True)).to_be_focused()
        await page.keyboard.type("heron")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/keys?organization=heron*")
        await page.get_by_role("button", name="Light or dark").click()
        await page.reload()
        assert await page.evaluate("document.documentElement.dataset.theme") == "dark"


async def test_the_overview_is_read_anew_and_its_charts_are_drawn(console: Console) -> None:
    async with console.window() as window:
        page = window.page
        await expect(page.locator("figure .uplot canvas")).to_have_count(3)
        async with page.expect_response("**/overview/live", timeout=90_000):
            await page.evaluate("htmx.trigger('#live', 'refresh')")
        await expect(page.locator("figure .uplot canvas")).to_have_count(3)


async def test_numbers_that_are_no_longer_read_say_so_and_stay(console: Console) -> None:
    async with console.window() as window:
        page = window.page
        await expect(page.locator("figure .uplot canvas")).to_have_count(3)
        await page.context.clear_cookies()
        await page.evaluate("htmx.trigger('#live', 'refresh')")
        await expect(page.get_by_text("Your session has ended")).to_be_visible()
        await expect(page.locator("#live .cards")).to_be_visible()
        await expect(page.get_by_role("heading", name="Sign in to Egret")).to_have_count(0)
        await page.evaluate("usedAt = 0; htmx.trigger('#live', 'refresh')")
        await expect(page.get_by_text("once you use the page again")).to_be_visible()


async def test_everything_works_without_javascript(console: Console) -> None:
    async with console.window(java_script_enabled=False) as window:
        page = window.page
        await page.goto("/organizations/ibis")
        await page.get_by_text("Create a team").click()
        await page.get_by_label("Team", exact=True).fill("field")
        await page.get_by_role("button", name="Create the team").click()
        await expect(page.get_by_role("heading", name="ibis/field")).to_be_visible()
        await page.get_by_text("Disable", exact=True).click()
        await page.get_by_role("button", name="Disable field").click()
        await page.get_by_role("link", name="Watch it reach the workers").click()
        await expect(page.get_by_text(re.compile("workers"))).to_be_visible()


async def test_a_session_that_expires_in_mid_edit_loses_nothing(console: Console) -> None:
    async with console.window() as window:
        page = window.page
        await page.goto("/policies/demo/edit")
        editor = page.get_by_label("Policy, YAML")
        await editor.press("Control+End")
        await editor.press_sequentially("\n# hours of work\n")
        connection = await asyncpg.connect(console.facts.postgres_dsn)
        await connection.execute("DELETE FROM admin_sessions")
        await connection.close()
        await page.get_by_role("button", name="Show the difference").click()
        await expect(page.get_by_role("heading", name="Sign in again")).to_be_visible()
        other = await page.context.new_page()
        await console.sign_in(other)
        for _ in range(2):  # the first shows the text with the new session's token
            await page.get_by_role("button", name="Send again").click()
        await expect(page.get_by_label("Policy, YAML")).to_have_value(
            re.compile("# hours of work")
        )
