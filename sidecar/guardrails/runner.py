"""Runs the guardrails of a policy over one request or answer, local ones and remote ones."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from itertools import chain
from typing import Final, Protocol, TypeVar

from sidecar.domain.cooperative import Cooperative
from sidecar.domain.finding import (
    Failure,
    FailureKind,
    GuardrailResult,
    NotedEvent,
    RemoteEvent,
    Results,
    Verdict,
)
from sidecar.domain.policy import (
    Guardrail,
    Mode,
    Stage,
)
from sidecar.domain.subject import Subject
from sidecar.guardrails.local_scan import LocalScan
from sidecar.guardrails.matching.rule import disjoint
from sidecar.guardrails.registry import rank_of
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteChecks,
    RemoteRequest,
    RequestInfo,
    verdict_of,
)

T = TypeVar("T", bound=tuple[object, ...])

HOLD_SECONDS: Final = 0.001
"""Length of a slice: how long one pass may hold the event loop at a time."""

LEVELS: Final = (8, 32, 128, 512)
"""Levels of the feedback queue, in slices used: a pass that has used more than 8, 32, … slices
moves to the next level."""

STARVATION_EVERY: Final = 4
"""Every fourth slice goes to the lowest-priority level, so that long passes do not starve."""

ROUND_SLICES: Final = 128
"""Slices in one round of fair sharing between organizations."""

ORGANIZATION: Final = ContextVar("organization", default="")
"""The organization for which this task works; all of its long passes share the loop with it."""

GRACE_SECONDS: Final = 0.1
"""How long a remote check may exceed its time limit, which it keeps itself, until cut off."""

_CLOSING: Final = frozenset({Verdict.BLOCK, Verdict.ERROR_CLOSED, Verdict.TIMEOUT_CLOSED})


class Inspectable(Protocol):
    """The guardrails of one side of an exchange."""

    @property
    def guardrails(self) -> tuple[Guardrail, ...]:
        """All of them, and maybe those of the other side, in the policy's order."""
        ...

    @property
    def local(self) -> LocalScan:
        """The guardrails that run within the process."""
        ...

    @property
    def remote(self) -> tuple[Guardrail, ...]:
        """The guardrails that ask a server."""
        ...


class _DecidedError(Exception):
    """Ends the group of remote checks: a block is known, nothing else can change it."""


class _Pass:
    """A pass that works in slices, of which it has used some; it may go on while `is_chosen`."""

    __slots__ = ("is_chosen", "organization", "slices")

    def __init__(self, organization: str) -> None:
        self.organization = organization
        self.slices = 1
        self.is_chosen = asyncio.Event()


