"""One ext_proc conversation as Envoy 1.40 holds it, to be played to a worker's own parts."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import BinaryIO, Final

import msgspec

from loadtest.texts import chat_body
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.finding import FindingCount
from sidecar.domain.limits import Limit
from sidecar.domain.policy import Policy
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.domain.report import Clocks
from sidecar.domain.usage import JudgedRequest
from sidecar.extproc.phases import Answer, Room
from sidecar.extproc.stream import Budgets, OverloadGuard
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.keys.cache import KeyCache
from sidecar.keys.credentials import ApiKey
from sidecar.keys.ports import LoadedKey
from sidecar.limits.limit_check import LimitCheck
from sidecar.limits.limiter import Granted, LimitDecision
from sidecar.limits.store import Adjustment
from sidecar.pipeline.dependencies import Worker
from sidecar.policy.snapshot import PolicySnapshot, build_snapshot
from sidecar.settings.serving import Timing
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.logs import configure_logs
from sidecar.telemetry.recorder import Recorder
from sidecar.usage.prices import PriceList

KEY: Final = ApiKey(key_id="0123456789ab", secret="x" * 43)
PRINCIPAL: Final = Principal(KEY.key_id, "team_1", "bench", "org_1", "bench")
METADATA: Final = {"x-envoy-expected-rq-timeout-ms": "10000", "user-agent": "grpc-c++"}
BODY: Final = chat_body()
MAX_BODY_BYTES: Final = 1 << 20
BUDGETS: Final = Budgets(
    authorize_seconds=2, body_seconds=30, body_idle_seconds=10, inspect_seconds=5
)
REQUEST_HEADERS: Final = (
    (":authority", "127.0.0.1:8080"),
    (":path", "/v1/chat/completions"),
    (":method", "POST"),
    (":scheme", "http"),
    ("user-agent", "Grafana k6/1.1.0"),
    ("content-length", str(len(BODY))),
    ("authorization", f"Bearer {KEY.reveal()}"),
    ("content-type", "application/json"),
    ("x-forwarded-proto", "http"),
    ("x-envoy-external-address", "127.0.0.1"),
    ("x-request-id", "281c65aa-ee35-47c8-aa29-34c341490461"),
)


def headers_message(*, with_key: bool = True) -> bytes:
    """Return the first message of a stream, in the default mode."""
    request = ext.ProcessingRequest()
    request.metadata_context.SetInParent()
    request.protocol_config.SetInParent()
    for name, value in REQUEST_HEADERS:
        if name == "authorization" and not with_key:
            continue
        request.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    return request.SerializeToString()


def body_message(body: bytes = BODY) -> bytes:
    """Return the second and last: a body of this size comes in one piece."""
    request = ext.ProcessingRequest()
    request.metadata_context.SetInParent()
    request.request_body.body = body
    request.request_body.end_of_stream = True
    return request.SerializeToString()


class RecordedStream:
    """A stream whose messages are all there already; answers are counted and let go.

    The first comes with the headers of the stream, in one read, as Envoy sends it.
    """

    def __init__(self, messages: tuple[bytes, ...]) -> None:
        self._messages = iter(messages)
        self._next: bytes | None = next(self._messages)
        self._arrival = asyncio.get_running_loop().create_future()
        self._arrival.set_result(None)
        self.has_ended = False
        self.room: Room | None = None
        self.written = 0

    def take(self) -> bytes | None:
        """Return the next message once it is here, as on a connection."""
        message, self._next = self._next, None
        return message

    def arrival(self) -> asyncio.Future[None]:
        """Return a future of the next message, which is done."""
        self._next = next(self._messages, None)
        self.has_ended = self._next is None
        return self._arrival

    async def write(self, messages: Sequence[Answer], *, ends: bool) -> None:
        """Take answers."""
        del ends
        self.written += len(messages)


class _OneKey:
    """A store of one key, met on the first exchange only."""

    def __init__(self, limits: tuple[Limit, ...], policies: PolicyBinding) -> None:
        self._limits = limits
        self._policies = policies

    async def load(self, key_id: str) -> LoadedKey:
        record = KeyRecord(
            principal=replace(PRINCIPAL, key_id=key_id),
            secret_sha256=hashlib.sha256(KEY.secret.encode()).digest(),
            enabled=True,
            team_enabled=True,
            organization_enabled=True,
            not_before=None,
            expires_at=None,
            revoked_at=None,
            allowed_models=None,
            policies=self._policies,
            limits=self._limits,
        )
        return LoadedKey(record)


class NoRemote:
    """The default policy has no remote guardrail."""

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Never be asked."""
        raise NotImplementedError(request.guardrail.name)


