"""Under a redact policy no email, card number or AWS key reaches the provider, wherever it stands.

The debug endpoint of the mock provider is the witness: whole bodies, byte for byte.
"""

from __future__ import annotations

import json
from typing import Final

import aiohttp
import pytest

from tests.support.second_gateway import Config, ext_proc_filters, second_gateway
from tests.support.stack import CHAT, MESSAGES, Stack, as_json, chat, message

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

EMAIL: Final = "bob.builder@example.com"
CARD: Final = "4111 1111 1111 1111"
AWS_KEY: Final = "AKIA" + "Q3ZT7VXW2MNB5KLP"
WIDE_CARD: Final = "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in CARD)
SECRETS: Final = f"{EMAIL}, {CARD}, {AWS_KEY}"
PLACEHOLDERS: Final = "[EMAIL_1], [CREDIT_CARD_1], [AWS_ACCESS_KEY_1]"
HERE: Final = "<here>"
"""Stands in a body for what is to be redacted."""

COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"


def said(role: str, content: object = HERE, **more: object) -> dict[str, object]:
    """Return a chat in which somebody says it before the user goes on."""
    first = {"role": role, "content": content, **more}
    return {"model": "gpt-4o", "messages": [first, {"role": "user", "content": "Go on. é"}]}


def called(arguments: str) -> dict[str, object]:
    """Return a chat with a tool call."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return said("assistant", None, tool_calls=[call])


def tool(**function: object) -> dict[str, object]:
    """Return a chat with the definition of a tool."""
    return chat("Go on.", tools=[{"type": "function", "function": {"name": "f", **function}}])


def part(**fields: object) -> dict[str, object]:
    """Return a message with one part."""
    return message([fields])


def schema(**property_: object) -> dict[str, object]:
    """Return a JSON schema with one property."""
    return {"type": "object", "properties": {"to": {"type": "string", **property_}}}


OPENAI = {
    "user": chat(HERE),
    "system": said("system"),
    "developer": said("developer"),
    "assistant": said("assistant"),
    "result of a tool": said("tool", tool_call_id="call_1"),
    "text part": chat([{"type": "text", "text": "One: "}, {"type": "text", "text": HERE}]),
    "refusal part": said("assistant", [{"type": "refusal", "refusal": HERE}]),
    "name of a speaker": said("user", "hello", name=HERE),
    "tool argument": called(json.dumps({"to": HERE})),
    "tool argument, deep": called(json.dumps({"a": [{"b": {"c": HERE}}]})),
    "tool argument, name": called(json.dumps({HERE: 1})),
    "tool argument, JSON in JSON": called(json.dumps({"raw": json.dumps({"to": HERE})})),
    "tool argument, no JSON": called(f"to={HERE}"),
    "function call": said("assistant", None, function_call={"name": "f", "arguments": HERE}),
    "description of a tool": tool(description=HERE),
    "parameter of a tool": tool(parameters=schema(description=HERE)),
    "default of a parameter": tool(parameters=schema(default=HERE, enum=["a", HERE])),
    "prediction": chat("Go on.", prediction={"type": "content", "content": HERE}),
    "response format": chat(
        "Go on.",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "description": HERE}},
    ),
    "stop word": chat("Go on.", stop=[HERE]),
    "metadata": chat("Go on.", metadata={"note": HERE}),
    "end user": chat("Go on.", user=HERE),
    "field nobody knows": chat("Go on.", x_note={"deep": [HERE]}),
}

ANTHROPIC = {
    "user": message(HERE),
    "system": message("Go on.", system=HERE),
    "system part": message("Go on.", system=[{"type": "text", "text": HERE}]),
    "assistant": {**said("assistant"), "model": "claude-mock", "max_tokens": 9},
    "text part": part(type="text", text=HERE),
    "tool use": part(type="tool_use", id="t", name="f", input={"to": [{"deep": HERE}]}),
    "tool use, name": part(type="tool_use", id="t", name="f", input={HERE: 1}),
    "tool use, JSON in JSON": part(
        type="tool_use", id="t", name="f", input={"raw": json.dumps({"to": HERE})}
    ),
    "result of a tool": part(type="tool_result", tool_use_id="t", content=HERE),
    "result of a tool, part": part(
        type="tool_result", tool_use_id="t", content=[{"type": "text", "text": HERE}]
    ),
    "description of a tool": message(
        "Go on.", tools=[{"name": "f", "description": HERE, "input_schema": schema()}]
    ),
    "parameter of a tool": message(
        "Go on.", tools=[{"name": "f", "input_schema": schema(description=HERE)}]
    ),
    "thought": part(type="thinking", thinking=HERE, signature="s"),
    "document": part(
        type="document",
        title=HERE,
        source={"type": "text", "media_type": "text/plain", "data": HERE},
    ),
    "stop word": message("Go on.", stop_sequences=[HERE]),
    "metadata": message("Go on.", metadata={"user_id": HERE}),
}

RESPONSES: Final = "/v1/responses"
AZURE: Final = "/openai/deployments/gpt-eu/chat/completions?api-version=2024-10-21"
GEMINI: Final = "/v1beta/models/gemini-mock:generateContent"
CONVERSE: Final = "/model/anthropic.claude-mock-v1%3A0/converse"


def item(**fields: object) -> dict[str, object]:
    """Return a response asked for with one item of input."""
    return {"model": "gpt-4o", "input": [fields]}


def contents(**part: object) -> dict[str, object]:
    """Return a request of Gemini's with one part."""
    return {"contents": [{"role": "user", "parts": [part]}]}


