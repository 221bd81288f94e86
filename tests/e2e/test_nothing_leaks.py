"""A busy run with planted keys, prompts, completions and personal data; then everything is read.

Everything: what supervisor, workers, Envoy and the databases wrote, the access log, the spans that
were received, metrics and the status page, each row of each table, Valkey, and usage on its way.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, urljoin

import pytest
import redis.asyncio
from pydantic import SecretStr

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect
from sidecar.storage.valkey_messages import MESSAGE_PREFIX
from tests.support.access_log_fields import explained
from tests.support.stack import CHAT, MESSAGES, Answer, Stack, chat, message

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_SECONDS: Final = 60.0
POLICIES: Final = (
    "redact", "block", "flag", "shadow", "free", "hidden-redact", "answers-redact",
    "answers-block", "answers-schema", "restore", "first-block",
)  # fmt: skip
HOOKS: Final = ("hook-error-allow", "hook-rubbish-block", "two-hooks")
"""One at a time, and the last one answers: a server that fails too often in a row is let alone,
and other tests ask it as well."""


def _planted(name: str) -> str:
    """Return text that is nowhere else: of letters, so that no encoding of text changes it."""
    return name + "".join(secrets.choice("bcdfghjklmnpqrstvwxz") for _ in range(12))


PROMPT = _planted("prompt")
COMPLETION = _planted("completion")
HEADER = _planted("header")
QUERY = _planted("query")
MALFORMED = _planted("malformed")
FAULT = _planted("fault")
EMAIL = f"{_planted('mail')}@example.org"
CARD = "4012 8888 8888 1881"
AWS_KEY = "AKIA" + "Q3ZT7VXW2MNB5KLQ"
TEXT = f"{PROMPT} {EMAIL}, {CARD}, {AWS_KEY} Bluebird"
PLANTS = {
    "prompt": PROMPT, "completion": COMPLETION, "header": HEADER, "query": QUERY,
    "malformed body": MALFORMED, "a provider's error": FAULT,
    "mail": EMAIL.partition("@")[0], "card": CARD, "card in one": CARD.replace(" ", ""),
    "key in a text": AWS_KEY,
}  # fmt: skip

HOSTILE_HEADERS = (
    ("traceparent", f"00-{HEADER}-{HEADER}-01"),
    ("tracestate", f"ot={HEADER},x=" + HEADER * 500),
    ("baggage", f"password={HEADER},user.email={quote(EMAIL)}"),
    ("x-request-id", HEADER),
    ("cookie", f"session={HEADER}"),
    ("x-egret-request-id", HEADER),
    ("x-amzn-trace-id", HEADER),
    ("openai-organization", HEADER),
)


async def _ask_in_every_way(stack: Stack) -> list[Answer]:
    """Send requests that are let through, changed, refused and broken, in two APIs."""
    whole = [
        stack.post(body, path=path, key=policy, headers=HOSTILE_HEADERS)
        for policy in POLICIES
        for path, body in (
            (CHAT, chat(TEXT)),
            (CHAT, chat(TEXT, stream=True, user=EMAIL, metadata={PROMPT: TEXT})),
            (MESSAGES, message(TEXT, system=TEXT)),
        )
    ]
    bad_bodies = [
        stack.post(body, key="block", headers=HOSTILE_HEADERS)
        for body in (
            f'{{"model": "{MALFORMED}", "messages": [{{"content": "{MALFORMED}"'.encode(),
            f'{{"model": "{MALFORMED} {EMAIL}", "messages": []}}'.encode(),
            MALFORMED.encode("utf-16"),
            b"\xff\x00" + MALFORMED.encode(),
            f'{{"{MALFORMED}": 1, "{MALFORMED}": 2}}'.encode(),
            chat(TEXT, model=f"{TEXT} model"),
        )
    ]
    bad_keys = [
        stack.post(chat(TEXT), key=key)
        for key in (f"egk_{HEADER[:12]}_{HEADER}", f"sk-{HEADER}", HEADER * 100)
    ]
    shared = stack.post(chat(TEXT + " A plain sentence." * 1_000), key="redact")
    in_query = stack.post(chat(TEXT), key="block", path=f"{CHAT}?key={QUERY}&x={QUERY}")
    nowhere = stack.post(chat(TEXT), key="block", path=f"/elsewhere?x={QUERY}")
    two_keys = stack.post(chat(TEXT), key="block", headers=[("api-key", f"sk-{HEADER}")])
    return await asyncio.gather(
        *whole, *bad_bodies, *bad_keys, shared, in_query, nowhere, two_keys
    )


async def _leave(stack: Stack) -> None:
    """Go away while the model thinks."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await stack.post(chat(TEXT, stream=True), key="answers-redact")