class _FairScheduler:
    """Chooses the pass for the next slice: the first of the highest-priority level that has one.

    Round robin would end all passes when the last one ends, so that many at once would all be
    late. If each ran to its end, a next turn would wait for the first turns of other
    conversations, and these for texts that are made to be slow. So this is a multilevel feedback
    queue.

    It chooses among the organizations in the earliest round, so that no number of long texts
    delays those of another organization by more than a round.
    """

    def __init__(self) -> None:
        self._levels: tuple[list[_Pass], ...] = tuple([] for _ in (0, *LEVELS))
        self._choices = 0  # one for each slice, also for the last of a pass
        self._chosen: _Pass | None = None
        # Slices by organization. Those of one without a pass count on until no pass is left: else
        # an organization that sends one text after the other would begin anew with each.
        self._used: dict[str, int] = {}

    def enter(self, organization: str) -> _Pass:
        """Add a pass that has used one slice."""
        one = _Pass(organization)
        # One that comes has used as much as the others, not less: else it would catch up on them.
        least = min([self._used[other] for other in self._present()], default=0)
        self._used[organization] = max(self._used.get(organization, 0), least)
        self._level_of(one).append(one)
        if self._chosen is None:
            self._choose()
        return one

    def count_slice(self, one: _Pass) -> None:
        """Count a slice of the chosen pass, and choose the next."""
        before = self._level_of(one)
        one.slices += 1
        if (level := self._level_of(one)) is not before:
            before.remove(one)
            level.append(one)
        self._choose()

    def leave(self, one: _Pass) -> None:
        """Remove a pass that has ended, or is cancelled."""
        self._level_of(one).remove(one)
        if not any(self._levels):
            self._used.clear()
        if one is self._chosen:
            self._choose()

    def _present(self) -> set[str]:
        return {one.organization for one in chain(*self._levels)}

    def _level_of(self, one: _Pass) -> list[_Pass]:
        return self._levels[bisect_left(LEVELS, one.slices)]

    def _choose(self) -> None:
        if self._chosen is not None:
            self._chosen.is_chosen.clear()
            self._chosen = None
        rounds = {name: self._used[name] // ROUND_SLICES for name in self._present()}
        if not rounds:
            return
        self._choices += 1
        least = min(rounds.values())
        behind = {name for name, number in rounds.items() if number == least}
        levels = self._levels if self._choices % STARVATION_EVERY else self._levels[::-1]
        self._chosen = next(one for one in chain(*levels) if one.organization in behind)
        self._used[self._chosen.organization] += 1
        self._chosen.is_chosen.set()


class GuardrailRunner:
    """Runs guardrails over requests and answers. `clock` is monotonic seconds."""

    def __init__(self, *, remote: RemoteChecks, clock: Callable[[], float]) -> None:
        self._remote = remote
        self._clock = clock
        self._scheduler = _FairScheduler()

    def inspect(
        self, policy: Inspectable, subject: Subject, *, about: RequestInfo
    ) -> Results | Awaitable[Results]:
        """Return one result a guardrail that judges input, in the policy's order.

        They come at once if the local pass is short and no remote check can change the decision;
        else as an awaitable, whose cancellation cancels every remote check. The findings of all
        results that redact are disjoint.
        """
        started_at = self._clock()
        local = policy.local.start(subject.parts, subject.runs)
        if not isinstance(local, tuple):
            later = self.run_cooperatively(local)
            if not isinstance(later, tuple):
                return self._inspect_later(policy, later, started_at, subject, about)
            local = later
        elif not policy.remote:
            return local  # None of them has findings: nothing to make disjoint.
        return self.complete(policy, local, started_at, subject, about)

    def scan(self, policy: Inspectable, subject: Subject) -> Results | Awaitable[Results]:
        """Return the results of the local guardrails: at once if the pass is short."""
        local = policy.local.start(subject.parts, subject.runs)
        return local if isinstance(local, tuple) else self.run_cooperatively(local)

    async def _inspect_later(
        self,
        policy: Inspectable,
        scanning: Awaitable[Results],
        started_at: float,
        subject: Subject,
        about: RequestInfo,
    ) -> Results:
        results = self.complete(policy, await scanning, started_at, subject, about)
        return results if isinstance(results, tuple) else await results

    def run_cooperatively(self, steps: Cooperative[T]) -> T | Awaitable[T]:
        """Do all of the work now if it is short, else in turns with other requests."""
        done = self._advance(steps, until=self._clock() + HOLD_SECONDS)
        return self._finish(steps) if done is None else done

    def _advance(self, steps: Cooperative[T], *, until: float) -> T | None:
        """Work for a while; return the outcomes, or None if more is to be done."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                outcomes: T = end.value
                return outcomes
            if self._clock() >= until:
                return None

    async def _finish(self, steps: Cooperative[T]) -> T:
        """Go on with long work: one slice of one pass at a time, as ten would hold ten times."""
        own = self._scheduler.enter(ORGANIZATION.get())
        try:
            while True:
                await asyncio.sleep(0)
                await own.is_chosen.wait()
                outcomes = self._advance(steps, until=self._clock() + HOLD_SECONDS)
                if outcomes is not None:
                    return outcomes
                self._scheduler.count_slice(own)
        finally:
            self._scheduler.leave(own)

    def complete(
        self,
        policy: Inspectable,
        local: Results,
        started_at: float,
        subject: Subject,
        about: RequestInfo,
    ) -> Results | Awaitable[Results]:
        """Complete local results: by the remote checks, unless nothing depends on them.

        They run if the request is not refused already, and has text.
        """
        if not policy.remote:
            return _disjoint(local)
        now = self._clock()
        # The time of the local pass alone: the step of all guardrails includes the remote ones.
        local = tuple(
            [one._replace(started_at=started_at, seconds=now - started_at) for one in local]
        )
        if subject.parts and not any(_decides(result) for result in local):
            return self._ask_remote(policy, local, subject, about)
        verdict = Verdict.SKIPPED if subject.parts else Verdict.PASS
        skipped = [GuardrailResult(one, verdict, (), now, 0.0) for one in policy.remote]
        return _disjoint(_in_order(policy, (*local, *skipped)))

    async def _ask_remote(
        self, policy: Inspectable, local: Results, subject: Subject, about: RequestInfo
    ) -> Results:
        started_at = self._clock()
        remote: dict[str, GuardrailResult] = {}
        decided = False
        try:
            async with asyncio.TaskGroup() as group:
                for guardrail in policy.remote:
                    group.create_task(self._check_or_end(guardrail, subject, about, remote))
        except* _DecidedError:
            decided = True
        for guardrail in policy.remote:
            if guardrail.name not in remote:
                # Without a decision no task should be cancelled: an error, never a pass.
                failure = None if decided else Failure(FailureKind.ERROR, "cancelled")
                remote[guardrail.name] = GuardrailResult(
                    guardrail,
                    Verdict.SKIPPED if failure is None else failure.verdict(guardrail),
                    (),
                    started_at,
                    self._clock() - started_at,
                    failure,
                )
        return _disjoint(_in_order(policy, (*local, *remote.values())))

    async def _check_or_end(
        self,
        guardrail: Guardrail,
        subject: Subject,
        about: RequestInfo,
        results: dict[str, GuardrailResult],
    ) -> None:
        """Add the result of one remote check; a decision ends the group of them all."""
        events: list[NotedEvent] = []

        def note(event: RemoteEvent) -> None:
            events.append(NotedEvent(event, self._clock()))

        request = RemoteRequest(
            guardrail,
            subject,
            about,
            # Those of answers have this stage; one for both judges the request here.
            stage=Stage.OUTPUT if guardrail.stage is Stage.OUTPUT else Stage.INPUT,
            note=note,
        )
        started_at = self._clock()
        answer, failure = RemoteAnswer("pass"), None
        limit = asyncio.timeout(guardrail.timeout_seconds + GRACE_SECONDS)
        try:
            async with limit:
                answer = await self._remote.check(request)
        except RemoteCheckError as error:
            failure = error.failure
        except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
            failure = Failure.of(error)
            if limit.expired():
                failure = Failure(FailureKind.TIMEOUT, "timeout")
        results[guardrail.name] = result = GuardrailResult(
            guardrail,
            verdict_of(answer, guardrail.action)
            if failure is None
            else failure.verdict(guardrail),
            disjoint(answer.findings, rank=lambda one: rank_of(guardrail, one.type)),
            started_at,
            self._clock() - started_at,
            failure,
            answer.score,
            tuple(events),
        )
        if _decides(result):
            raise _DecidedError


def _decides(result: GuardrailResult) -> bool:
    """Return whether the request is refused, whatever other guardrails return."""
    return result.guardrail.mode is Mode.ENFORCE and result.verdict in _CLOSING


def _in_order(policy: Inspectable, results: Results) -> Results:
    by_name = {result.guardrail.name: result for result in results}
    return tuple(by_name[one.name] for one in policy.guardrails if one.name in by_name)


def _disjoint(results: Results) -> Results:
    """Return *results* with the findings of all that redact made disjoint."""
    redacting: dict[str, GuardrailResult] = {}
    for result in results:
        if result.verdict is Verdict.REDACT and result.guardrail.mode is Mode.ENFORCE:
            redacting[result.guardrail.name] = result
    if len(redacting) < 2:  # noqa: PLR2004 - one guardrail's own findings are disjoint already
        return results
    findings = disjoint(
        (finding for result in redacting.values() for finding in result.findings),
        rank=lambda one: rank_of(redacting[one.guardrail].guardrail, one.type),
    )
    return tuple(
        result._replace(
            findings=tuple(one for one in findings if one.guardrail == result.guardrail.name)
        )
        if result.guardrail.name in redacting
        else result
        for result in results
    )
