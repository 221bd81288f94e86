"""The same secret cut up and spread over a request in many ways, and what becomes of each.

A model reads the parts of a message as one text, and what one role says in a row; a secret that
is whole for the model is found. What only a reader who is told how could put together is not.
"""

from __future__ import annotations

import json
from typing import Final

import pytest

from sidecar.domain.errors import ErrorKind
from tests.support.events import BodyRequired, RequestCleared, RequestRefused
from tests.support.pipeline import World, headers

SECRET: Final = "AKIA" + "Q3ZT7VXW2MNB5KLP"
A, B, C = SECRET[:7], SECRET[7:12], SECRET[12:]
CARD = ("4111 1111", " 1111 1111")
LONG: Final = "word " * 2_000
PIXEL: Final = "iVBORw0KGgo" + "A" * 120

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
AZURE = "/openai/deployments/gpt/chat/completions"
GEMINI = "/v1beta/models/gemini:generateContent"
BEDROCK = "/model/claude/converse"

Body = dict[str, object]


def _said(*messages: tuple[str, object]) -> Body:
    return {"model": "m", "messages": [{"role": who, "content": what} for who, what in messages]}


def _parts(*texts: str, kind: str = "text") -> list[object]:
    return [{"type": kind, "text": text} for text in texts]


def _blocks(*texts: str) -> list[object]:
    return [{"text": text} for text in texts]


def _contents(*contents: tuple[str, list[object]]) -> Body:
    return {"contents": [{"role": who, "parts": parts} for who, parts in contents]}


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
ODD = {"type": "text_of_tomorrow", "text": B + C}

FOUND = [
    (CHAT, _said(("user", _parts(A, B + C))), "two parts"),
    (CHAT, _said(("user", _parts(A, B, C))), "three parts"),
    (CHAT, _said(("user", _parts(*SECRET))), "a part a letter"),
    (CHAT, _said(("user", [*_parts(A), IMAGE, *_parts(B + C)])), "an image between"),
    (CHAT, _said(("user", _parts(A, "", B + C))), "an empty part between"),
    (CHAT, _said(("user", [*_parts(A), ODD])), "a part of unknown type"),
    (CHAT, _said(("user", [A, B + C])), "bare strings"),
    (
        CHAT,
        _said(("user", [{"type": "text", "Text": A}, {"type": "text", "TEXT": B + C}])),
        "names of parts in another case",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "Content": A}, {"role": "user", "Content": [B + C]}]},
        "names of messages in another case",
    ),
    (CHAT, _said(("user", _parts(LONG + A, B + C + " " + LONG))), "long texts around"),
    (CHAT, _said(("user", _parts(A + "\u200b", "\u200b" + B + C))), "no width at the border"),
    (CHAT, _said(("user", A), ("user", B + C)), "two messages"),
    (CHAT, _said(("user", A), ("user", _parts(B, C))), "a message, then parts"),
    (CHAT, _said(("system", A), ("system", B + C), ("user", "x")), "system messages"),
    (CHAT, _said(("assistant", _parts(A, B + C)), ("user", "x")), "the model's turn"),
    (CHAT, _said(("tool", A), ("tool", B + C)), "results of tools"),
    (CHAT, _said(("stranger", A), ("stranger", B + C)), "an unknown role"),
    (AZURE, _said(("user", _parts(A, B + C))), "Azure"),
    (MESSAGES, _said(("user", _parts(A, B + C))), "Anthropic, parts"),
    (MESSAGES, _said(("user", A), ("user", B + C)), "Anthropic, messages"),
    (MESSAGES, {**_said(("user", "x")), "system": _parts(A, B + C)}, "Anthropic, system"),
    (
        MESSAGES,
        _said(("user", [{"type": "tool_result", "content": _parts(A, B + C)}])),
        "Anthropic, result of a tool",
    ),
    (
        RESPONSES,
        {"input": [{"role": "user", "content": _parts(A, B + C, kind="input_text")}]},
        "responses, parts",
    ),
    (
        RESPONSES,
        {"input": [{"role": "user", "content": A}, {"role": "user", "content": B + C}]},
        "responses, items",
    ),
    (GEMINI, _contents(("user", _blocks(A, B + C))), "Gemini, parts"),
    (GEMINI, _contents(("user", _blocks(A)), ("user", _blocks(B + C))), "Gemini, contents"),
    (
        GEMINI,
        {**_contents(("user", _blocks("x"))), "systemInstruction": {"parts": _blocks(A, B + C)}},
        "Gemini, system",
    ),
    (BEDROCK, _said(("user", _blocks(A, B + C))), "Bedrock, blocks"),
    (BEDROCK, _said(("user", _blocks(A)), ("user", _blocks(B + C))), "Bedrock, messages"),
    (BEDROCK, {**_said(("user", _blocks("x"))), "system": _blocks(A, B + C)}, "Bedrock, system"),
    (CHAT, _said(("user", _parts("card " + CARD[0], CARD[1]))), "a card"),
]

