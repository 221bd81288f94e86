"""The pipeline of a worker on real parts; only the stores and the remote checks are fakes.

A request is played message by message, as bytes, and what comes back is read as Envoy would.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final

from prometheus_client import CollectorRegistry

from sidecar.domain.finding import Finding, FindingCount
from sidecar.domain.http import HeaderMutation, Headers
from sidecar.domain.limits import LimitStatus
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.domain.report import Clocks
from sidecar.domain.usage import Estimate, ExchangeEnded, JudgedRequest
from sidecar.extproc.phases import BodyMode
from sidecar.extproc.stream import Budgets, OverloadGuard
from sidecar.guardrails.message_table import MessageTable
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest, RemoteVerdict
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.keys.cache import KeyCache
from sidecar.keys.credentials import ApiKey
from sidecar.keys.ports import KeyStoreUnavailableError, LoadedKey
from sidecar.limits.limit_check import LimitCheck
from sidecar.limits.limiter import Granted, LimitDecision, Limited
from sidecar.limits.store import Adjustment
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.request import serve
from sidecar.policy.parse import parse_policies
from sidecar.policy.snapshot import PolicySnapshot
from sidecar.settings.serving import RouteByModel, Timing
from sidecar.settings.stores import ReadAnswers, UsageSource
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.logs import configure_logs
from sidecar.telemetry.recorder import Recorder
from sidecar.usage.prices import Price, PriceList
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import message_of, with_modes
from tests.support.guardrails import snapshot_of
from tests.support.keys import record_of
from tests.support.memory_stream import MemoryStream

KEY: Final = ApiKey(key_id="abcdefghijkl", secret="S" * 43)
NOW: Final = 1_700_000_000.0
PATIENT: Final = Budgets(
    authorize_seconds=30, body_seconds=30, body_idle_seconds=30, inspect_seconds=30
)
REQUEST_ID: Final = "5d0c3a0e-6c0e-4a55-9a0e-0d9d6f0f0a01"

TURNS: Final = 12
"""Of the loop, after which what does not wait for time has been done."""


def chat(content: object = "Hello.", **more: object) -> bytes:
    """Return the body of a chat request."""
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "gpt-5", "messages": messages, **more}).encode()


@dataclass
class DictStore:
    """The port `KeyStore` over a dictionary; `is_down` makes it unavailable."""

    records: dict[str, KeyRecord] = field(default_factory=dict)
    is_down: bool = False

    async def load(self, key_id: str) -> LoadedKey:
        """Return what the dictionary holds."""
        if self.is_down:
            raise KeyStoreUnavailableError("down")
        return LoadedKey(self.records.get(key_id))


@dataclass
class ScriptedRemote:
    """The port `RemoteChecks`: each guardrail answers as told, after a turn or after `until`.

    With an `error`, it raises that instead; `was_cancelled` is set once a check was.
    """

    verdict: RemoteVerdict = "pass"
    asked: list[RemoteRequest] = field(default_factory=list)
    findings: tuple[Finding, ...] = ()
    until: asyncio.Event | None = None
    error: BaseException | None = None
    was_cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Answer as told."""
        self.asked.append(request)
        try:
            await (asyncio.sleep(0) if self.until is None else self.until.wait())
        except asyncio.CancelledError:
            self.was_cancelled.set()
            if self.error is None:
                raise
        if self.error is not None:
            raise self.error
        return RemoteAnswer(self.verdict, self.findings)


@dataclass
class NotedUses:
    """The port `KeyUses`: a list of key, whether refused, and when."""

    noted: list[tuple[str, bool, float]] = field(default_factory=list)

    def note(self, key_id: str, *, refused: bool, at: float) -> None:
        """Keep the use."""
        self.noted.append((key_id, refused, at))


@dataclass
class NotedFindings:
    """The port `FindingNotes`: a list of policy, guardrail, type, role, verdict and number."""

    noted: list[tuple[str, str, str, str, str, int]] = field(default_factory=list)

    def note(
        self, policy: str, counts: Iterable[FindingCount], *, of: Principal, at: float
    ) -> None:
        """Keep the counts."""
        assert of.team_id
        assert at == NOW
        self.noted += [
            (policy, one.guardrail.name, one.type, one.role, one.verdict.value, one.findings)
            for one in counts
        ]


