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
"""The finding if the server flags a text and names no category."""

_Given = TypeVar("_Given", bool, float)
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
        """Send every text that is not blank, in one request.

        Raises:
            RemoteCheckError: no connection, or an answer that is not of such an API.
        """
        settings = request.guardrail.settings
        if not isinstance(settings, ModerationSettings):
            raise RemoteCheckError("not_a_moderation", RemoteFault.LOCAL)
        texts = _texts(request)
        if not texts:  # OpenAI's own refuses empty input
            return RemoteAnswer("pass")
        model = {} if settings.model is None else {"model": settings.model}
        body = await self._http.post(
            settings.endpoint,
            orjson.dumps({**model, "input": list(texts.values())}),
            max_bytes=MAX_ANSWER_BYTES,
        )
        return read_answer(body, request, settings)


def _texts(request: RemoteRequest) -> dict[int, str]:
    """Return the texts that are not blank, by their place in the subject."""
    decoded = ((i, part.content.decode()) for i, part in enumerate(request.subject.parts))
    return {i: text for i, text in decoded if text.strip()}


def read_answer(body: bytes, request: RemoteRequest, settings: ModerationSettings) -> RemoteAnswer:
    """Return one finding over a whole text for each category that counts.

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
    """Yield the finding's type of each category that counts, by the policy or by the server."""
    thresholds = dict(settings.thresholds)
    known = (*result.categories, *thresholds)
    is_flagged = False
    for category in dict.fromkeys(known if settings.categories is None else settings.categories):
        if (threshold := thresholds.get(category)) is not None:
            counts = _required(result.category_scores, category) >= threshold
        else:
            counts = _required(result.categories, category)
        if counts:
            is_flagged = True
            words = _NOT_IN_A_TYPE.sub("_", category.upper()).strip("_")[:_MAX_TYPE_CHARACTERS]
            yield words if words[:1].isalpha() else FLAGGED
    is_unnamed = settings.categories is None and not any(result.categories.values())
    if result.flagged and is_unnamed and not is_flagged:
        yield FLAGGED


def _required(given: dict[str, _Given | None], category: str) -> _Given:
    """Return the value of a category; one the server does not know must not look clean."""
    value = given.get(category)
    if value is None:
        raise RemoteCheckError("category_missing")
    return value