def block(**fields: object) -> dict[str, object]:
    """Return a request of Bedrock's with one block."""
    return {"messages": [{"role": "user", "content": [fields]}]}


OTHERS = [
    (RESPONSES, {"model": "gpt-4o", "input": HERE, "instructions": HERE}, "responses, input"),
    (RESPONSES, item(role="user", content=[{"type": "input_text", "text": HERE}]), "responses"),
    (RESPONSES, item(type="function_call_output", call_id="c", output=HERE), "responses, tool"),
    (AZURE, chat(HERE), "azure"),
    (GEMINI, contents(text=HERE), "gemini, part"),
    (GEMINI, contents(functionCall={"name": "f", "args": {"to": [HERE]}}), "gemini, arguments"),
    (
        GEMINI,
        {**contents(text="Go on."), "system_instruction": {"parts": [{"text": HERE}]}},
        "gemini, system",
    ),
    (CONVERSE, block(text=HERE), "bedrock, block"),
    (
        CONVERSE,
        block(toolUse={"toolUseId": "t", "name": "f", "input": {HERE: HERE}}),
        "bedrock, tool input",
    ),
    (CONVERSE, {**block(text="Go on."), "system": [{"text": HERE}]}, "bedrock, system"),
]

PLACES = [
    *(pytest.param(path, body, id=name) for path, body, name in OTHERS),
    *(pytest.param(CHAT, body, id=f"openai, {name}") for name, body in OPENAI.items()),
    pytest.param(COMPLETIONS, {"model": "gpt-4o", "prompt": HERE}, id="openai, prompt"),
    pytest.param(
        COMPLETIONS,
        {"model": "gpt-4o", "prompt": ["a", HERE], "suffix": HERE},
        id="openai, prompts",
    ),
    pytest.param(EMBEDDINGS, {"model": "e", "input": ["a", HERE]}, id="openai, input"),
    *(pytest.param(MESSAGES, body, id=f"anthropic, {name}") for name, body in ANTHROPIC.items()),
    pytest.param(f"{MESSAGES}/count_tokens", message(HERE), id="anthropic, count of tokens"),
]


@pytest.mark.parametrize(("path", "body"), PLACES)
async def test_it_is_replaced_wherever_it_stands(
    stack: Stack, path: str, body: dict[str, object]
) -> None:
    """The provider gets the very bytes of the client but for the placeholders, well framed."""
    template = as_json(body)
    expected = template.replace(HERE.encode(), PLACEHOLDERS.encode())
    async with stack.counting() as counted:
        sent = template.replace(HERE.encode(), SECRETS.encode())
        answer = await stack.post(sent, path=path, key="redact")
    (received,) = await stack.received()
    assert received.body == expected
    assert received.framing == {"content-length": [str(len(expected))]}
    assert answer.status == 200
    assert {outcome for outcome, _, _ in counted.outcomes} == {"redacted"}
    assert counted.verdicts == {("secrets", "redact"): 1, ("pii", "redact"): 1}