@dataclass
class FixedPolicies:
    """The port `PolicySource`; policies that are waited for are those of the *next* snapshot."""

    snapshot: PolicySnapshot | None
    next: PolicySnapshot | None = None

    async def compiled(self, binding: PolicyBinding) -> bool:
        """Take the next snapshot; without one they cannot be compiled."""
        del binding
        self.snapshot = self.next or self.snapshot
        return self.next is not None


class NotedUsage:
    """Keeps what was noted of requests that went to their provider."""

    def __init__(self) -> None:
        self.noted: list[JudgedRequest] = []

    def note(self, request: JudgedRequest) -> None:
        """Keep it."""
        self.noted.append(request)


class NotedVerdicts:
    """Keeps the verdicts that were given, by Envoy's name of the stream."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, JudgedRequest]] = []

    def add(self, stream: str, request: JudgedRequest) -> None:
        """Keep it."""
        self.noted.append((stream, request))


class NotedEnds:
    """Keeps the ends of requests that their worker accounts for itself."""

    def __init__(self) -> None:
        self.noted: list[tuple[ExchangeEnded, Estimate | None]] = []

    def add(self, ended: ExchangeEnded, estimate: Estimate | None) -> None:
        """Keep it."""
        self.noted.append((ended, estimate))


class ScriptedLimits:
    """The port `Limits`: has room until `short` says of which claim it has none.

    `left` is how much is left then of every limit; None tells nothing.
    """

    def __init__(self) -> None:
        self.short: int | None = None
        self.left: int | None = None
        self.is_local = False
        self.waits = False
        self.until: asyncio.Event | None = None
        self.granted_late = 0
        self.asked: list[tuple[LimitCheck, ...]] = []
        self.members: list[str] = []
        self.settled: list[tuple[str, tuple[Adjustment, ...]]] = []

    def take(
        self, principal: Principal, claims: tuple[LimitCheck, ...], *, member: str
    ) -> LimitDecision | Awaitable[LimitDecision]:
        """Answer as told: at once, after one turn, or once `until` is set."""
        del principal
        self.asked.append(claims)
        self.members.append(member)
        standings: tuple[LimitStatus, ...] = ()
        if self.left is not None:
            standings = tuple(LimitStatus(claim.limit, self.left, 1.5) for claim in claims)
        outcome: LimitDecision = Granted(standings, self.is_local)
        if self.short is not None:
            outcome = Limited(LimitStatus(claims[self.short].limit, 3, 1.5), self.is_local)
        return self._later(outcome) if self.waits or self.until else outcome

    async def _later(self, outcome: LimitDecision) -> LimitDecision:
        await (asyncio.sleep(0) if self.until is None else self.until.wait())
        self.granted_late += isinstance(outcome, Granted)
        return outcome

    def settle(
        self,
        organization_id: str,
        changes: Sequence[Adjustment],
        *,
        name: str | None = None,
        part: str = "",
    ) -> None:
        """Keep them."""
        # No log entry of these requests is settled by another worker.
        assert (name, part) == (None, "")
        self.settled.append((organization_id, tuple(changes)))


class FixedPrices:
    """A dollar for a million tokens of `gpt-5`, whichever way they go."""

    current = PriceList(
        [
            Price(
                model="gpt-5",
                valid_from=datetime(2020, 1, 1, tzinfo=UTC),
                input=Decimal(1),
                output=Decimal(1),
            )
        ]
    )


@lru_cache
def _snapshot(policies: str) -> PolicySnapshot:
    """Compile policies once for all tests: a snapshot does not change."""
    return snapshot_of(parse_policies(policies) if policies else ())


RequestVerdict = on.BodyRequired | on.RequestCleared | on.RequestRefused


class Exchange:
    """One request that a worker serves, seen from Envoy."""

    def __init__(
        self, worker: Worker, metadata: Mapping[str, str], opening: on.ExchangeOpened
    ) -> None:
        self.stream = MemoryStream()
        self.task = asyncio.ensure_future(serve(self.stream, metadata, worker))
        self._opening = opening
        self._seen = 0
        self._judges_answer = False
        self._body = b""

    async def judge_headers(self, headers: Headers, *, has_body: bool) -> RequestVerdict:
        """Send the request's headers; return what became of them."""
        event = on.RequestHeadersReceived(headers, not has_body, None)
        message = message_of(event)
        with_modes(message, self._opening)
        self.stream.send(message.SerializeToString())
        return self._verdict(await self.replies())

    async def judge_body(self, body: bytes) -> RequestVerdict:
        """Send the request's body; return what became of it."""
        self._body = body
        self._send(on.RequestBodyReceived(body, end_of_stream=True))
        return self._verdict(await self.replies())

    async def judge_response_headers(
        self, headers: Headers
    ) -> on.ResponseCleared | on.ResponseHeld | on.RequestRefused:
        """Send the answer's headers; return what became of them.

        Whether its body is judged shows in what becomes of that.
        """
        self._send(on.ResponseHeadersReceived(headers, end_of_stream=False))
        match await self.replies():
            case []:
                return on.ResponseHeld()
            case [do.ContinueResponseHeaders(changes)]:
                return on.ResponseCleared(changes)
            case [do.Refuse(refusal)]:
                return on.RequestRefused(refusal)
            case replies:
                raise AssertionError(replies)

    async def judge_response_piece(self, body: bytes, *, is_last: bool) -> on.ResponsePieceJudged:
        """Send a piece of the answer; return what of it went on."""
        self._send(on.ResponseBodyReceived(body, is_last))
        sent = await self.replies()
        pieces = [one for one in sent if isinstance(one, do.StreamResponseBody)]
        assert len(pieces) == len(sent)
        ends = bool(pieces) and pieces[-1].end_of_stream
        metadata = pieces[-1].metadata if pieces else ()
        return on.ResponsePieceJudged(b"".join(one.body for one in pieces), ends, metadata)

    async def judge_response_body(self, body: bytes) -> on.ResponseJudged | on.RequestRefused:
        """Send a whole answer; return what became of it."""
        self._send(on.ResponseBodyReceived(body, end_of_stream=True))
        match await self.replies():
            case [do.ContinueResponseHeaders(headers, metadata), *pieces]:
                sent = b"".join(
                    one.body for one in pieces if isinstance(one, do.StreamResponseBody)
                )
                return on.ResponseJudged(headers, sent, metadata)
            case [do.ContinueResponseBody(headers, sent, metadata)]:
                return on.ResponseJudged(headers, sent, metadata)
            case [do.Refuse(refusal)]:
                return on.RequestRefused(refusal)
            case replies:
                raise AssertionError(replies)

    async def end(self, *, is_cancelled: bool = False) -> None:
        """End the stream, if it has not ended: by a half-close, or as Envoy resets it."""
        if is_cancelled:
            self.task.cancel()
        else:
            self.stream.send(None)
        await asyncio.wait([self.task], timeout=60)
        assert self.task.done()

    async def replies(self) -> list[do.Reply]:
        """Return what was written since last asked, once the worker waits for Envoy again."""
        idle = 0
        for _ in range(1_000):
            await asyncio.sleep(0)
            idle = idle + 1 if self.stream.is_waiting else 0
            if self.task.done() or idle > TURNS:
                break
        written = self.stream.written[self._seen :]
        self._seen += len(written)
        return [do.decoded(message) for message in written]

    def _send(self, event: on.Event) -> None:
        self.stream.send(message_of(event).SerializeToString())

    def _verdict(self, replies: list[do.Reply]) -> RequestVerdict:
        match replies:
            case [do.OverrideMode(_, response_body)]:
                self._judges_answer = response_body
                return on.BodyRequired(judges_answer=response_body)
            case [do.ContinueRequestHeaders(headers, ())]:
                return on.BodyRequired(headers)  # BUFFERED
            case [do.ContinueRequestHeaders() as answer, *pieces]:
                sent = b"".join(
                    one.body for one in pieces if isinstance(one, do.StreamRequestBody)
                )
                is_asked = answer.response_body or self._judges_answer
                return self._cleared(answer, sent if pieces else None, judges_answer=is_asked)
            case [do.ContinueRequestBody() as answer]:
                return self._cleared(answer, answer.body, judges_answer=False)
            case [do.Refuse(refusal)]:
                return on.RequestRefused(refusal)
            case _:
                raise AssertionError(replies)

    def _cleared(
        self,
        answer: do.ContinueRequestHeaders | do.ContinueRequestBody,
        sent: bytes | None,
        *,
        judges_answer: bool,
    ) -> on.RequestCleared:
        body = None if sent == self._body else sent
        headers = answer.headers
        if body is not None:
            headers = _without_length(headers, len(body))
        mutations = on.RequestMutations(
            headers, body, answer.metadata, clear_route_cache=answer.clear_route_cache
        )
        return on.RequestCleared(mutations, judges_answer)


