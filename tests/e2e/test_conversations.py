"""Agents of the providers' own clients: 20 turns, each with the whole conversation so far.

A provider caches the beginning of a prompt, and charges a fraction for it. It may begin with the
same bytes in each turn, although values in it are redacted and restored.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import msgspec
import pytest
from google import genai
from google.genai import types

from tests.support.clients import anthropic_client, openai_client, tls_client
from tests.support.more_workers import more_workers
from tests.support.stack import PATIENCE_SECONDS, POLL_SECONDS, Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

TURNS: Final = 20
CALLS_TOOL: Final = frozenset({4, 11})
VALUES: Final = {
    "desk@example.com": "[EMAIL_1]",
    "ann.lee@example.org": "[EMAIL_2]",
    "4111 1111 1111 1111": "[CREDIT_CARD_1]",
    "bob.builder@example.com": "[EMAIL_3]",
    "carol@example.net": "[EMAIL_4]",
}
"""In the order in which the model reads them: two clients send the system prompt last."""
FILLER: Final = "The plan for spring says that people meet on Monday to talk about design. "
SYSTEM: Final = "You plan the meetings of a team, and write as desk@example.com. " + FILLER * 40
FIRST: Final = FILLER * 60 + "It was agreed with ann.lee@example.org, by card 4111 1111 1111 1111."
ASKS: Final = {
    4: "Which of them does bob.builder@example.com attend?",
    9: "Write to ann.lee@example.org again.",
}
RESULT: Final = json.dumps({"attendees": ["carol@example.net", "ann.lee@example.org"]})
SAID: Final = "I asked [EMAIL_2] about it, in turn %d, and the plan stands."
WAS_SAID: Final = "I asked ann.lee@example.org about it, in turn %d, and the plan stands."
EPHEMERAL: Final = {"type": "ephemeral"}
SCHEMA: Final = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


@dataclass
class Sent:
    """The bodies that a client sends, beside the client itself."""

    https: httpx2.AsyncClient
    bodies: list[bytes] = field(default_factory=list)

    async def note(self, request: httpx2.Request) -> None:
        """Keep the body."""
        self.bodies.append(await request.aread())


def _client(stack: Stack) -> Sent:
    sent = Sent(tls_client(stack))
    sent.https.event_hooks = {"request": [sent.note]}
    return sent


Say = Callable[[str | None], Awaitable[str | None]]
"""Says a text, or sends the result of the tool, and returns the answer; None if it is a call."""


async def _openai(stack: Stack, sent: Sent) -> Say:
    client = openai_client(stack, stack.keys["restore"], sent.https)
    create: Any = client.chat.completions.create
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    tool = {"type": "function", "function": {"name": "attendees", "parameters": SCHEMA}}

    async def say(text: str | None) -> str | None:
        if text is None:
            call = messages[-1]["tool_calls"][0]["id"]
            messages.append({"role": "tool", "tool_call_id": call, "content": RESULT})
        else:
            messages.append({"role": "user", "content": text})
        answer = await create(model="gpt-4o", messages=messages, tools=[tool])
        message = answer.choices[0].message
        messages.append(message.to_dict())
        return None if message.tool_calls else str(message.content)

    return say


async def _responses(stack: Stack, sent: Sent) -> Say:
    client = openai_client(stack, stack.keys["restore"], sent.https)
    create: Any = client.responses.create
    items: list[Any] = []
    tool = {"type": "function", "name": "attendees", "parameters": SCHEMA, "strict": True}

    async def say(text: str | None) -> str | None:
        if text is None:
            call = items[-1]["call_id"]
            items.append({"type": "function_call_output", "call_id": call, "output": RESULT})
        else:
            items.append({"role": "user", "content": text})
        answer = await create(model="gpt-4o", instructions=SYSTEM, input=items, tools=[tool])
        items.extend(one.to_dict() for one in answer.output)
        return None if answer.output[-1].type == "function_call" else str(answer.output_text)

    return say


async def _anthropic(stack: Stack, sent: Sent) -> Say:
    client = anthropic_client(stack, stack.keys["restore"], sent.https)
    create: Any = client.messages.create
    messages: list[Any] = []
    tool = {"name": "attendees", "input_schema": SCHEMA, "cache_control": EPHEMERAL}
    system = [{"type": "text", "text": SYSTEM, "cache_control": EPHEMERAL}]

    async def say(text: str | None) -> str | None:
        block: Any = {"type": "text", "text": text}
        if text is None:
            call = messages[-1]["content"][0]["id"]
            block = {"type": "tool_result", "tool_use_id": call, "content": RESULT}
        if not messages:
            block["cache_control"] = EPHEMERAL
        messages.append({"role": "user", "content": [block]})
        answer = await create(
            model="claude-mock", max_tokens=99, system=system, messages=messages, tools=[tool]
        )
        blocks = [one.to_dict() for one in answer.content]
        messages.append({"role": "assistant", "content": blocks})
        return None if answer.stop_reason == "tool_use" else str(blocks[0]["text"])

    return say


async def _gemini(stack: Stack, sent: Sent) -> Say:
    options = types.HttpOptions(base_url=stack.facts.https_url, httpx_async_client=sent.https)
    client = genai.Client(api_key=stack.keys["restore"], http_options=options)
    generate: Any = client.aio.models.generate_content
    contents: list[Any] = []
    declared = types.FunctionDeclaration(name="attendees", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(
        system_instruction=SYSTEM,
        tools=[types.Tool(function_declarations=[declared])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )

    async def say(text: str | None) -> str | None:
        part = types.Part(text=text)
        if text is None:
            part = types.Part.from_function_response(name="attendees", response=json.loads(RESULT))
        contents.append(types.Content(role="user", parts=[part]))
        answer = await generate(model="gemini-mock", contents=contents, config=config)
        contents.append(answer.candidates[0].content)
        return None if answer.function_calls else str(answer.text)

    return say


async def _hits(
    stack: Stack, metric: str = "egret_known_messages_total", outcome: str = 'outcome="hit"'
) -> float:
    async with stack.client.get(stack.facts.metrics_url) as answer:
        page = await answer.text()
    return sum(
        float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith(f"{metric}{{") and outcome in line
    )


async def _until_hits(stack: Stack, least: float) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:  # workers report four times a second
        hits = await _hits(stack)
        if hits >= least or time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_SECONDS)
    assert hits >= least


@pytest.mark.parametrize(
    ("begin", "items"),
    [
        (_openai, "messages"),
        (_responses, "input"),
        (_anthropic, "messages"),
        (_gemini, "contents"),
    ],
    ids=["openai", "responses", "anthropic", "gemini"],
)
async def test_a_provider_gets_the_same_bytes_for_old_messages_in_each_turn(
    stack: Stack, begin: Callable[[Stack, Sent], Awaitable[Say]], items: str
) -> None:
    """But for the values, which have the same names in each turn, the client's own bytes."""
    hits, sent = await _hits(stack), _client(stack)
    say = await begin(stack, sent)
    for turn in range(TURNS):
        text = FIRST if turn == 0 else ASKS.get(turn, f"And then, in turn {turn}? {FILLER}")
        if turn in CALLS_TOOL:
            await stack.debug.delete("/behaviour")
            assert await say(text) is None
        async with stack.debug.post("/answer", json={"text": SAID % turn}) as answer:
            assert answer.status == 204
        assert await say(None if turn in CALLS_TOOL else text) == WAS_SAID % turn
    await sent.https.aclose()

    expected = list(sent.bodies)
    for value, placeholder in VALUES.items():
        expected = [one.replace(value.encode(), placeholder.encode()) for one in expected]
    bodies = [one.body for one in await stack.received()]
    assert bodies == expected
    assert len(bodies) == TURNS + len(CALLS_TOOL)

    before: dict[str, msgspec.Raw] = {}
    for body in bodies:
        now = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        said = bytes(now.pop(items))
        if before:
            assert said.startswith(bytes(before.pop(items)).removesuffix(b"]"))
            assert now == before
        before = {**now, items: msgspec.Raw(said)}

    await _until_hits(stack, hits + TURNS / 2)


