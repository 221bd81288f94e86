from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from sidecar.domain.finding import Finding, RemoteEvent
from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    ModerationSettings,
    RemoteEndpoint,
    WebhookSettings,
)
from sidecar.domain.policy import Action, Guardrail, Stage
from sidecar.domain.subject import TextPart
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteRequest,
    RequestInfo,
)
from sidecar.guardrails.remote.verdict_cache import VerdictCache, request_digest
from tests.support.guardrails import subject_of
from tests.support.remote_checks import ABOUT, Clock

HOOK = WebhookSettings(RemoteEndpoint("http://h/"))
REQUEST = RemoteRequest(Guardrail("g", HOOK), subject_of("a", "b"), ABOUT, stage=Stage.INPUT)
SECRET = b"0" * 32


class Server:
    """Answers with what it is told, once it may."""

    def __init__(self, answer: RemoteAnswer | Exception = RemoteAnswer("pass")) -> None:  # noqa: B008 - frozen
        self.answer = answer
        self.asked = 0
        self.cancelled = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> RemoteAnswer:
        """Answer a question."""
        self.asked += 1
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> VerdictCache:
    return VerdictCache(clock=clock, secret=SECRET)


def hearing(events: list[RemoteEvent]) -> RemoteRequest:
    return replace(REQUEST, note=events.append)


async def test_an_answer_is_kept_for_as_long_as_the_policy_says(
    cache: VerdictCache, clock: Clock
) -> None:
    """Not a moment longer, and a hit is noted."""
    server, events = Server(), list[RemoteEvent]()
    for now in (0.0, 9.9, 10.0):
        clock.now = now
        await cache.answer(hearing(events), server, keep_seconds=10)
    assert (server.asked, events) == (2, [RemoteEvent.CACHE_HIT])


async def test_an_error_is_not_kept(cache: VerdictCache) -> None:
    """The next request asks again."""
    server = Server(RemoteCheckError("connection"))
    for _ in range(2):
        with pytest.raises(RemoteCheckError):
            await cache.answer(REQUEST, server, keep_seconds=10)
    assert server.asked == 2


async def test_equal_questions_at_a_time_are_asked_once(cache: VerdictCache) -> None:
    """All get the one answer, or the one error."""
    server, events = Server(RemoteAnswer("block")), list[RemoteEvent]()
    server.may_answer.clear()
    asking = [
        asyncio.ensure_future(cache.answer(hearing(events), server, keep_seconds=10))
        for _ in range(3)
    ]
    await asyncio.sleep(0.01)
    server.may_answer.set()
    assert await asyncio.gather(*asking) == [RemoteAnswer("block")] * 3
    assert (server.asked, events) == (1, [RemoteEvent.JOINED] * 2)