class _Findings:
    """Counts findings in memory, as a worker does between two batches."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def note(
        self, policy: str, counts: Iterable[FindingCount], *, of: Principal, at: float
    ) -> None:
        """Count those of one request."""
        del of, at
        for one in counts:
            self._counts[policy, one.type, one.role] += one.findings


class _Usage:
    """Writes notes into memory, as a worker does between two batches."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._size = 0

    def note(self, request: JudgedRequest) -> None:
        """Note one."""
        self._size += len(self._encoder.encode(request))


class _Verdicts:
    """Remembers the last one."""

    def add(self, stream: str, request: JudgedRequest) -> None:
        """Remember it."""
        self._last = (stream, request)


class _Uses:
    """Counts uses in memory, as a worker does between two batches."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, bool]] = Counter()

    def note(self, key_id: str, *, refused: bool, at: float) -> None:
        """Count one."""
        del at
        self._counts[key_id, refused] += 1


class _Roomy:
    """Limits for keys that have none."""

    def take(
        self, principal: Principal, checks: tuple[LimitCheck, ...], *, member: str
    ) -> LimitDecision:
        """Let everything through."""
        del principal, checks, member
        return Granted(())

    def settle(
        self,
        organization_id: str,
        changes: Sequence[Adjustment],
        *,
        name: str | None = None,
        part: str = "",
    ) -> None:
        """Keep nothing."""
        del organization_id, changes, name, part


class _NoPrices:
    """Nothing costs anything."""

    current = PriceList()


class FixedPolicies:
    """Policies that never change, the default one among them, compiled."""

    def __init__(self, policies: Sequence[Policy] = ()) -> None:
        self._snapshot = build_snapshot(policies)

    @property
    def snapshot(self) -> PolicySnapshot:
        """The policies in force."""
        return self._snapshot

    async def compiled(self, binding: PolicyBinding) -> bool:
        """Return at once: all were compiled."""
        del binding
        return True


def worker_parts(log: BinaryIO) -> Worker:
    """Build the parts that requests of a worker share; log lines go to *log*.

    `PROMETHEUS_MULTIPROC_DIR` must be in the environment already, as for a worker.
    """
    configure_logs("info", log)
    return Worker(
        keys=keys_with(),
        key_activity=_Uses(),
        findings=_Findings(),
        usage=_Usage(),
        verdicts=_Verdicts(),
        policies=FixedPolicies(),
        guardrail_runner=GuardrailRunner(remote=NoRemote(), clock=time.monotonic),
        recorder=Recorder(TelemetrySettings(), instance="recorded"),
        clocks=Clocks(monotonic=time.monotonic, wall=time.time),
        new_request_id=lambda: str(uuid.uuid4()),
        timing=Timing.METADATA,
        limiter=_Roomy(),
        prices=_NoPrices(),
        guard=OverloadGuard(max_exchanges=1024, max_held_bytes=1 << 28),
        budgets=BUDGETS,
        max_body_bytes=MAX_BODY_BYTES,
    )


def keys_with(*, limits: tuple[Limit, ...] = (), policy: str | None = None) -> KeyCache:
    """Return a cache that has the key of the recorded request, with *limits* and *policy*."""
    keys = KeyCache(_OneKey(limits, PolicyBinding(key=policy)))
    asyncio.run(_meet_key(keys))
    return keys


async def _meet_key(keys: KeyCache) -> None:
    # Stamped an hour ahead, so that the record does not go stale while we measure.
    await keys.load(KEY.key_id, now=lambda: time.monotonic() + 3600)