ESCAPED = [
    pytest.param(chat(HERE), rb"bob.builder\u0040example.com", b"[EMAIL_1]", id="escape"),
    pytest.param(chat(HERE), rb"\u0041KIAQ3ZT7VXW2MNB5KLP", b"[AWS_ACCESS_KEY_1]", id="first"),
    pytest.param(
        called(json.dumps({"to": HERE})),
        rb"bob.builder\\u0040example.com",
        b"[EMAIL_1]",
        id="escape in a tool argument",
    ),
    pytest.param(
        called(json.dumps({"raw": json.dumps({"to": HERE})})),
        rb"bob.builder\\\\u0040example.com",
        b"[EMAIL_1]",
        id="escape in JSON in a tool argument",
    ),
    pytest.param(
        chat(HERE),
        WIDE_CARD.encode(),
        b"[CREDIT_CARD_1]",
        id="wide digits",
    ),
    pytest.param(
        chat(HERE), "bob.builder@exa\u200bmple.com".encode(), b"[EMAIL_1]", id="no width"
    ),
]


@pytest.mark.parametrize(("body", "form", "placeholder"), ESCAPED)
async def test_no_way_to_write_it_hides_it(
    stack: Stack, body: dict[str, object], form: bytes, placeholder: bytes
) -> None:
    """Escapes at every depth, and other characters that mean the same."""
    template = as_json(body)
    answer = await stack.post(template.replace(HERE.encode(), form), key="redact")
    (received,) = await stack.received()
    assert answer.status == 200
    assert received.body == template.replace(HERE.encode(), placeholder)


async def test_a_card_number_without_quotes_becomes_a_string(stack: Stack) -> None:
    """JSON has no other place for a placeholder."""
    template = as_json(message("Go on.", metadata={"card": HERE}))
    marked = f'"{HERE}"'.encode()
    sent = template.replace(marked, b"4111111111111111")
    answer = await stack.post(sent, path=MESSAGES, key="redact")
    (received,) = await stack.received()
    assert answer.status == 200
    assert received.body == template.replace(marked, b'"[CREDIT_CARD_1]"')


async def test_what_is_clean_goes_on_untouched(stack: Stack) -> None:
    """Odd blanks, escapes and key order included."""
    odd = b'\n{ "messages" :[{"content":"caf\\u00e9 \\/","role":"user"} ],"model":"gpt-4o"}\n'
    async with stack.counting() as counted:
        answer = await stack.post(odd, key="redact")
    (received,) = await stack.received()
    assert (answer.status, received.body) == (200, odd)
    assert received.framing == {"content-length": [str(len(odd))]}
    assert counted.outcomes == {("allowed", "chat", "none"): 1}


async def test_the_same_value_gets_the_same_placeholder_and_others_get_others(
    stack: Stack,
) -> None:
    """So that a model can still tell two people apart."""
    await stack.post(chat("a@example.com b@example.com a@example.com"), key="redact")
    (received,) = await stack.received()
    assert received.body == as_json(chat("[EMAIL_1] [EMAIL_2] [EMAIL_1]"))


def _without_length(config: Config) -> None:
    for settings in ext_proc_filters(config):
        del settings["allow_content_length_header"]


LONG: Final = " ".join([EMAIL, *["word"] * 20] * 1900)
"""Of many pieces, and short of the number of findings past which a whole text counts as one."""


async def test_requests_after_a_redacted_one_on_the_same_connection_arrive_intact(
    stack: Stack,
) -> None:
    """A kept content-length would make the rest of one body the start of the next request.

    With Envoy's leave to write content-length the new one goes out; without it none does.
    """
    bodies = [chat(EMAIL), chat("plain"), chat(LONG), chat("b"), chat(f"{EMAIL} " * 3), chat("c")]
    expected = [as_json(body).replace(EMAIL.encode(), b"[EMAIL_1]") for body in bodies]
    own = [{"content-length": [str(len(one))]} for one in expected]
    chunked = {"transfer-encoding": ["chunked"]}
    taken = [chunked if EMAIL in str(body) else own[at] for at, body in enumerate(bodies)]
    async with second_gateway(stack) as ours, second_gateway(stack, _without_length) as bare:
        for gateway, framing in ((ours, own), (bare, taken)):
            await stack.forget()
            for body in bodies:
                answer = await stack.post(body, key="redact", url=gateway.https_url)
                assert answer.status == 200
            received = await stack.received()
            assert [one.body for one in received] == expected
            assert [one.framing for one in received] == framing
            opened = await _statistic(gateway.admin_url, "cluster.openai.upstream_cx_total")
            assert opened < len(bodies)


async def _statistic(admin_url: str, name: str) -> int:
    async with (
        aiohttp.ClientSession() as client,
        client.get(
            f"{admin_url}/stats", params={"filter": f"^{name}$", "format": "json"}
        ) as answer,
    ):
        (found,) = (await answer.json(content_type=None))["stats"]
        value: int = found["value"]
        return value
