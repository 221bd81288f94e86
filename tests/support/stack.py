"""The whole stack for tests: send a request, then see all that came of it, on every side.

What the client was answered, what reached the provider, what was counted, and what Envoy logged.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from egret_tools.devstack.demo_setup import ORGANIZATION, TEAM
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from egret_tools.devstack.stack import StackFacts, StackOptions, running_stack
from multidict import CIMultiDict, CIMultiDictProxy
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from sidecar.admin.keys import create_key
from sidecar.admin.owners import Rules, create_organization, create_team
from sidecar.keys.credentials import ApiKey, generate
from sidecar.keys.scopes import Scopes
from sidecar.policy.parse import parse_documents
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect
from sidecar.storage.postgres_policies import apply_policy, load_policy
from sidecar.telemetry.logs import MAX_ITEMS
from tests.support.rotel import Rotel, Span, running_rotel

CHAT: Final = "/v1/chat/completions"
MESSAGES: Final = "/v1/messages"
PATIENCE_SECONDS: Final = 60.0
COMPILE_PATIENCE_SECONDS: Final = 240.0
"""A process of its own compiles policies, and gives way to everything else on the machine."""
POLL_SECONDS: Final = 0.02
QUIET_SECONDS: Final = 0.1

Body = bytes | object
HeaderPairs = Iterable[tuple[str, str]]


def chat(content: object, **more: object) -> dict[str, object]:
    """Return a request in OpenAI's terms."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **more}


