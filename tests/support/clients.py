"""The providers' own Python clients, unchanged but for base URL and key, over TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anthropic
import httpx2
import openai
from google import genai
from google.genai import types

from tests.support.stack import Stack

PROMPT: Final = {"role": "user", "content": "Write a haiku about herons."}


def tls_client(stack: Stack) -> httpx2.AsyncClient:
    """Return a client of HTTP that believes the stack's certificates."""
    return httpx2.AsyncClient(verify=ssl.create_default_context(cafile=str(stack.facts.ca_file)))


def openai_client(
    stack: Stack, key: str, https: httpx2.AsyncClient | None = None
) -> openai.AsyncOpenAI:
    """Return OpenAI's client, which asks once."""
    return openai.AsyncOpenAI(
        base_url=f"{stack.facts.https_url}/v1",
        api_key=key,
        http_client=https or tls_client(stack),
        max_retries=0,
    )


def anthropic_client(
    stack: Stack, key: str, https: httpx2.AsyncClient | None = None
) -> anthropic.AsyncAnthropic:
    """Return Anthropic's client, which asks once."""
    return anthropic.AsyncAnthropic(
        base_url=stack.facts.https_url,
        api_key=key,
        http_client=https or tls_client(stack),
        max_retries=0,
    )


async def ask_gpt(client: openai.AsyncOpenAI, said: object = PROMPT, **more: Any) -> Any:
    """Send one message; the client's types know more models and shapes than a test needs."""
    create: Any = client.chat.completions.create
    return await create(**{"model": "gpt-4o", "messages": [said], **more})


async def ask_claude(client: anthropic.AsyncAnthropic, said: object = PROMPT, **more: Any) -> Any:
    """Do the same with Anthropic's client."""
    create: Any = client.messages.create
    return await create(**{"model": "claude-mock", "max_tokens": 9, "messages": [said], **more})


@asynccontextmanager
async def gemini_client(stack: Stack, key: str) -> AsyncIterator[Any]:
    """Yield Google's client."""
    async with tls_client(stack) as https:
        options = types.HttpOptions(base_url=stack.facts.https_url, httpx_async_client=https)
        client = genai.Client(api_key=key, http_options=options)
        yield client.aio
        client.close()


@asynccontextmanager
async def gemini_models(stack: Stack, key: str) -> AsyncIterator[Any]:
    """Yield the models of Google's client."""
    async with gemini_client(stack, key) as client:
        yield client.models
