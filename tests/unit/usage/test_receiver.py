"""Who a request was of that ended before Envoy had heard its verdict."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from sidecar.domain.usage import (
    NO_TOKENS,
    AnswerEnd,
    DecisionKind,
    Estimate,
    ExchangeEnded,
    UnmatchedEnd,
    UsageRecord,
)
from sidecar.settings.stores import UsageSource
from sidecar.telemetry.usage_metrics import UsageMetrics
from sidecar.usage.receiver import (
    EARLY_SECONDS,
    MAX_VERDICTS,
    VERDICT_SECONDS,
    OwnEndReceiver,
    PendingVerdicts,
)
from sidecar.usage.records import NotKeptError
from sidecar.usage.records import record_of as usage_record_of
from tests.support.usage import ended, judged


def name(number: int = 1) -> str:
    """Return what Envoy calls a stream."""
    return str(uuid.UUID(int=number))


def end(number: int = 1, status: int = 0) -> UnmatchedEnd:
    """Return the end of a stream whose client has left."""
    return UnmatchedEnd(
        stream=name(number), status=status, end=AnswerEnd.CLIENT_ABORTED, latency_seconds=0.5
    )


def without_use(number: int = 1, **changes: object) -> ExchangeEnded:
    """Return how a request ended that no provider has seen."""
    fields: dict[str, object] = {
        "status": 0, "end": AnswerEnd.CLIENT_ABORTED, "tokens": NO_TOKENS,
        "response_model": None, "latency_seconds": 0.5, "first_token_seconds": None,
        "output_seconds": None,
    }  # fmt: skip
    return ended(number, **{**fields, **changes})


class Worker:
    """A worker's memory, and everything around it; `told` is what the others are told."""

    def __init__(self, *, is_alone: bool = False, is_full: bool = False) -> None:
        self.now = 100.0
        self.heard: list[ExchangeEnded] = []
        self.kept: list[UsageRecord] = []
        self.told: list[UnmatchedEnd] = []
        self.count = 0
        self._is_full = is_full
        self.ends = PendingVerdicts(
            self,
            self,
            others=None if is_alone else self,
            clock=lambda: self.now,
            on_matched=self.found,
        )

    def found(self) -> None:
        """Count one."""
        self.count += 1

    def exchange_ended(self, one: ExchangeEnded, record: UsageRecord) -> None:
        """Receive it, with its record."""
        assert record == usage_record_of(one)
        self.heard.append(one)

    def publish(self, ends: Sequence[UnmatchedEnd]) -> None:
        """Tell the others."""
        self.told += ends

    async def keep(self, records: Sequence[UsageRecord]) -> None:
        """Keep them, unless it is full."""
        if self._is_full:
            raise NotKeptError
        self.kept += records


async def test_what_was_decided_here_ends_here() -> None:
    """It has used nothing; the others are told, since Envoy may have asked one of them too."""
    worker = Worker()
    worker.ends.add(name(), judged())
    worker.ends.match([end()])
    await asyncio.sleep(0)

    assert worker.heard == [without_use()]
    assert worker.kept == [usage_record_of(without_use())]
    assert (worker.kept[0].tokens, worker.kept[0].is_estimated) == (NO_TOKENS, False)
    assert (worker.told, worker.count) == ([end()], 1)


async def test_what_was_decided_elsewhere_is_told_and_ends_there() -> None:
    """Envoy's log goes to any worker."""
    here, there = Worker(), Worker()
    there.ends.add(name(), judged())
    here.ends.match([end()])
    there.ends.match_published(here.told)

    assert (here.heard, here.told) == ([], [end()])
    assert (there.heard, there.told) == ([without_use()], [])


async def test_nothing_is_given_back_twice() -> None:
    """An entry comes again where a worker died over it, and goes to another."""
    worker = Worker()
    worker.ends.add(name(), judged())
    worker.ends.match([end(), end()])
    worker.ends.match_published([end()])
    worker.ends.match([end()])

    assert worker.heard == [without_use()]


async def test_an_end_that_is_told_before_the_verdict_is_given_waits_for_it() -> None:
    """On another connection, by another worker: it may come first by a little."""
    worker = Worker()
    worker.ends.match_published([end()])
    worker.now += EARLY_SECONDS
    worker.ends.add(name(), judged())
    await asyncio.sleep(0)
    assert worker.heard == [without_use()]
    assert worker.kept == [usage_record_of(without_use())]

    worker.ends.match_published([end()])
    assert worker.heard == [without_use()]


