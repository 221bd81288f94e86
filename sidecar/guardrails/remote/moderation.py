"""The `moderation` guardrail: an OpenAI-compatible moderations API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, TypeVar

import orjson
from pydantic import FiniteFloat

from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import ModerationSettings
from sidecar.guardrails.remote.checks import (
    MAX_ANSWER_BYTES,
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RemoteRequest,
    TolerantModel,
    answer_for,
    read_json,
)
from sidecar.guardrails.remote.http import HttpClient

FLAGGED: Final = "FLAGGED"
"""The finding where the server flags a text and names no category."""

_Said = TypeVar("_Said", bool, float)
_NOT_IN_A_TYPE: Final = re.compile(r"[^A-Z0-9]+")
_MAX_TYPE_CHARACTERS: Final = 40


class _Result(TolerantModel):
    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, FiniteFloat | None]


class _Answer(TolerantModel):
    results: list[_Result]


class ModerationChecks:
    """Asks moderation servers; a `RemoteChecks`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Have every text that is not blank judged, in one request.

        Raises:
            RemoteCheckError: no connection, or an answer that is not of such an API.
        """
        settings = request.guardrail.settings
        if not isinstance(settings, ModerationSettings):
            raise RemoteCheckError("not_a_moderation", RemoteFault.LOCAL)
        texts = _texts(request)
        if not texts:  # OpenAI's own refuses empty input
            return RemoteAnswer("pass")
        body = await self._http.post(
            settings.endpoint, _request_body(settings, texts), max_bytes=MAX_ANSWER_BYTES
        )
        return read_answer(body, request, settings)


def _texts(request: RemoteRequest) -> dict[int, str]:
    """Return the texts that say anything, by their place in the subject."""
    decoded = ((i, part.content.decode()) for i, part in enumerate(request.subject.parts))
    return {i: text for i, text in decoded if text.strip()}


def _request_body(settings: ModerationSettings, texts: dict[int, str]) -> bytes:
    model = {} if settings.model is None else {"model": settings.model}
    return orjson.dumps({**model, "input": list(texts.values())})


def read_answer(body: bytes, request: RemoteRequest, settings: ModerationSettings) -> RemoteAnswer:
    """Return what an answer says: one finding over a whole text for each category that counts.

    Raises:
        RemoteCheckError: it is not one result a text, or lacks a category the policy names.
    """
    answer = read_json(_Answer, body)
    places = list(_texts(request))
    if len(answer.results) != len(places):
        raise RemoteCheckError("answer_invalid")
    findings = tuple(
        Finding(request.guardrail.name, type_, place, 0, len(request.subject.parts[place].content))
        for place, result in zip(places, answer.results, strict=True)
        for type_ in dict.fromkeys(_types(result, settings))
    )
    return answer_for(findings, request.guardrail.action)


def _types(result: _Result, settings: ModerationSettings) -> Iterator[str]:
    thresholds = dict(settings.thresholds)
    known = (*result.categories, *thresholds)
    chosen = dict.fromkeys(known if settings.categories is None else settings.categories)
    counted = [one for one in chosen if _counts(result, one, thresholds)]
    yield from map(_type_of, counted)
    is_unnamed = settings.categories is None and not any(result.categories.values())
    if result.flagged and is_unnamed and not counted:
        yield FLAGGED


def _counts(result: _Result, category: str, thresholds: dict[str, float]) -> bool:
    """Tell whether a category counts: by the policy's threshold, else by the server's word."""
    if (threshold := thresholds.get(category)) is not None:
        return _required(result.category_scores, category) >= threshold
    return bool(_required(result.categories, category))


def _required(said: dict[str, _Said | None], category: str) -> _Said:
    """Return what is said of a category; a name the server does not know must not look clean."""
    value = said.get(category)
    if value is None:
        raise RemoteCheckError("category_missing")
    return value


def _type_of(category: str) -> str:
    words = _NOT_IN_A_TYPE.sub("_", category.upper()).strip("_")[:_MAX_TYPE_CHARACTERS]
    return words if words[:1].isalpha() else FLAGGED