async def test_one_who_goes_away_takes_nothing_from_the_others(cache: VerdictCache) -> None:
    """Even the one who asked first; the last to go ends the question."""
    server = Server()
    server.may_answer.clear()
    first, second = (
        asyncio.ensure_future(cache.answer(REQUEST, server, keep_seconds=10)) for _ in range(2)
    )
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    assert (server.asked, server.cancelled) == (1, 0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert server.cancelled == 1
    server.may_answer.set()
    assert await cache.answer(REQUEST, server, keep_seconds=10) == RemoteAnswer("pass")


async def test_nobody_joins_a_question_that_was_given_up(cache: VerdictCache) -> None:
    """In the very moment after its last waiter has gone."""
    server = Server()
    server.may_answer.clear()
    first = asyncio.ensure_future(cache.answer(REQUEST, server, keep_seconds=10))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.may_answer.set()
    assert await cache.answer(REQUEST, server, keep_seconds=10) == RemoteAnswer("pass")


async def test_what_is_kept_is_bounded(clock: Clock) -> None:
    """The least recently used goes; an answer that would fill the cache is not kept at all."""
    cache = VerdictCache(clock=clock, secret=SECRET, max_bytes=32_000)
    server = Server()
    for index in range(40):
        request = replace(REQUEST, subject=subject_of(str(index)))
        await cache.answer(request, server, keep_seconds=10)
    await cache.answer(replace(REQUEST, subject=subject_of("39")), server, keep_seconds=10)
    assert server.asked == 40
    await cache.answer(replace(REQUEST, subject=subject_of("0")), server, keep_seconds=10)
    assert server.asked == 41
    large = Server(RemoteAnswer("flag", (Finding("g", "X", 0, 0, 1),) * 2_000))
    for _ in range(2):
        await cache.answer(REQUEST, large, keep_seconds=10)
    assert large.asked == 2


def _settings(settings: WebhookSettings | GrpcSettings | ModerationSettings) -> RemoteRequest:
    return replace(REQUEST, guardrail=Guardrail("g", settings))


def _about(**changes: str) -> Callable[[], RemoteRequest]:
    return lambda: replace(REQUEST, about=replace(ABOUT, **changes))


OTHER_QUESTIONS: dict[str, Callable[[], RemoteRequest]] = {
    "text": lambda: replace(REQUEST, subject=subject_of("a", "c")),
    "split": lambda: replace(REQUEST, subject=subject_of("ab")),
    "order": lambda: replace(REQUEST, subject=subject_of("b", "a")),
    "role": lambda: replace(
        REQUEST,
        subject=msgspec.structs.replace(
            REQUEST.subject,
            parts=(TextPart(b"a", (0,), "system"), TextPart(b"b", (1,), "user")),
        ),
    ),
    "stage": lambda: replace(REQUEST, stage=Stage.OUTPUT),
    "name": lambda: replace(REQUEST, guardrail=replace(REQUEST.guardrail, name="h")),
    "action": lambda: replace(REQUEST, guardrail=replace(REQUEST.guardrail, action=Action.FLAG)),
    "url": lambda: _settings(WebhookSettings(RemoteEndpoint("http://h/2"))),
    "credential": lambda: _settings(WebhookSettings(RemoteEndpoint("http://h/", (("a", "b"),)))),
    "type": lambda: _settings(GrpcSettings(RemoteEndpoint("http://h/"))),
    "key": _about(key_id="k2"),
    "organization": _about(organization_id="o2"),
    "model": _about(model="gpt-4"),
}


@pytest.mark.parametrize("case", OTHER_QUESTIONS)
def test_another_question_has_another_digest(case: str) -> None:
    """Nobody gets the answer to what somebody else asked of somebody else."""
    other = OTHER_QUESTIONS[case]()
    assert request_digest(other, secret=SECRET) != request_digest(REQUEST, secret=SECRET)


def test_the_request_id_is_no_part_of_the_question() -> None:
    """No two would ever be equal."""
    other = replace(REQUEST, about=RequestInfo("r2", ABOUT.key_id, ABOUT.model))
    assert request_digest(other, secret=SECRET) == request_digest(REQUEST, secret=SECRET)


def test_who_asks_is_no_part_of_a_question_that_does_not_say_so() -> None:
    """A moderation server is sent the text alone."""
    moderation = _settings(ModerationSettings(RemoteEndpoint("http://h/")))
    other = replace(moderation, about=RequestInfo("r2", "k2", "gpt-4"))
    assert request_digest(other, secret=SECRET) == request_digest(moderation, secret=SECRET)


async def test_a_verdict_of_another_organization_is_not_known(cache: VerdictCache) -> None:
    """Else the time that a request takes would show what others have sent."""
    server = Server()
    moderation = _settings(ModerationSettings(RemoteEndpoint("http://h/")))
    for organization_id in ("o1", "o2", "o1"):
        about = replace(ABOUT, organization_id=organization_id)
        request = replace(moderation, about=about)
        await cache.answer(request, server, keep_seconds=10)
    assert server.asked == 2


def test_a_digest_says_nothing_without_the_secret() -> None:
    """What is in memory or in a crash dump cannot be tried against guessed texts."""
    assert request_digest(REQUEST, secret=b"1") != request_digest(REQUEST, secret=b"2")
