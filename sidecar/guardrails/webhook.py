"""The webhook adapter: one HTTP request a check, and a strict reading of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final, Literal, Self

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import override
from yarl import URL

from sidecar.domain.finding import Finding
from sidecar.domain.remote_guardrails import WebhookSettings
from sidecar.domain.subject import TextPart
from sidecar.guardrails.addresses import is_refused_address
from sidecar.guardrails.remote import RemoteAnswer, RemoteCheckError, RemoteRequest

MAX_ANSWER_BYTES: Final = 65_536
MAX_CONNECTIONS: Final = 64
MAX_CONNECTIONS_A_HOST: Final = 32
_STATUS_OK: Final = 200


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class _FindingAnswer(_Strict):
    """A span in Unicode characters of one of the texts that were sent."""

    text: Annotated[int, Field(ge=0)]
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    type: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,39}$")]


class _Answer(_Strict):
    """The whole answer. `message` is for the webhook's own logs; it goes nowhere from here."""

    verdict: Literal["pass", "flag", "block", "redact"]
    findings: Annotated[list[_FindingAnswer], Field(max_length=2_000)] = []
    message: Annotated[str | None, Field(max_length=2_000)] = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.verdict == "redact" and not self.findings:
            raise ValueError("nothing to redact")
        if self.verdict == "pass" and self.findings:
            raise ValueError("findings in a pass")
        return self


class RefusedAddressError(OSError):
    """A name that resolves to an address no webhook may have."""


class GuardedResolver(AbstractResolver):
    """Resolves names; refuses one that has any address no webhook may have.

    The connection goes to the very addresses judged here, so that a second look-up with another
    answer (DNS rebinding) changes nothing.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    @override
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Return the addresses of *host*.

        Raises:
            RefusedAddressError: one of them is link-local, a metadata server's or no host's.
        """
        results = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]  # an int is what aiohttp passes
        if any(is_refused_address(result["host"]) for result in results):
            raise RefusedAddressError("refused address")
        return results

    @override
    async def close(self) -> None:
        """Close the resolver below."""
        await self._resolver.close()


class WebhookChecks:
    """Asks webhooks; a `RemoteChecks`. Used within a running event loop, closed at the end."""

    def __init__(self, *, resolver: AbstractResolver | None = None) -> None:
        connector = aiohttp.TCPConnector(
            limit=MAX_CONNECTIONS,
            limit_per_host=MAX_CONNECTIONS_A_HOST,
            resolver=GuardedResolver(resolver or ThreadedResolver()),
            ttl_dns_cache=10,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # the inspector's own limit holds
            auto_decompress=False,  # a small answer must not become a large one
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Ask the guardrail's webhook. A connection that fails is tried once more.

        Raises:
            RemoteCheckError: no connection, or an answer that is not what was agreed.
        """
        settings = request.guardrail.settings
        if not isinstance(settings, WebhookSettings):
            raise RemoteCheckError("not_a_webhook")
        if is_refused_address(URL(settings.endpoint.url).host or ""):
            raise RemoteCheckError("refused_address")
        body = request_body(request)
        try:
            try:
                answer = await self._post(settings, body)
            except aiohttp.ClientConnectionError:  # nobody has answered: asking again is safe
                answer = await self._post(settings, body)
        except aiohttp.ClientError as error:
            raise RemoteCheckError(_connection_problem(error)) from None
        return read_answer(answer, request)

    async def _post(self, settings: WebhookSettings, body: bytes) -> bytes:
        headers = {
            **dict(settings.endpoint.headers),
            "content-type": "application/json",
            "accept": "application/json",
            "accept-encoding": "identity",
        }
        async with self._session.post(
            settings.endpoint.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            if response.status != _STATUS_OK:
                raise RemoteCheckError(f"status_{response.status}")
            if response.content_type != "application/json":
                raise RemoteCheckError("content_type")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise RemoteCheckError("content_encoding")
            return await _read(response)


def open_webhooks() -> WebhookChecks:
    """Return the checks, to be used as an async context manager within the event loop."""
    return WebhookChecks()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_chunked(8_192):
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            response.close()  # not reused: the rest is still on its way
            raise RemoteCheckError("answer_too_large")
    return bytes(answer)


def _connection_problem(error: aiohttp.ClientError) -> str:
    match error:
        case aiohttp.ClientConnectorError(os_error=RefusedAddressError()):
            return "refused_address"
        case aiohttp.ClientSSLError():
            return "tls"
        case aiohttp.ClientConnectorDNSError():
            return "name_resolution"
        case aiohttp.InvalidURL():
            return "url"
        case aiohttp.ClientConnectionError():
            return "connection"
        case _:
            return "http"


def request_body(request: RemoteRequest) -> bytes:
    """Return the JSON a webhook is sent; docs/guardrails.md describes it."""
    return orjson.dumps(
        {
            "guardrail": request.guardrail.name,
            "stage": request.guardrail.stage.value,
            "request_id": request.about.request_id,
            "key_id": request.about.key_id,
            "model": request.about.model,
            "texts": [
                {"role": part.role, "text": part.content.decode()}
                for part in request.subject.parts
            ],
        }
    )


def read_answer(body: bytes, request: RemoteRequest) -> RemoteAnswer:
    """Return what an answer says, spans turned from characters into bytes.

    Raises:
        RemoteCheckError: it is not the JSON that was agreed, or a span is outside its text.
    """
    try:
        answer = _Answer.model_validate(orjson.loads(body))
    except (orjson.JSONDecodeError, ValidationError):
        raise RemoteCheckError("answer_invalid") from None
    findings = [
        Finding(request.guardrail.name, one.type, one.text, one.start, one.end)
        for one in answer.findings
    ]
    return RemoteAnswer(answer.verdict, _in_bytes(findings, request.subject.parts))


def _in_bytes(findings: Sequence[Finding], parts: Sequence[TextPart]) -> tuple[Finding, ...]:
    offsets: dict[int, set[int]] = {}
    for one in findings:
        offsets.setdefault(one.part, set()).update((one.start, one.end))
    places = {part: _byte_offsets(parts, part, sorted(wanted)) for part, wanted in offsets.items()}
    if any(one.start >= one.end for one in findings):
        raise RemoteCheckError("span_out_of_range")
    return tuple(
        replace(one, start=places[one.part][one.start], end=places[one.part][one.end])
        for one in findings
    )


def _byte_offsets(parts: Sequence[TextPart], part: int, wanted: list[int]) -> dict[int, int]:
    """Return the byte offset of each character offset in one go over the text."""
    if part >= len(parts):
        raise RemoteCheckError("span_out_of_range")
    text = parts[part].content.decode()
    if wanted[-1] > len(text):
        raise RemoteCheckError("span_out_of_range")
    places: dict[int, int] = {}
    seen_characters = seen_bytes = 0
    for offset in wanted:
        seen_bytes += len(text[seen_characters:offset].encode())
        seen_characters = offset
        places[offset] = seen_bytes
    return places
