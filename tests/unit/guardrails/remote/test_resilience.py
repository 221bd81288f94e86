from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from sidecar.domain.finding import RemoteEvent
from sidecar.domain.guardrail_settings import (
    RemoteEndpoint,
    RemoteScope,
    ResilienceSettings,
    SecretsSettings,
    WebhookSettings,
)
from sidecar.domain.policy import Guardrail, Stage
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RemoteRequest,
    RemoteTimeoutError,
)
from sidecar.guardrails.remote.resilience import (
    BreakerScope,
    BreakerState,
    ResilienceOptions,
    ResilientChecks,
)
from sidecar.guardrails.remote.verdict_cache import VerdictCache
from tests.support.guardrails import parts_of, subject_of
from tests.support.remote_checks import ABOUT

PASS = RemoteAnswer("pass")
BLOCK = RemoteAnswer("block")
DOWN = RemoteCheckError("connection", RemoteFault.TRANSIENT)
BROKEN = RemoteCheckError("status_500", RemoteFault.SERVER)
RUBBISH = RemoteCheckError("answer_invalid", RemoteFault.ANSWER)
TOO_LARGE = RemoteCheckError("answer_too_large", RemoteFault.CONTENT)

Step = RemoteAnswer | RemoteCheckError | Callable[[], Awaitable[RemoteAnswer]]


@dataclass
class World:
    """A server that goes through its steps, the resilience layer around it, and what was heard."""

    steps: list[Step]
    now: float = 0.0
    asked: int = 0
    texts: list[list[str]] = field(default_factory=list)
    cancelled: int = 0
    events: list[RemoteEvent] = field(default_factory=list)
    breaker: list[tuple[BreakerScope, BreakerState]] = field(default_factory=list)
    longest_seconds: float = 60.0

    def __post_init__(self) -> None:
        self.checks = ResilientChecks(
            self,
            cache=VerdictCache(clock=lambda: self.now, secret=b"s"),
            options=ResilienceOptions(
                clock=lambda: self.now,
                jitter=lambda: 0.0,
                longest_seconds=self.longest_seconds,
                on_breaker=lambda _, scope, state: self.breaker.append((scope, state)),
            ),
        )

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Be the server: the next step, the last for ever."""
        self.asked += 1
        self.texts.append([part.content.decode() for part in request.subject.parts])
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, RemoteCheckError):
            raise step
        if isinstance(step, RemoteAnswer):
            return step
        try:
            return await step()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def request(
        self, resilience: ResilienceSettings, text: str = "text", *, timeout_seconds: float = 30
    ) -> RemoteRequest:
        """Return a question of a guardrail with this resilience."""
        settings = WebhookSettings(RemoteEndpoint("http://h/"), resilience)
        guardrail = Guardrail("dlp", settings, timeout_seconds=timeout_seconds)
        return RemoteRequest(
            guardrail, subject_of(text), ABOUT, stage=Stage.INPUT, note=self.events.append
        )

    async def ask(
        self, resilience: ResilienceSettings, text: str = "text", *, organization: str = "o1"
    ) -> RemoteAnswer | str:
        """Return the answer, or what was wrong."""
        request = self.request(resilience, text)
        about = replace(request.about, organization_id=organization)
        try:
            return await self.checks.check(replace(request, about=about))
        except RemoteCheckError as error:
            return error.error_type


async def hang() -> RemoteAnswer:
    await asyncio.Event().wait()
    raise AssertionError


ONCE = ResilienceSettings(retries=0)


@pytest.mark.parametrize(
    ("steps", "retries", "outcome", "asked"),
    [
        pytest.param([DOWN, PASS], 1, PASS, 2, id="passes"),
        pytest.param([DOWN, DOWN, PASS], 2, PASS, 3, id="passes later"),
        pytest.param([DOWN], 2, "connection", 3, id="stays"),
        pytest.param([DOWN, BLOCK], 0, "connection", 1, id="not asked for"),
        pytest.param([BROKEN, PASS], 3, "status_500", 1, id="may have been taken up"),
        pytest.param([RUBBISH, PASS], 3, "answer_invalid", 1, id="answered"),
    ],
)
async def test_only_a_failure_that_took_nothing_up_is_tried_again(
    steps: list[Step], retries: int, outcome: object, asked: int
) -> None:
    """As often as the policy says."""
    world = World(list(steps))
    assert await world.ask(ResilienceSettings(retries=retries)) == outcome
    assert (world.asked, world.events) == (asked, [RemoteEvent.RETRY] * (asked - 1))


async def test_no_retry_begins_when_the_time_is_over() -> None:
    """The failure is told at once rather than slept over."""
    world = World([])

    async def fails_late() -> RemoteAnswer:
        world.now += 31
        raise DOWN

    world.steps = [fails_late, PASS]
    assert await world.ask(ResilienceSettings(retries=3)) == "connection"
    assert world.asked == 1


@pytest.mark.parametrize("timeout_seconds", [0.02, 30.0], ids=["its own", "the exchange's"])
async def test_a_check_ends_with_its_time(timeout_seconds: float) -> None:
    """Within the guardrail's limit, and within what the exchange may take."""
    world = World([hang], longest_seconds=0.02)
    with pytest.raises(RemoteTimeoutError):
        await world.checks.check(world.request(ONCE, timeout_seconds=timeout_seconds))
    assert world.cancelled == 1


