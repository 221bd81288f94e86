"""Proves streams, guardrails and usage against a real small model instead of the mock.

    python -m loadtest.prove_model        (or: make prove-model, which installs the model)

Starts the whole stack before a model server, sends requests with the `openai` client, and compares
their answers and the usage records with the answers of the model server. Exits 1 when anything
differs.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg
import openai
from egret_tools.devstack.credentials import write_certificates
from egret_tools.devstack.processes import Children, PartError, Program, free_port, until_ready
from egret_tools.devstack.providers import Upstream
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from egret_tools.devstack.stack import StackFacts, StackOptions, running_stack
from openai.types.chat import ChatCompletionMessageParam
from pydantic import SecretStr

from loadtest.models.front import ModelFront, Said, model_front
from loadtest.results import ROOT, Grid, new_console
from sidecar.admin.keys import create_key
from sidecar.admin.owners import Rules, create_organization, create_team
from sidecar.keys.credentials import generate
from sidecar.policy.parse import parse_documents
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect
from sidecar.storage.postgres_policies import apply_policy

MODEL: Final = "gemma-3-270m"
MODEL_PYTHON: Final = ROOT / "build" / "model" / "bin" / "python"
PATIENCE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.2
SHORTEST_WORD: Final = 3
PROMPT: Final[ChatCompletionMessageParam] = {
    "role": "user",
    "content": "Write some sentences about the sea, the weather and the ships in the harbour.",
}
COUNTED: Final = """
name: counted
usage: {streams: hide}
guardrails: []
"""
GUARDED: Final = """
name: guarded
usage: {streams: hide}
guardrails:
  - {name: pii, type: pii, stage: output, action: redact}
  - name: word
    type: denied_patterns
    stage: output
    action: redact
    patterns: [{name: WORD, regex: '\\b%s\\b'}]
"""
_RECORDS: Final = """
SELECT provider_request_id, input_tokens, output_tokens FROM usage
WHERE NOT is_estimated AND provider_request_id IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Got:
    """The answer as a client received it: text, counts, and the pieces of the text."""

    name: str
    id: str
    text: str
    shown_tokens: int | None
    chunks: int


async def main() -> int:
    """Run it, show it, and say whether all is as it should be."""
    console = new_console()
    if not MODEL_PYTHON.exists():
        console.print("✗ There is no model here; `make prove-model` installs one.", style="red")
        return 1
    try:
        rows, faults = await _prove()
    except PartError as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    columns = ("request", "chunks", "input", "output", "recorded as")
    Grid(f"{MODEL}: answers and records", columns, rows).show(console)
    for fault in faults:
        console.print(f"WRONG: {fault}", markup=False)
    if not faults:
        console.print("Text, guardrails and counts are those of the model server.")
    return 1 if faults else 0


async def _prove() -> tuple[list[list[str]], list[str]]:
    async with AsyncExitStack() as parts:
        place = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="egret-model-")))
        certificates = write_certificates(place / "tls")
        run = parts.enter_context(run_directory(place / "run"))
        url = await parts.enter_async_context(_running_model(place, run))
        front = await parts.enter_async_context(model_front(url, certificates.provider))
        upstream = Upstream("localhost", front.port, ca_file=certificates.provider_ca)
        options = StackOptions(upstream=upstream, workers=1, traces=False)
        facts = (await parts.enter_async_context(running_stack(options, run=run))).facts
        got = await _talk(facts, front)
        said = front.said()
        ids = [said[one.id].request_id for one in got]
        recorded = await _recorded(facts, wanted=ids)
    faults = [fault for one in got for fault in _differences(one, said[one.id])]
    word = _favourite(said[got[0].id].text)
    faults += _guarding(got[-1], said[got[-1].id], word)
    rows = []
    for one in got:
        tokens = said[one.id].input_tokens, said[one.id].output_tokens
        kept = recorded.get(said[one.id].request_id)
        shown = "nothing" if kept is None else "{} + {}".format(*kept)
        rows.append([one.name, str(one.chunks), *map(str, tokens), shown])
        if kept != tokens:
            faults.append(f"{one.name}: recorded as {shown}, not as the model counted")
    return rows, faults


