"""`scope: message`: a server receives the messages that it has not judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from sidecar.domain.finding import Finding, RemoteEvent
from sidecar.domain.guardrail_settings import RemoteEndpoint, WebhookSettings
from sidecar.domain.policy import Guardrail, Stage
from sidecar.domain.subject import Subject, TextPart
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteRequest,
    RemoteVerdict,
)
from sidecar.guardrails.remote.verdict_cache import VerdictCache
from tests.support.remote_checks import ABOUT

GUARDRAIL = Guardrail("g", WebhookSettings(RemoteEndpoint("http://h/")))
SECRET = b"0" * 32


@dataclass
class Server:
    """Finds `bad` in texts; `verdict` is its answer then, without findings if it is vague."""

    verdict: RemoteVerdict = "redact"
    is_vague: bool = False
    score: float | None = None
    error: RemoteCheckError | None = None
    received: list[list[str]] = field(default_factory=list)

    async def __call__(self, request: RemoteRequest) -> RemoteAnswer:
        """Answer a check."""
        texts = [part.content.decode() for part in request.subject.parts]
        self.received.append(texts)
        if self.error is not None:
            raise self.error
        found = tuple(
            Finding("g", "BAD", at, text.index("bad"), text.index("bad") + 3)
            for at, text in enumerate(texts)
            if "bad" in text
        )
        if not found:
            return RemoteAnswer("pass", score=self.score)
        return RemoteAnswer(self.verdict, () if self.is_vague else found, self.score)


@dataclass
class Worker:
    """A worker's cache and one server."""

    server: Server = field(default_factory=Server)
    now: float = 0.0
    events: list[RemoteEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open the cache."""
        self.cache = VerdictCache(clock=lambda: self.now, secret=SECRET)

    async def check(self, *texts: str, roles: str = "ua", key_id: str = "k1") -> RemoteAnswer:
        """Check a conversation of users and assistants in turn, or of these *roles*."""
        return await self.cache.answer_by_message(
            request(texts, roles, key_id, self.events), self.server, keep_seconds=900
        )


def request(
    texts: Sequence[str], roles: str, key_id: str, events: list[RemoteEvent]
) -> RemoteRequest:
    parts = tuple(
        TextPart(text.encode(), (at,), roles[at % len(roles)]) for at, text in enumerate(texts)
    )
    subject = Subject("gpt-5", streamed=False, parts=parts)
    about = replace(ABOUT, key_id=key_id)
    return RemoteRequest(GUARDRAIL, subject, about, stage=Stage.INPUT, note=events.append)


def found(answer: RemoteAnswer) -> list[tuple[int, int, int]]:
    return [(one.part, one.start, one.end) for one in answer.findings]


async def test_a_next_turn_sends_only_the_messages_that_it_adds() -> None:
    worker = Worker()
    assert await worker.check("a", "b") == RemoteAnswer("pass")
    assert await worker.check("a", "b", "c") == RemoteAnswer("pass")
    assert await worker.check("c", "b", "a") == RemoteAnswer("pass")
    assert worker.server.received == [["a", "b"], ["c"]]
    assert worker.events == [RemoteEvent.CACHE_HIT]


async def test_findings_of_old_and_new_messages_have_their_places_in_the_whole() -> None:
    worker = Worker()
    assert found(await worker.check("a", "so bad", "c")) == [(1, 3, 6)]
    answer = await worker.check("new", "so bad", "c", "bad too")
    assert (answer.verdict, found(answer)) == ("redact", [(1, 3, 6), (3, 0, 3)])
    assert worker.server.received[1:] == [["new", "bad too"]]
    again = await worker.check("so bad", "x", roles="au")
    assert found(again) == [(0, 3, 6)]
    assert worker.server.received[2:] == [["x"]]


async def test_neighbours_of_one_role_are_one_message() -> None:
    """The model reads them as one text: half of a value in each is for one call."""
    worker = Worker()
    await worker.check("half", "other half", "c", roles="uua")
    await worker.check("half", "x", roles="ua")
    assert worker.server.received == [["half", "other half", "c"], ["half", "x"]]


async def test_a_text_in_another_role_or_of_another_key_is_another_message() -> None:
    worker = Worker()
    await worker.check("a")
    await worker.check("a", roles="t")
    await worker.check("a", key_id="k2")
    assert worker.server.received == [["a"]] * 3


async def test_a_verdict_is_kept_for_as_long_as_the_policy_says() -> None:
    worker = Worker()
    await worker.check("a")
    worker.now = 899.0
    await worker.check("a", "b")
    worker.now = 900.0
    await worker.check("a", "b")
    assert worker.server.received == [["a"], ["b"], ["a"]]


async def test_an_error_is_not_kept_and_takes_no_verdict_away() -> None:
    worker = Worker()
    await worker.check("a", "b")
    worker.server.error = RemoteCheckError("connection")
    for _ in range(2):
        with pytest.raises(RemoteCheckError):
            await worker.check("a", "b", "c")
    worker.server.error = None
    await worker.check("a", "b", "c")
    assert worker.server.received == [["a", "b"], ["c"], ["c"], ["c"]]


async def test_a_known_message_that_blocks_needs_no_call() -> None:
    worker = Worker(Server("block"))
    assert (await worker.check("a", "bad")).verdict == "block"
    answer = await worker.check("new", "bad", "more")
    assert (answer.verdict, found(answer)) == ("block", [(1, 0, 3)])
    assert worker.server.received == [["a", "bad"]]


async def test_a_block_says_nothing_about_messages_without_findings() -> None:
    worker = Worker(Server("block"))
    await worker.check("a", "bad")
    await worker.check("a", "good")
    assert worker.server.received == [["a", "bad"], ["a", "good"]]


@pytest.mark.parametrize("verdict", ["flag", "block"])
async def test_a_verdict_without_findings_is_kept_only_for_a_single_message(
    verdict: RemoteVerdict,
) -> None:
    worker = Worker(Server(verdict, is_vague=True))
    assert (await worker.check("a", "bad")).verdict == verdict
    assert (await worker.check("a", "b")).verdict == "pass"
    assert (await worker.check("a", "bad")).verdict == verdict
    assert (await worker.check("a", "bad")).verdict == verdict
    assert worker.server.received == [["a", "bad"], ["a", "b"], ["bad"]]


async def test_the_strictest_verdict_decides_with_its_own_findings() -> None:
    """A value that was only flagged is not redacted because of another."""
    worker = Worker(Server("flag"))
    await worker.check("bad")
    worker.server.verdict = "redact"
    answer = await worker.check("bad", "bad too")
    assert (answer.verdict, found(answer)) == ("redact", [(1, 0, 3)])
    assert (await worker.check("bad", "fine")).verdict == "flag"


async def test_the_highest_score_counts() -> None:
    worker = Worker(Server(score=0.4))
    await worker.check("a")
    worker.server.score = 0.2
    assert (await worker.check("a", "b")).score == 0.4
    assert (await worker.check("b", roles="a")).score == 0.2