async def _be_busy(stack: Stack) -> list[Answer]:
    """Have the provider answer, fail, and be left; return what clients were answered."""
    async with stack.debug.post("/answer", json={"text": f"{COMPLETION} {EMAIL} {CARD}"}) as told:
        assert told.status == 204
    answers = await _ask_in_every_way(stack)
    answers += [await stack.post(chat(TEXT), key=key, headers=HOSTILE_HEADERS) for key in HOOKS]
    await stack.tell_provider("delay", ms=1000)
    await asyncio.gather(*(_leave(stack) for _ in range(4)))
    await stack.tell_provider("delay", ms=0)
    body = f'{{"error": {{"message": "{FAULT} {EMAIL}"}}}}'.encode()
    order = {
        "chunks": [base64.b64encode(body).decode()],
        "status": 500,
        "headers": {"content-type": "application/json", "x-request-id": "of-the-provider"},
    }
    async with stack.debug.post("/raw", json=order) as told:
        assert told.status == 204
    answers += [await stack.post(chat(TEXT), key=key) for key in ("free", "answers-redact")]
    return answers


async def _found_in_database(dsn: str) -> dict[str, str]:
    """Return each table as one text."""
    async with connect(PostgresSettings(dsn=SecretStr(dsn))) as connection:
        names = await connection.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables"
            " WHERE schemaname NOT LIKE 'pg_%' AND schemaname <> 'information_schema'"
        )
        return {
            name: "\n".join(
                str(row["t"])
                for row in await connection.fetch(f"SELECT t::text AS t FROM {name} t")  # noqa: S608 - names of its own
            )
            for (name,) in names
        }


async def _found_in_valkey(url: str) -> str:
    client = redis.asyncio.Redis(unix_socket_path=url.removeprefix("unix://"))
    try:
        found: list[str] = []
        async for key in client.scan_iter(count=1000):
            # A dump of a text would be compressed.
            is_text = await client.type(key) == b"string"
            value = await client.get(key) if is_text else await client.dump(key)
            found.append(f"{key!r} {value!r}")
        return "\n".join(found)
    finally:
        await client.aclose()


class Spool:
    """All that was seen of usage on its way to the database."""

    def __init__(self, folder: Path) -> None:
        self.seen = ""
        self._folder = folder
        self._sizes: dict[Path, int] = {}

    async def watch(self) -> None:
        """Read what is added to its files before they go."""
        while True:
            for file in self._folder.rglob("*"):
                with suppress(FileNotFoundError):
                    if file.is_file() and file.stat().st_size > self._sizes.get(file, 0):
                        content = file.read_bytes()
                        self._sizes[file] = len(content)
                        self.seen += content.decode("latin-1")
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _watched(spool: Spool) -> AsyncIterator[None]:
    watching = asyncio.ensure_future(spool.watch())
    yield
    watching.cancel()


async def _everything(stack: Stack, spool: Spool) -> dict[str, str]:
    run = stack.run.path
    files = {
        str(file.relative_to(run)): file.read_bytes().decode("utf-8", "replace")
        for file in [*stack.facts.logs.iterdir(), stack.facts.access_log]
    }
    pages = {f"/{name}": await _page(stack, name) for name in ("metrics", "status")}
    tables = await _found_in_database(stack.facts.postgres_dsn)
    spans = stack.collector.printed
    valkey = await _found_in_valkey(stack.facts.valkey_url)
    pages["/status.json"] = await _until_shown(stack)
    return {**files, **pages, **tables, "Valkey": valkey, "spool": spool.seen, "spans": spans}