@asynccontextmanager
async def _running_model(place: Path, run: RunDirectory) -> AsyncIterator[str]:
    port = free_port()
    server = ROOT / "loadtest" / "models" / "server.py"
    program = Program(
        part="Model server",
        command=(str(MODEL_PYTHON), str(server), str(port), str(place / "model.gguf")),
        log=run.logs / "model.log",
        environment=inherited_environment(),
    )
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(url) as client, Children().running(program) as child:

        async def answers() -> bool:
            try:
                async with client.get("/health") as answer:
                    return answer.status == 200  # noqa: PLR2004 - HTTP's
            except aiohttp.ClientError:
                return False

        await until_ready(child, answers)
        yield url


async def _talk(facts: StackFacts, front: ModelFront) -> list[Got]:
    """Ask whole, streamed with counts, without, and guarded against the model's own word."""
    async with await _client(facts, COUNTED) as client:
        whole = await client.chat.completions.create(
            model=MODEL, messages=[PROMPT], max_tokens=60, temperature=0
        )
        text = whole.choices[0].message.content or ""
        shown = whole.usage.completion_tokens if whole.usage else None
        got = [Got("whole", whole.id, text, shown, 1)]
        got.append(await _stream(client, "streamed, counts asked for", is_counted=True))
        got.append(await _stream(client, "streamed, counts hidden", is_counted=False))
    word = _favourite(front.said()[whole.id].text)
    async with await _client(facts, GUARDED % word) as client:
        got.append(await _stream(client, f"streamed, '{word}' redacted", is_counted=False))
    return got


async def _stream(client: openai.AsyncOpenAI, name: str, *, is_counted: bool) -> Got:
    events = await client.chat.completions.create(
        model=MODEL,
        messages=[PROMPT],
        max_tokens=60,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True} if is_counted else openai.omit,
    )
    request_id, shown, texts = "", None, []
    async for event in events:
        request_id = event.id
        shown = event.usage.completion_tokens if event.usage else shown
        texts += [choice.delta.content or "" for choice in event.choices]
    return Got(name, request_id, "".join(texts), shown, len(texts))


async def _client(facts: StackFacts, policy: str) -> openai.AsyncOpenAI:
    """Return a client with a key of its own under the *policy*, once that holds."""
    (document,) = parse_documents(policy)
    name = document.policy.name
    key = generate(secrets.token_bytes)
    async with connect(PostgresSettings(dsn=SecretStr(facts.postgres_dsn))) as connection:
        async with connection.transaction():
            await apply_policy(connection, name, document=document.text, expected_version=0)
        await create_organization(connection, name, rules=Rules(policy=name))
        await create_team(connection, name, organization=name, rules=Rules())
        owner = (f"{name}/{name}", name)
        await create_key(connection, key, owner=owner, expires_at=None, rules=Rules())
    client = openai.AsyncOpenAI(base_url=f"{facts.url}/v1", api_key=key.reveal(), max_retries=0)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await client.models.list()
        except openai.APIStatusError:
            # Until a worker has compiled the policy, it refuses keys bound to it.
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL_SECONDS)
        else:
            return client


async def _recorded(facts: StackFacts, *, wanted: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the usage records by request id, once all are there or time is up."""
    connection = await asyncpg.connect(facts.postgres_dsn)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while True:
            rows = await connection.fetch(_RECORDS)
            found = {row[0]: (row[1], row[2]) for row in rows}
            if set(wanted) <= found.keys() or time.monotonic() > deadline:
                return found
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await connection.close()


def _favourite(text: str) -> str:
    """Return the word the model used most, so that a rule against it has something to find."""
    words: list[str] = re.findall(rf"\b[A-Za-z]{{{SHORTEST_WORD},}}\b", text)
    return Counter(words).most_common(1)[0][0]


def _differences(got: Got, said: Said) -> list[str]:
    is_asked = got.name in ("whole", "streamed, counts asked for")
    faults = []
    if "redacted" not in got.name and got.text != said.text:
        faults.append(f"{got.name}: the client's text is not the model's")
    if is_asked != (got.shown_tokens is not None):
        faults.append(f"{got.name}: the client saw counts: {not is_asked}")
    if is_asked and got.shown_tokens != said.output_tokens:
        faults.append(f"{got.name}: the client saw other counts than the model's")
    return faults


def _guarding(got: Got, said: Said, word: str) -> list[str]:
    found = re.findall(rf"\b{word}\b", said.text)
    pieces = re.split(rf"\b{word}\b", said.text)
    placeholders = re.split(r"\[WORD_\d+\]", got.text)
    if not found:
        return [f"the model did not say '{word}' again, so nothing was guarded"]
    return [] if placeholders == pieces else [f"{got.name}: more or less than '{word}' is gone"]


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
