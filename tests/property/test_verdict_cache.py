from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from sidecar.domain.finding import Finding
from sidecar.domain.guardrail_settings import RemoteEndpoint, WebhookSettings
from sidecar.domain.policy import Action, Guardrail, Stage
from sidecar.domain.subject import TextPart
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteRequest,
    answer_for,
)
from sidecar.guardrails.remote.verdict_cache import VerdictCache
from tests.support.guardrails import subject_of
from tests.support.remote_checks import ABOUT

KEEP_SECONDS = 10.0
TEXTS = ("a", "b", "c", "d")
GUARDRAIL = Guardrail("g", WebhookSettings(RemoteEndpoint("http://h/")))


class CacheModel(RuleBasedStateMachine):
    """Requests ask, are given up and are answered, well or badly, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.version = 0
        self.cache = VerdictCache(clock=lambda: self.now, secret=b"s", max_bytes=40_000)
        self.asked: dict[str, asyncio.Future[RemoteAnswer]] = {}
        self.waiting: list[tuple[str, asyncio.Task[RemoteAnswer]]] = []
        self.given_at: dict[RemoteAnswer, tuple[str, float]] = {}
        self.asking = Counter[str]()

    @override
    def teardown(self) -> None:
        """Give up what is left."""
        for _, task in self.waiting:
            task.cancel()
        self.run(asyncio.sleep(0))
        self.settle()
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end."""
        self.loop.run_until_complete(coroutine)

    def settle(self) -> None:
        """Let everything happen that needs no more time."""
        for _ in range(6):
            self.run(asyncio.sleep(0))

    def server(self, text: str) -> Callable[[], Coroutine[Any, Any, RemoteAnswer]]:
        """Return a server's answer to a question, which comes when it is told to."""

        async def answer() -> RemoteAnswer:
            self.asking[text] += 1
            future: asyncio.Future[RemoteAnswer] = self.loop.create_future()
            self.asked[text] = future
            try:
                return await future
            finally:
                self.asking[text] -= 1
                if self.asked.get(text) is future:
                    del self.asked[text]

        return answer

    @rule(text=st.sampled_from(TEXTS))
    def ask(self, text: str) -> None:
        """A request with this text comes."""
        request = RemoteRequest(GUARDRAIL, subject_of(text), ABOUT, stage=Stage.INPUT)
        answering = self.cache.answer(request, self.server(text), keep_seconds=KEEP_SECONDS)
        self.waiting.append((text, self.loop.create_task(answering)))
        self.settle()

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), is_well=st.booleans())
    def answer(self, data: st.DataObject, *, is_well: bool) -> None:
        """The server answers one of the questions, or fails."""
        text = data.draw(st.sampled_from(sorted(self.asked)))
        future = self.asked[text]
        if is_well:
            self.version += 1
            answer = RemoteAnswer("flag", (Finding("g", "X", 0, 0, self.version),))
            self.given_at[answer] = (text, self.now)
            future.set_result(answer)
        else:
            future.set_exception(RemoteCheckError("connection"))
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """One of those who wait goes away."""
        index = data.draw(st.integers(0, len(self.waiting) - 1))
        self.waiting[index][1].cancel()
        self.settle()

    @invariant()
    def answers_are_to_the_question_and_fresh(self) -> None:
        """Whoever has an answer has one to the own text, given no longer ago than it is kept."""
        for text, task in self.waiting:
            if task.done() and not task.cancelled() and task.exception() is None:
                asked, given_at = self.given_at[task.result()]
                assert asked == text
                assert self.now - given_at < KEEP_SECONDS or self.now == given_at
        self.waiting = [one for one in self.waiting if not one[1].done()]

    @invariant()
    def one_question_at_a_time_and_none_for_nobody(self) -> None:
        """The server is asked once for all who wait, and let go with the last of them."""
        waiting = {text for text, _ in self.waiting}
        assert {text: n for text, n in self.asking.items() if n} == dict.fromkeys(waiting, 1)


CacheModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnswerCache = CacheModel.TestCase


class JudgingTexts:
    """A server that judges each text by itself."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    async def __call__(self, request: RemoteRequest) -> RemoteAnswer:
        """Answer a check, and remember the texts."""
        self.received += [part.content for part in request.subject.parts]
        return self.judged(request)

    @staticmethod
    def judged(request: RemoteRequest) -> RemoteAnswer:
        """Return the answer for all texts."""
        found = tuple(
            Finding("g", "X", at, place, place + 1)
            for at, part in enumerate(request.subject.parts)
            for place in range(len(part.content))
            if part.content[place : place + 1] == b"x"
        )
        return answer_for(found, request.guardrail.action)


@given(
    st.lists(
        st.tuples(st.sampled_from("ust"), st.sampled_from(["a", "b", "axx", "x"])), min_size=1
    ),
    st.lists(st.integers(1, 30), max_size=6),
    st.sampled_from(Action),
)
def test_by_message_a_server_that_judges_each_text_gives_the_answer_for_the_whole(
    said: list[tuple[str, str]], ends: list[int], action: Action
) -> None:
    """Whatever part of the conversation came before; but that a block names its message alone."""
    server, cache = JudgingTexts(), VerdictCache(clock=lambda: 0.0, secret=b"s")
    guardrail = replace(GUARDRAIL, action=action)
    for end in (*ends, len(said)):
        parts = tuple(
            TextPart(text.encode(), (at,), role) for at, (role, text) in enumerate(said[:end])
        )
        subject = msgspec.structs.replace(subject_of(""), parts=parts)
        request = RemoteRequest(guardrail, subject, ABOUT, stage=Stage.INPUT)
        answer = asyncio.run(cache.answer_by_message(request, server, keep_seconds=1))
        whole = server.judged(request)
        assert answer.verdict == whole.verdict
        if action is Action.BLOCK:
            assert set(answer.findings) <= set(whole.findings)
        else:
            assert answer == whole
