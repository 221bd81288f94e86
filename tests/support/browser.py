"""A headless Chromium, spoken to by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import aiohttp

START_SECONDS: Final = 60.0
WAIT_SECONDS: Final = 60.0
MAX_MESSAGE_BYTES: Final = 32 * 1024**2
WIDTH, HEIGHT = 1280, 690


class Tab:
    """One page, and all that it asked for and complained about."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self._socket = socket
        self._session: str | None = None
        self._sent = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def open(self) -> None:
        """Make the page and listen to it."""
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._call(f"{domain}.enable")
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        await self._call("Emulation.setDeviceMetricsOverride", **size)

    async def go(self, url: str) -> None:
        """Load a page."""
        await self._call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def tell(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        answer = await self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not await self.tell(expression):
            assert time.monotonic() < deadline, expression
            await asyncio.sleep(0.1)

    async def picture(self) -> bytes:
        """Return what the page looks like, as PNG."""
        answer = await self._call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    async def listen(self) -> None:
        """Take what comes, for ever."""
        async for message in self._socket:
            self._take(cast("dict[str, Any]", message.json()))

    def _take(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case None:
                self._answers.pop(told["id"]).set_result(told)
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case _:
                pass

    async def _call(self, method: str, **params: object) -> dict[str, Any]:
        self._sent += 1
        answer = self._answers[self._sent] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        async with asyncio.timeout(WAIT_SECONDS):
            told = await answer
        assert "error" not in told, told["error"]
        return cast("dict[str, Any]", told["result"])


@asynccontextmanager
async def running_browser(program: str) -> AsyncIterator[Tab]:
    """Run Chromium with one empty page."""
    with tempfile.TemporaryDirectory(
        prefix="egret-browser-", ignore_cleanup_errors=True
    ) as profile:
        process = await asyncio.create_subprocess_exec(
            program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            address = await _address(Path(profile) / "DevToolsActivePort")
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(address, max_msg_size=MAX_MESSAGE_BYTES) as socket,
            ):
                tab = Tab(socket)
                listening = asyncio.ensure_future(tab.listen())
                await tab.open()
                yield tab
                listening.cancel()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _address(file: Path) -> str:
    """Return where it listens, which it writes once it does."""
    async with asyncio.timeout(START_SECONDS):
        while not file.exists() or file.read_text().count("\n") < 1:  # noqa: ASYNC110, ASYNC240 - a file of another process
            await asyncio.sleep(0.05)
    port, path = file.read_text().split()  # noqa: ASYNC240 - as above
    return f"ws://127.0.0.1:{port}{path}"
