"""The `webhook` guardrail: a JSON POST to a server of the user."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

import orjson
from pydantic import Field, model_validator

from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import WebhookSettings
from sidecar.guardrails.remote.checks import (
    MAX_FINDINGS,
    MAX_MESSAGE_CHARACTERS,
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RemoteRequest,
    StrictModel,
    read_json,
    with_byte_offsets,
)
from sidecar.guardrails.remote.http import HttpClient

MAX_ANSWER_BYTES: Final = 65_536


class _FindingAnswer(StrictModel):
    """A span in Unicode characters of one of the texts that were sent."""

    text: Annotated[int, Field(ge=0)]
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    type: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,39}$")]


class _Answer(StrictModel):
    """The whole answer. `message` is for the webhook's own logs; it goes nowhere from here."""

    verdict: Literal["pass", "flag", "block", "redact"]
    findings: Annotated[list[_FindingAnswer], Field(default_factory=list)]
    message: str | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.verdict == "redact" and not self.findings:
            raise ValueError("nothing to redact")
        if self.verdict == "pass" and self.findings:
            raise ValueError("findings in a pass")
        return self


class WebhookChecks:
    """Asks webhooks; a `RemoteChecks`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Ask the guardrail's webhook.

        Raises:
            RemoteCheckError: no connection, or an answer in another form.
        """
        settings = request.guardrail.settings
        if not isinstance(settings, WebhookSettings):
            raise RemoteCheckError("not_a_webhook", RemoteFault.LOCAL)
        body = await self._http.post(
            settings.endpoint, request_body(request), max_bytes=MAX_ANSWER_BYTES
        )
        return read_answer(body, request)


def request_body(request: RemoteRequest) -> bytes:
    """Return the JSON that a webhook receives; docs/guardrails.md describes it."""
    return orjson.dumps(
        {
            "guardrail": request.guardrail.name,
            "stage": request.stage.value,
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
    """Return the answer, with spans in bytes instead of characters.

    Raises:
        RemoteCheckError: it is not JSON of this form, or a span is outside its text.
    """
    answer = read_json(_Answer, body)
    is_too_long = len(answer.message or "") > MAX_MESSAGE_CHARACTERS
    if is_too_long or len(answer.findings) > MAX_FINDINGS:
        raise RemoteCheckError("answer_too_large", RemoteFault.CONTENT)
    findings = [
        Finding(request.guardrail.name, one.type, one.text, one.start, one.end)
        for one in answer.findings
    ]
    return RemoteAnswer(answer.verdict, with_byte_offsets(findings, request.subject.parts))