def _without_length(headers: HeaderMutation, size: int) -> HeaderMutation:
    """Return *headers* without the new length, which must be that of the new body."""
    *others, length = headers.set_headers
    assert length == ("content-length", str(size).encode())
    removed = tuple(name for name in headers.remove_headers if name != "content-length")
    return HeaderMutation(tuple(others), removed)


class World:
    """Everything around one worker's checks; it may account for ends itself."""

    def __init__(
        self,
        policies: str = "",
        *,
        timing: Timing = Timing.METADATA,
        route_by_model: RouteByModel = RouteByModel.OFF,
        messages: MessageTable | None = None,
        usage_source: UsageSource = UsageSource.ACCESS_LOG,
        reads: ReadAnswers = ReadAnswers.ALL,
    ) -> None:
        self.store = DictStore({KEY.key_id: record_of(KEY.key_id, digest=KEY.secret_sha256)})
        self.remote = ScriptedRemote()
        self.uses = NotedUses()
        self.findings = NotedFindings()
        self.usage = NotedUsage()
        self.verdicts = NotedVerdicts()
        self.ends = NotedEnds()
        self.limiter = ScriptedLimits()
        self.policies = FixedPolicies(_snapshot(policies))
        self.registry = CollectorRegistry()
        configure_logs("error", io.BytesIO())
        self.worker = Worker(
            keys=KeyCache(self.store),
            key_activity=self.uses,
            findings=self.findings,
            usage=self.usage,
            verdicts=self.verdicts,
            policies=self.policies,
            guardrail_runner=GuardrailRunner(remote=self.remote, clock=lambda: 0.0),
            recorder=Recorder(TelemetrySettings(), registry=self.registry),
            clocks=Clocks(monotonic=lambda: 0.0, wall=lambda: NOW),
            new_request_id=lambda: "made-up-by-egret",
            timing=timing,
            limiter=self.limiter,
            prices=FixedPrices(),
            guard=OverloadGuard(max_exchanges=1024, max_held_bytes=1 << 28),
            budgets=PATIENT,
            max_body_bytes=1 << 20,
            route_by_model=route_by_model,
            messages=messages,
            own_ends=None if usage_source is UsageSource.ACCESS_LOG else self.ends,
            usage_source=usage_source,
            read_answers=reads,
        )

    def exchange(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        request: BodyMode = BodyMode.NONE,
        response: BodyMode = BodyMode.NONE,
    ) -> Exchange:
        """Begin to serve a request, with these body modes in Envoy's configuration."""
        return Exchange(self.worker, metadata or {}, on.ExchangeOpened(request, response))

    def counted(self) -> dict[tuple[str, str], float]:
        """Return how many exchanges ended with which outcome and error."""
        return {
            (sample.labels["outcome"], sample.labels["error"]): sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "egret_exchanges_total" and sample.value
        }


def headers(
    path: str = "/v1/chat/completions",
    *more: tuple[str, bytes],
    method: str = "POST",
    key: ApiKey | None = KEY,
) -> Headers:
    """Return request headers with the good key."""
    credential = () if key is None else (("authorization", b"Bearer " + key.reveal().encode()),)
    return Headers(
        (
            (":method", method.encode()),
            (":path", path.encode()),
            ("x-request-id", REQUEST_ID.encode()),
            *credential,
            *more,
        )
    )
