"""The providers' own Python clients, unchanged but for base URL and key, over TLS."""

from __future__ import annotations

import ssl

import httpx2
import openai

from tests.support.stack import Stack


def tls_client(stack: Stack) -> httpx2.AsyncClient:
    """Return a client of HTTP that believes the stack's certificates."""
    return httpx2.AsyncClient(verify=ssl.create_default_context(cafile=str(stack.facts.ca_file)))


def openai_client(stack: Stack, key: str) -> openai.AsyncOpenAI:
    """Return OpenAI's client, which asks once."""
    return openai.AsyncOpenAI(
        base_url=f"{stack.facts.https_url}/v1",
        api_key=key,
        http_client=tls_client(stack),
        max_retries=0,
    )
