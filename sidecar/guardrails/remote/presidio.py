"""The `presidio` guardrail: Presidio's analyzer over HTTP."""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import Field, FiniteFloat, RootModel

from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import PresidioSettings
from sidecar.guardrails.remote.checks import (
    MAX_ANSWER_BYTES,
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RemoteRequest,
    TolerantModel,
    answer_for,
    read_json,
    with_byte_offsets,
)
from sidecar.guardrails.remote.http import HttpClient


class _Entity(TolerantModel):
    """A span in Unicode characters (code points), as Python counts."""

    entity_type: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,39}$")]
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    score: FiniteFloat


class _Answer(RootModel[list[list[_Entity]]]):
    """One list for each text that was sent."""


class PresidioChecks:
    """Asks Presidio analyzers; a `RemoteChecks`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Send every text, in one request.

        Raises:
            RemoteCheckError: no connection, or an answer that is not an analyzer's.
        """
        settings = request.guardrail.settings
        if not isinstance(settings, PresidioSettings):
            raise RemoteCheckError("not_a_presidio", RemoteFault.LOCAL)
        if not request.subject.parts:  # the analyzer refuses a request without text
            return RemoteAnswer("pass")
        entities = {} if settings.entities is None else {"entities": settings.entities}
        question = {
            "text": [part.content.decode() for part in request.subject.parts],
            "language": settings.language,
            "score_threshold": settings.min_score,
            **entities,
        }
        body = await self._http.post(
            settings.endpoint, orjson.dumps(question), max_bytes=MAX_ANSWER_BYTES
        )
        return read_answer(body, request, settings)


def read_answer(body: bytes, request: RemoteRequest, settings: PresidioSettings) -> RemoteAnswer:
    """Return the answer, with spans in bytes instead of characters.

    Raises:
        RemoteCheckError: it is not a list of entities a text, or a span is outside its text.
    """
    texts = read_json(_Answer, body).root
    if len(texts) != len(request.subject.parts):
        raise RemoteCheckError("answer_invalid")
    findings = [
        Finding(request.guardrail.name, one.entity_type, index, one.start, one.end)
        for index, entities in enumerate(texts)
        for one in entities
        # The server may have sent more than the call requested.
        if one.score >= settings.min_score
        and (settings.entities is None or one.entity_type in settings.entities)
    ]
    return answer_for(with_byte_offsets(findings, request.subject.parts), request.guardrail.action)