async def test_a_timeout_error_of_the_asker_is_no_timeout_of_the_check() -> None:
    """Only the limit's own counts as one."""

    async def fails() -> RemoteAnswer:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await World([fails]).ask(ONCE)


async def test_a_second_question_overtakes_the_first_that_hangs() -> None:
    """The answer of the hedge counts, and the first is let go."""
    world = World([hang, BLOCK])
    assert await world.ask(ResilienceSettings(hedge_after_seconds=0.01)) == BLOCK
    assert (world.asked, world.cancelled) == (2, 1)
    assert world.events == [RemoteEvent.HEDGE, RemoteEvent.HEDGE_WON]


async def test_an_answer_in_time_needs_no_hedge() -> None:
    """Nobody is asked twice for nothing."""
    world = World([PASS])
    assert await world.ask(ResilienceSettings(hedge_after_seconds=5)) == PASS
    assert (world.asked, world.events) == (1, [])


@pytest.mark.parametrize(("first", "told"), [(PASS, PASS), (RUBBISH, "answer_invalid")])
async def test_a_hedge_that_fails_leaves_the_first_to_answer(
    first: RemoteAnswer | RemoteCheckError, told: object
) -> None:
    """A failure is no answer while another may come; of two the first is told."""
    failed = asyncio.Event()

    async def slow() -> RemoteAnswer:
        await failed.wait()
        if isinstance(first, RemoteCheckError):
            raise first
        return first

    async def fails() -> RemoteAnswer:
        failed.set()
        raise BROKEN

    world = World([slow, fails])
    assert await world.ask(ResilienceSettings(retries=0, hedge_after_seconds=0.01)) == told
    assert world.events == [RemoteEvent.HEDGE]


async def test_a_failure_that_the_text_causes_is_an_answer_of_the_hedge_too() -> None:
    """Else a text that makes the first hang ends as a timeout, which `on_error` may let pass."""
    world = World([hang, TOO_LARGE])
    resilience = ResilienceSettings(retries=0, hedge_after_seconds=0.01)
    with pytest.raises(RemoteCheckError, match="answer_too_large"):
        await world.checks.check(world.request(resilience, timeout_seconds=1))
    assert world.cancelled == 1


async def test_a_hedge_needs_a_place_of_its_own() -> None:
    """A server that is full is not asked twice."""
    world = World([hang])
    resilience = ResilienceSettings(hedge_after_seconds=0.005, max_concurrent=1)
    with pytest.raises(RemoteTimeoutError):
        await world.checks.check(world.request(resilience, timeout_seconds=0.05))
    assert (world.asked, world.events) == (1, [])


async def test_more_checks_than_the_server_has_places_are_an_error_at_once() -> None:
    """And the next finds the place that has become free."""
    world = World([hang, PASS])
    resilience = ResilienceSettings(max_concurrent=1)
    first = asyncio.ensure_future(world.ask(resilience, "a"))
    await asyncio.sleep(0)
    assert await world.ask(resilience, "b") == "overloaded"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await world.ask(resilience, "b") == PASS