async def test_workers_share_what_they_know_of_a_long_conversation(stack: Stack) -> None:
    """Envoy chooses a worker for each turn; redaction is the same in each of them."""
    shared = "egret_shared_messages_total"
    hits, url = await _hits(stack, shared), f"{stack.facts.url}/v1/chat/completions"
    token = secrets.token_hex(8)  # a conversation that no worker has seen
    said = [{"role": "user", "content": f"{token} {FILLER * 300} Ask ann.lee@example.org."}]
    headers = {"authorization": f"Bearer {stack.keys['restore']}"}
    for turn in range(5 * TURNS):
        body = {"model": "gpt-4o", "messages": said}
        async with stack.client.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200
        (received,) = (await stack.received())[turn:]
        first, *rest = json.loads(received.body)["messages"]
        assert first["content"].endswith("Ask [EMAIL_1].")
        assert rest == said[1:]
        said += [
            {"role": "assistant", "content": f"In turn {turn}."},
            {"role": "user", "content": f"And then, behind turn {turn}?"},
        ]
        # A worker learns at each change of workers, unless Valkey was just too busy to answer.
        if turn % 10 == 9:
            await asyncio.sleep(POLL_SECONDS)
            if await _hits(stack, shared) > hits:
                return
    pytest.fail("no worker has learned from the other")


WORDS: Final = """
name: {name}
guardrails: [{{name: words, type: denied_terms, terms: [{term}]}}]
"""


async def test_a_change_of_one_policy_leaves_the_conversations_of_the_others_known(
    stack: Stack,
) -> None:
    """Those of the changed one are searched once more."""
    first, other = "talk-changed", "talk-other"
    await stack.apply("---".join(WORDS.format(name=one, term=one) for one in (first, other)))
    keys = {one: (await stack.new_key(one)).reveal() for one in (first, other)}
    tool = {"type": "function", "function": {"name": "a", "description": FILLER * 20}}
    said = {"role": "assistant", "content": "I have asked for it."}
    talk = [{"role": "user", "content": FILLER * 60}]

    async with more_workers(stack, workers=1) as alone:

        async def hits_of_a_turn(policy: str) -> float:
            """Take the next turn; each look-up of its tools is a hit or a miss."""
            hits, all_ = await _hits(alone), await _hits(alone, outcome="")
            talk.extend([said, {"role": "user", "content": "And then?"}])
            body = {"model": "gpt-4o", "messages": talk, "tools": [tool]}
            assert (await alone.post(body, key=keys[policy])).status == 200
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await _hits(alone, outcome="") == all_:  # noqa: ASYNC110 - a worker counts
                    await asyncio.sleep(POLL_SECONDS)
            return await _hits(alone) - hits

        new = [await hits_of_a_turn(one) for one in keys]
        known = [await hits_of_a_turn(one) for one in keys]
        loads = stack.policy_loads()
        await alone.apply(WORDS.format(name=first, term="nothing-of-before"))
        await stack.every_worker_has({first: 2}, since=loads)
        changed = [await hits_of_a_turn(one) for one in keys]

    assert (new, known, changed) == ([0, 0], [2, 2], [0, 2])