async def test_another_stream_ends_nothing() -> None:
    """Only Envoy's own name of it does."""
    worker = Worker(is_alone=True)
    worker.ends.add(name(1), judged(1))
    worker.ends.match([end(2)])

    assert worker.heard == []


async def test_a_refusal_that_nobody_heard_is_a_refusal() -> None:
    """What was taken before a guardrail said no is given back all the same."""
    worker = Worker()
    refused = judged(decision=DecisionKind.DENY)
    worker.ends.add(name(), refused)
    worker.ends.match([end()])

    assert worker.heard == [without_use(request=refused, end=AnswerEnd.REFUSED)]


async def test_limits_are_put_right_though_nothing_can_be_recorded() -> None:
    """The record says then, later, that the request was lost."""
    worker = Worker(is_full=True)
    worker.ends.add(name(), judged())
    worker.ends.match([end()])
    await asyncio.sleep(0)

    assert (worker.heard, worker.kept) == ([without_use()], [])


async def test_only_so_many_of_a_while_are_remembered() -> None:
    """The oldest go first; nobody can have a worker keep more."""
    worker = Worker()
    worker.ends.add(name(1), judged(1))
    worker.now += VERDICT_SECONDS + 1
    worker.ends.add(name(2), judged(2))
    worker.ends.match([end(1), end(2)])
    assert worker.heard == [without_use(2)]

    for number in range(MAX_VERDICTS + 1):
        worker.ends.add(name(10 + number), judged())
    worker.ends.match([end(10)])
    assert worker.heard == [without_use(2)]
    worker.ends.match([end(11)])
    assert len(worker.heard) == 2


def spread(told: list[UnmatchedEnd], workers: Sequence[Worker]) -> None:
    """Tell all workers, the one that tells included."""
    for worker in workers:
        worker.ends.match_published(told)
    told.clear()


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 1), st.integers(0, 3)),
        max_size=40,
    )
)
def test_whatever_comes_first_and_however_often_each_ends_once(
    steps: list[tuple[bool, int, int]],
) -> None:
    """Two workers, four streams: what was decided and has ended is given back exactly once."""

    async def play() -> None:
        workers = [Worker(), Worker()]
        given, over = set[int](), set[int]()
        for is_end, index, number in steps:
            worker = workers[index]
            if is_end:
                over.add(number)
                worker.ends.match([end(number)])
                spread(worker.told, workers)
            elif number not in given:  # a stream has one verdict
                given.add(number)
                worker.ends.add(name(number), judged(number))
        heard = sorted(one.request.request_id for worker in workers for one in worker.heard)
        assert heard == sorted(f"request-{number}" for number in given & over)

    asyncio.run(play())


def own_ends(worker: Worker) -> tuple[OwnEndReceiver, CollectorRegistry]:
    """Return a worker's own way to account for its requests, and its metrics."""
    registry = CollectorRegistry()
    metrics = UsageMetrics(registry)
    return OwnEndReceiver(worker, worker, source=UsageSource.ANSWERS, metrics=metrics), registry


async def test_an_end_that_the_worker_saw_is_accounted_for_and_stored() -> None:
    """Limits at once, the record as soon as the disk takes it, several together."""
    worker = Worker()
    receiver, registry = own_ends(worker)
    early = ended(2, tokens=None, end=AnswerEnd.CLIENT_ABORTED)
    receiver.add(ended(1), None)
    receiver.add(early, Estimate.LEFT_EARLY)
    await receiver.aclose()

    assert worker.heard == [ended(1), early]
    assert worker.kept == [usage_record_of(ended(1)), usage_record_of(early)]
    counts = [
        registry.get_sample_value("egret_usage_requests_total", {"source": "answers"}),
        registry.get_sample_value("egret_usage_estimated_total", {"reason": "left_early"}),
    ]
    assert counts == [2, 1]


async def test_a_record_waits_while_nothing_takes_it_and_is_counted_if_it_never_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its note on the disk makes it a lost request in the end, so that it is not forgotten."""
    monkeypatch.setattr("sidecar.usage.receiver.CLOSING_SECONDS", 0.01)
    worker = Worker(is_full=True)
    receiver, registry = own_ends(worker)
    receiver.add(ended(1), None)
    await receiver.aclose()

    assert (worker.heard, worker.kept) == ([ended(1)], [])
    lost = registry.get_sample_value("egret_usage_lost_total", {"reason": "not_kept"})
    assert lost == 1