async def test_slow_checks_of_one_organization_leave_places_to_another() -> None:
    """Their hedges take places of the same share."""
    world = World([PASS, hang])
    resilience = ResilienceSettings(max_concurrent=4, hedge_after_seconds=0.005)
    assert await world.ask(resilience, organization="o2") == PASS
    slow = [asyncio.ensure_future(world.ask(resilience, organization="o1")) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert world.events == [RemoteEvent.HEDGE], "a second one would be beyond the share"
    world.steps = [PASS]
    assert await world.ask(resilience, organization="o1") == "overloaded"
    assert await world.ask(resilience, organization="o2") == PASS
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


BREAKING = ResilienceSettings(retries=0, breaker_failures=2, breaker_seconds=10)


async def test_a_server_that_fails_in_a_row_is_let_alone_then_tried_and_asked_again() -> None:
    """The whole way round, with what is shown of it."""
    world = World([BROKEN, BROKEN, PASS])
    outcomes = [await world.ask(BREAKING) for _ in range(3)]
    assert (outcomes, world.asked) == (["status_500", "status_500", "breaker_open"], 2)
    world.now = 10.0
    assert await world.ask(BREAKING) == PASS
    assert await world.ask(BREAKING) == PASS
    closed, opened = BreakerState.CLOSED, BreakerState.OPEN
    assert world.breaker[::2] == [(BreakerScope.ALL, closed)] * 4
    assert [state for _, state in world.breaker[1::2]] == [closed, opened, closed, closed]


async def test_an_organization_whose_texts_fail_the_server_keeps_no_other_from_it() -> None:
    """With `on_error: allow` the texts of the others would pass unscanned."""
    world = World([BROKEN, BROKEN, PASS])
    first = [await world.ask(BREAKING, organization="o1") for _ in range(3)]
    assert first == ["status_500", "status_500", "breaker_open"]
    assert await world.ask(BREAKING, organization="o2") == PASS
    assert await world.ask(BREAKING, organization="o1") == "breaker_open"


async def test_a_server_that_fails_two_organizations_is_asked_by_none() -> None:
    """Requests without an organization count as one more."""
    world = World([BROKEN])
    rows = [await world.ask(BREAKING, organization=one) for one in ("o1", "", "o3")]
    assert rows == ["status_500", "status_500", "breaker_open"]


async def test_a_server_is_tried_with_one_question() -> None:
    """Without a retry."""
    resilience = replace(BREAKING, retries=3, breaker_failures=1)
    world = World([DOWN])
    await world.ask(resilience)
    asked, world.now = world.asked, 10.0
    await world.ask(resilience)
    assert (asked, world.asked) == (4, 5)


@pytest.mark.parametrize("answer", [RUBBISH, TOO_LARGE])
async def test_answers_of_no_use_do_not_open_the_breaker(answer: RemoteCheckError) -> None:
    """Whoever writes the content can bring them about, and must not switch a guardrail off."""
    world = World([answer])
    assert [await world.ask(BREAKING) for _ in range(5)] == [answer.error_type] * 5
    assert {state for _, state in world.breaker} == {BreakerState.CLOSED}


async def test_a_check_that_nobody_waits_for_says_nothing_about_the_server() -> None:
    """A block elsewhere cancels it; a trial that ends so leaves room for another."""
    world = World([BROKEN, hang, PASS])
    resilience = replace(BREAKING, breaker_failures=1)
    await world.ask(resilience)
    world.now = 10.0
    trial = asyncio.ensure_future(world.ask(resilience))
    await asyncio.sleep(0)
    assert await world.ask(resilience) == "breaker_open"
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert await world.ask(resilience) == PASS


async def test_guardrails_with_other_credentials_have_a_breaker_of_their_own() -> None:
    """One tenant's wrong credential must not keep another from the same server."""
    world = World([BROKEN, PASS])
    resilience = replace(BREAKING, breaker_failures=1)
    await world.ask(resilience)
    endpoint = RemoteEndpoint("http://h/", (("authorization", "Bearer other"),))
    request = world.request(resilience)
    other = replace(request.guardrail, settings=WebhookSettings(endpoint, resilience))
    assert await world.checks.check(replace(request, guardrail=other)) == PASS


async def test_a_local_guardrail_is_no_question_for_a_server() -> None:
    """A mistake in the program, not in the policy; it must not look like a pass."""
    world = World([PASS])
    request = replace(world.request(ONCE), guardrail=Guardrail("s", SecretsSettings()))
    with pytest.raises(RemoteCheckError, match="not_remote"):
        await world.checks.check(request)


async def test_by_message_the_server_gets_what_it_has_not_judged_and_errors_stay_errors() -> None:
    world = World([PASS, BROKEN, BLOCK])
    care = ResilienceSettings(retries=0, cache_seconds=60, scope=RemoteScope.MESSAGE)
    parts = parts_of(["a", "b"])
    first = world.request(care)
    request = replace(first, subject=msgspec.structs.replace(first.subject, parts=parts))
    other = msgspec.structs.replace(parts[1], role="tool")
    more = msgspec.structs.replace(first.subject, parts=(*parts, other))
    assert await world.checks.check(request) == PASS
    with pytest.raises(RemoteCheckError, match="status_500"):
        await world.checks.check(replace(request, subject=more))
    assert await world.checks.check(replace(request, subject=more)) == BLOCK
    assert await world.checks.check(replace(request, subject=more)) == BLOCK
    assert world.texts == [["a", "b"], ["b"], ["b"]]
    assert world.events == [RemoteEvent.CACHE_HIT]