def message(content: object, **more: object) -> dict[str, object]:
    """Return a request in Anthropic's terms."""
    return {"max_tokens": 16, **chat(content, **more), "model": "claude-mock"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client was answered."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return orjson.loads(self.body)

    @property
    def request_id(self) -> str:
        """Under which name logs and spans know the request."""
        return self.headers["x-egret-request-id"]

    @property
    def openai_error(self) -> tuple[int, str, str]:
        """Status, `type` and `code` of OpenAI's error object, which has just these fields."""
        error = self.json["error"]
        assert set(self.json) == {"error"}
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return self.status, error["type"], error["code"]

    @property
    def anthropic_error(self) -> tuple[int, str]:
        """Status and `type` of Anthropic's error object, which has just these fields and an id."""
        error = self.json["error"]
        assert (set(self.json) - {"request_id"}, self.json["type"]) == ({"type", "error"}, "error")
        assert set(error) == {"type", "message"}
        assert error["message"]
        return self.status, error["type"]


@dataclass(frozen=True, slots=True)
class Received:
    """A request as the provider received it."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for key, value in self.headers if key == name]

    @property
    def framing(self) -> dict[str, list[str]]:
        """How the end of the body is told; the two ways must never be mixed."""
        names = ("content-length", "transfer-encoding")
        return {name: self.all(name) for name in names if self.all(name)}


@dataclass
class Counted:
    """What the metrics counted, by label values; filled when the block has ended."""

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By outcome, operation and error."""
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By guardrail and verdict."""
    unscanned: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By reason and action."""
    faults: Counter[str] = field(default_factory=Counter)
    """By kind."""
    reload_failures: int = 0
    in_flight: int = 0
    """Exchanges that have not ended; no difference."""

    def __sub__(self, before: Counted) -> Counted:
        """Return what was counted since."""
        return Counted(
            self.outcomes - before.outcomes,
            self.verdicts - before.verdicts,
            self.unscanned - before.unscanned,
            self.faults - before.faults,
            self.reload_failures - before.reload_failures,
        )


_LABELS: Final = {
    "egret_exchanges_total": ("outcome", "operation", "error"),
    "egret_guardrail_verdicts_total": ("guardrail", "verdict"),
    "egret_unscanned_total": ("reason", "action"),
}
_READ: Final = (
    *_LABELS,
    "egret_exchange_faults_total",
    "egret_in_flight_exchanges",
    "egret_policy_reload_failures_total",
)


def _counted(exposition: str) -> Counted:
    found = Counted()
    by_name = {
        "egret_exchanges_total": found.outcomes,
        "egret_guardrail_verdicts_total": found.verdicts,
        "egret_unscanned_total": found.unscanned,
    }
    # The whole page has thousands of lines, and the parser takes most of a short test's time.
    lines = [line for line in exposition.splitlines(keepends=True) if line.startswith(_READ)]
    for family in text_string_to_metric_families("".join(lines)):
        for sample in family.samples:
            if sample.name in by_name:
                key = tuple(sample.labels[name] for name in _LABELS[sample.name])
                by_name[sample.name][key] += int(sample.value)  # type: ignore[index] # as many labels as each key has
            elif sample.name == "egret_exchange_faults_total":
                found.faults[sample.labels["kind"]] += int(sample.value)
            elif sample.name == "egret_in_flight_exchanges":
                found.in_flight += int(sample.value)
            elif sample.name == "egret_policy_reload_failures_total":
                found.reload_failures += int(sample.value)
    return found


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack and a client of each of its sides."""

    facts: StackFacts
    run: RunDirectory
    client: aiohttp.ClientSession
    debug: aiohttp.ClientSession
    tls: ssl.SSLContext
    collector: Rotel
    workers: int
    keys: dict[str, str] = field(default_factory=dict, repr=False)

    async def post(
        self,
        body: Body,
        *,
        path: str = CHAT,
        key: str | None = None,
        headers: HeaderPairs = (),
        url: str | None = None,
    ) -> Answer:
        """Send a body with the key bound to the policy *key*, over TLS.

        Bytes go as they are, an asynchronous iterator in chunks, anything else as JSON. Without
        a key none is presented. `url` is another gateway of the same stack.
        """
        given = self.credentials(path, key, headers)
        given.setdefault("content-type", "application/json")
        raw = body if isinstance(body, bytes) or hasattr(body, "__aiter__") else as_json(body)
        data = io.BytesIO(raw) if isinstance(raw, bytes) else raw
        return await self.request("POST", path, data=data, headers=given, url=url)

    async def request(
        self,
        method: str,
        path: str,
        *,
        data: object = None,
        headers: CIMultiDict[str] | None = None,
        url: str | None = None,
    ) -> Answer:
        """Send a request as it is given."""
        target = f"{url or self.facts.https_url}{path}"
        async with self.client.request(
            method, target, data=data, headers=headers, ssl=self.tls
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    def credentials(self, path: str, key: str | None, more: HeaderPairs) -> CIMultiDict[str]:
        """Return headers that present a key as clients of the API at *path* do."""
        headers = CIMultiDict(more)
        if key is not None:
            value = self.keys.get(key, key)
            if path.startswith(MESSAGES):
                headers.add("x-api-key", value)
            else:
                headers.add("authorization", f"Bearer {value}")
        return headers

    async def received(self) -> list[Received]:
        """Return what the provider received since the last `forget`, oldest first."""
        async with self.debug.get("/requests", params={"limit": "256"}) as answer:
            return [
                Received(
                    one["method"],
                    one["path"],
                    tuple((name, value) for name, value in one["header_pairs"]),
                    base64.b64decode(one["body_base64"]),
                )
                for one in await answer.json()
            ]

    async def received_count(self) -> int:
        """Return how many requests reached the provider since the last `forget`."""
        async with self.debug.get("/count") as answer:
            count: int = (await answer.json())["count"]
            return count

    async def forget(self) -> None:
        """Make the provider forget what it received and how it was told to behave."""
        await self.debug.delete("/requests")
        await self.debug.delete("/behaviour")

    async def tell_provider(self, order: str, **values: float) -> None:
        """Set how the provider behaves from now on."""
        async with self.debug.post(f"/{order}", json=values) as answer:
            assert answer.status == 204

    async def counted(self) -> Counted:
        """Return what was counted since the start."""
        async with self.client.get(self.facts.metrics_url) as answer:
            return _counted(await answer.text())

    @asynccontextmanager
    async def counting(self, exchanges: int = 1) -> AsyncIterator[Counted]:
        """Count what happens in the block: so many exchanges, which end a little later.

        Those from before the block are waited for, unless it began with one open.
        """
        deadline = time.monotonic() + QUIET_SECONDS
        while True:
            before = await self.counted()
            if not before.in_flight or time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        # A scrape can come between an exchange's own count and those of its guardrails.
        await asyncio.sleep(POLL_SECONDS)
        before = await self.counted()
        counted = Counted()
        yield counted
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            since = (await self.counted()) - before
            if since.outcomes.total() >= exchanges or time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(POLL_SECONDS)  # as above
        since = (await self.counted()) - before
        counted.__dict__.update(since.__dict__)

    async def log_line(self, request_id: str) -> dict[str, Any]:
        """Return the line of Envoy's access log about a request; it is written a little later."""
        async for line in _lines_of(self.facts.access_log, saying=request_id):
            if line.get("egret", {}).get("request_id") == request_id:
                return line
        raise AssertionError("the access log has no such line")

    async def worker_line(self, request_id: str) -> dict[str, Any]:
        """Return a worker's line about a request that has ended."""
        async for line in _lines_of(self.facts.logs / "workers.log", saying=request_id):
            if line.get("request_id") == request_id:
                return line
        raise AssertionError("no worker has such a line")

    async def spans(self, request_id: str) -> list[Span]:
        """Return all spans of the trace a request belongs to, once Egret's own are there."""
        await self.collector.trace(_exchange_of(request_id), {"egret.exchange"})
        await asyncio.sleep(0.5)  # Envoy's own come in an export of theirs
        return await self.collector.trace(_exchange_of(request_id), {"egret.exchange"})

    async def trace(self, trace_id: str, names: set[str]) -> list[Span]:
        """Return all spans of a trace once those of these names are there."""
        return await self.collector.trace(lambda span: span["trace_id"] == trace_id, names)

    async def apply(self, policies: str) -> None:
        """Bring policies into force and wait until every worker has them."""
        settings = PostgresSettings(dsn=SecretStr(self.facts.postgres_dsn))
        before = self.policy_loads()
        versions: dict[str, int] = {}
        async with connect(settings) as connection, connection.transaction():
            for document in parse_documents(policies):
                name = document.policy.name
                stored = await load_policy(connection, name)
                known = 0 if stored is None else stored.version
                await apply_policy(
                    connection, name, document=document.text, expected_version=known
                )
                versions[name] = known + 1
        await self.every_worker_has(versions, since=before)

    def policy_loads(self) -> int:
        """Return how often workers have taken policies into force."""
        log = self.facts.logs / "workers.log"
        return sum(line.get("event") == "policies.loaded" for line in _whole_lines(log))

    async def every_worker_has(self, versions: Mapping[str, int], *, since: int) -> None:
        """Wait until each worker has these versions in force, after so many loads."""
        loaded, before = 0, since
        log = self.facts.logs / "workers.log"
        async for line in _lines_of(log, patience=COMPILE_PATIENCE_SECONDS):
            if line.get("event") != "policies.loaded":
                continue
            if before > 0:  # of what was in force before
                before -= 1
                continue
            shown = line["policies"]
            loaded += versions.items() <= shown.items() or len(shown) == MAX_ITEMS
            if loaded == self.workers:
                return

    async def new_key(
        self,
        policy: str | None,
        *,
        allowed_models: tuple[str, ...] | None = None,
        scopes: Scopes = Scopes(),  # noqa: B008 - immutable
        organization: str | None = None,
    ) -> ApiKey:
        """Create a key, with another *organization* if one is named."""
        key = generate(secrets.token_bytes)
        settings = PostgresSettings(dsn=SecretStr(self.facts.postgres_dsn))
        async with connect(settings) as connection:
            if organization is not None:
                await create_organization(connection, organization, rules=Rules())
                await create_team(connection, TEAM, organization=organization, rules=Rules())
            await create_key(
                connection,
                key,
                owner=(f"{organization or ORGANIZATION}/{TEAM}", f"k-{key.key_id.lower()}"),
                expires_at=None,
                rules=Rules(allowed_models=allowed_models, policy=policy),
                scopes=scopes,
            )
        return key


def _exchange_of(request_id: str) -> Callable[[Span], bool]:
    return lambda span: span["attributes"].get("egret.request.id") == request_id


def as_json(value: object) -> bytes:
    """Return JSON as a client writes it, blanks included."""
    return json.dumps(value, ensure_ascii=False).encode()


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file."""
    return [orjson.loads(line) for line in _ended_lines(file, 0) if line.startswith(b"{")]


def _ended_lines(file: Path, offset: int) -> Iterator[bytes]:
    """Yield the lines of a file but for a last one that is still being written."""
    if not file.exists():
        return
    with file.open("rb") as lines:
        lines.seek(offset)
        yield from (line for line in lines if line.endswith(b"\n"))


async def logged(file: Path, event: str, *, patience: float = PATIENCE_SECONDS) -> None:
    """Wait until a log tells of an event."""
    async for line in _lines_of(file, saying=event, patience=patience):
        if line.get("event") == event:
            return


async def _lines_of(
    file: Path, *, saying: str = "", patience: float = PATIENCE_SECONDS
) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON lines of a file that still grows, for as long as anybody is patient.

    What was read is not read again, and what is not sought is not parsed: by the end of a session
    a file has many megabytes.
    """
    deadline = time.monotonic() + patience
    offset = 0
    while True:
        ended = list(_ended_lines(file, offset))
        offset += sum(len(line) for line in ended)
        for line in ended:
            if line.startswith(b"{") and saying.encode() in line:
                yield orjson.loads(line)
        if time.monotonic() > deadline:
            raise AssertionError(f"{file.name} does not say what was waited for")
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def whole_stack(
    policies: str = "",
    *,
    settings: Mapping[str, str] | None = None,
    workers: int = 2,
    **options: Any,
) -> AsyncIterator[Stack]:
    """Run a stack with these policies, and a key for each of them under the policy's name."""
    async with AsyncExitStack() as parts:
        place = parts.enter_context(tempfile.TemporaryDirectory(prefix="egret-e2e-"))
        rotel = await parts.enter_async_context(running_rotel(Path(place)))
        chosen = StackOptions(
            workers=workers,
            worker_settings=settings or {},
            collector_port=rotel.grpc_port,
            **options,
        )
        run = parts.enter_context(run_directory(Path(place) / "run"))
        stack = await parts.enter_async_context(running_stack(chosen, run=run))
        tls = ssl.create_default_context(cafile=str(stack.facts.ca_file))
        client = await parts.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        debug = aiohttp.ClientSession(stack.facts.mock_debug_url)
        running = Stack(
            facts=stack.facts,
            run=run,
            client=client,
            debug=await parts.enter_async_context(debug),
            tls=tls,
            collector=rotel,
            workers=workers,
        )
        if policies:
            await running.apply(policies)
            for document in parse_documents(policies):
                name = document.policy.name
                running.keys[name] = (await running.new_key(name)).reveal()
        yield running