async def _until_told(stack: Stack, request_ids: set[str]) -> None:
    """Wait until the database has the usage of all of these requests."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with connect(PostgresSettings(dsn=SecretStr(stack.facts.postgres_dsn))) as connection:
        while True:
            told = await connection.fetchval(
                "SELECT count(*) FROM usage WHERE request_id = ANY($1)", list(request_ids)
            )
            if told == len(request_ids):
                return
            assert time.monotonic() < deadline, f"{told} of {len(request_ids)}"
            await asyncio.sleep(0.05)


def _secrets_of(stack: Stack) -> dict[str, str]:
    """Return the secrets of clients' keys and of the provider's, by what they are."""
    keys = {f"the key of {name}": key.split("_")[2] for name, key in stack.keys.items()}
    credentials = {
        f"the credential for {file.stem}": value.removeprefix("Bearer ")
        for file in (stack.run.path / "sds").glob("*.yaml")
        for value in re.findall(r'"inline_string": ?"([^"]+)"', file.read_text())
    }
    assert len(credentials) > 1
    return keys | credentials


async def _page(stack: Stack, name: str) -> str:
    async with stack.client.get(urljoin(stack.facts.metrics_url, name)) as answer:
        return await answer.text()


async def _until_shown(stack: Stack) -> str:
    """Return what the status page is told once it is told of this run."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        told = await _page(stack, "status.json")
        if '"pii redact"' in told:
            return told
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.1)


async def test_what_was_planted_is_found_nowhere(stack: Stack) -> None:
    """Not one key, prompt, completion or address of all that a busy run had in its hands."""
    mistyped = (await stack.new_key("block")).reveal()
    mistyped = mistyped[:-1] + ("a" if mistyped[-1] != "a" else "b")
    plants = PLANTS | _secrets_of(stack) | {"a mistyped key": mistyped.split("_")[2]}
    spool = Spool(stack.run.data / "usage")
    await _page(stack, "status.json")  # what it tells is since the last look
    async with _watched(spool):
        answers = await _be_busy(stack)
        answers.append(await stack.post(chat(TEXT), key=mistyped))
        await _until_told(stack, {one.request_id for one in answers if one.status == 200})
        assert await stack.spans(answers[-1].request_id)  # they leave in batches
        everything = await _everything(stack, spool)

    assert {200, 400, 401, 404, 500} <= {answer.status for answer in answers}
    assert any(PROMPT.encode() in one.body for one in await stack.received())  # it was there
    leaks = {
        (place, what)
        for place, text in everything.items()
        for what, plant in plants.items()
        if plant.lower() in text.lower()
    }
    assert leaks == set()
    # And each place does tell of the run: none was read that says nothing.
    ids = {one.request_id for one in answers if "x-egret-request-id" in one.headers}
    for place in ("logs/workers.log", "access.jsonl", "spans", "spool"):
        assert any(one in everything[place] for one in ids), place
    usage = "".join(text for name, text in everything.items() if name.startswith("public.usage"))
    assert any(one in usage for one in ids)
    assert 'guardrail="words"' in everything["/metrics"]
    assert "api_keys" in everything["public.audit_log"]
    assert mistyped.split("_")[1] in everything["public.api_keys"]
    assert MESSAGE_PREFIX in everything["Valkey"]  # and the findings of a long conversation


async def test_each_field_of_the_access_log_is_explained(stack: Stack) -> None:
    """Of Envoy's, of Egret's metadata, and of what the filter measured: see docs/envoy.md."""
    for policy in ("block", "redact", "answers-redact"):
        for streamed in (False, True):
            answer = await stack.post(chat(TEXT, stream=streamed), key=policy)
            line = await stack.log_line(answer.request_id)
            written = {"field": line, "egret": line["egret"], "ext_proc": line["ext_proc"]}
            unexplained = {
                name: set(fields) - explained()[name] for name, fields in written.items()
            }
            assert unexplained == {"field": set(), "egret": set(), "ext_proc": set()}