NOT_FOUND = [
    (CHAT, _said(("user", A), ("assistant", "Go on."), ("user", B + C)), "an answer between"),
    (CHAT, _said(("system", A), ("user", B + C)), "two roles"),
    (CHAT, _said(("user", _parts(B + C, A))), "the wrong way round"),
    (CHAT, _said(("user", _parts(f"It begins {A},", f"and goes on {B + C}"))), "words between"),
    (CHAT, _said(("user", _parts(A, "\n\n", B + C))), "lines between"),
    (
        CHAT,
        {**_said(("user", "x")), "metadata": {"a": A, "b": B + C}},
        "two values that are no text of a message",
    ),
    (
        MESSAGES,
        _said(("user", [{"type": "tool_use", "input": {"a": A, "b": B + C}}])),
        "arguments",
    ),
    ("/v1/embeddings", {"model": "m", "input": [A, B + C]}, "texts embedded one by one"),
]


def _policy(action: str) -> str:
    return f"""
name: default
unscanned: allow
guardrails:
  - {{name: secrets, type: secrets, action: {action}}}
  - {{name: pii, type: pii, action: {action}}}
"""


BLOCKING, REDACTING = World(_policy("block")), World(_policy("redact"))


async def _judged(world: World, path: str, body: Body) -> RequestCleared | RequestRefused:
    checks = world.exchange()
    await checks.judge_headers(headers(path), has_body=True)
    verdict = await checks.judge_body(json.dumps(body).encode())
    assert not isinstance(verdict, BodyRequired)
    return verdict


@pytest.mark.parametrize(
    ("path", "body"), [pytest.param(path, body, id=name) for path, body, name in FOUND]
)
async def test_a_secret_that_is_whole_for_the_model_is_blocked_and_redacted(
    path: str, body: Body
) -> None:
    """Blocked as it would be in one piece; redacted so that no piece of it is left."""
    blocked = await _judged(BLOCKING, path, body)
    assert isinstance(blocked, RequestRefused)
    assert blocked.refusal.details == f"egret_{ErrorKind.CONTENT_BLOCKED.value}"
    redacted = await _judged(REDACTING, path, body)
    assert isinstance(redacted, RequestCleared)
    assert redacted.mutations.body is not None
    left = json.loads(redacted.mutations.body)
    assert not [piece for piece in (A, B, C, B + C, *CARD) if piece in json.dumps(left)]
    again = await _judged(REDACTING, path, left)
    assert isinstance(again, RequestCleared)
    assert again.mutations.body is None


async def test_a_word_that_runs_into_a_value_is_taken_with_it() -> None:
    """Without a blank between the parts the model reads one word, and rather too much goes."""
    for first, left in (("One", "[EMAIL_1]"), ("One: ", "One: ")):
        body = _said(("user", _parts(first, "bob.builder@example.com")))
        redacted = await _judged(REDACTING, CHAT, body)
        assert isinstance(redacted, RequestCleared)
        assert redacted.mutations.body is not None
        said = json.loads(redacted.mutations.body)["messages"][0]["content"]
        assert said[0]["text"] == left
        assert said[1]["text"].startswith("[EMAIL_")


@pytest.mark.parametrize(
    ("path", "body"), [pytest.param(path, body, id=name) for path, body, name in NOT_FOUND]
)
async def test_a_secret_that_only_a_reader_could_put_together_goes_on(
    path: str, body: Body
) -> None:
    """A limit that is known and written down: docs/guardrails.md."""
    verdict = await _judged(BLOCKING, path, body)
    assert isinstance(verdict, RequestCleared)
    assert verdict.mutations.body is None
