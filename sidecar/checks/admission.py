"""First step: may this key speak here at all, and under which policy?"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, assert_never

from sidecar.checks.ledger import Ledger
from sidecar.checks.parts import Parts
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Headers
from sidecar.domain.limits import Limit, Measure, Priority
from sidecar.domain.policy import RequestScope, StreamUsage
from sidecar.domain.principal import KeyRecord, Principal
from sidecar.domain.report import CacheTier
from sidecar.domain.subject import Operation, Route
from sidecar.keys.authorize import Authorized, Refused, authorize
from sidecar.keys.cache import Hit, Miss, NegativeHit
from sidecar.keys.credentials import ApiKey, CredentialFault, presented_key
from sidecar.keys.ports import KeyStoreUnavailableError
from sidecar.policy.snapshot import EffectivePolicy, MissingPolicy

NO_SOURCE_ADDRESS: Final = "SourceAddressUnknown"
"""In the log: the client may be in the right place, and Envoy does not say."""
_HOLDER_REFUSED: Final = frozenset({ErrorKind.SOURCE_NOT_ALLOWED, ErrorKind.OPERATION_NOT_ALLOWED})
"""The key is good and its holder is known, as with a model that is not allowed: whose it is can be
told in the log, where a key that is used from elsewhere may be a stolen one."""

_COUNTING: Final = frozenset(
    {Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS, Measure.TOKENS, Measure.COST}
)
"""Limits that are settled by what an answer came to."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, from where and what for, as far as the headers and Envoy tell."""

    headers: Headers
    source_address: str | None
    operation: Operation | None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The key is good; this is what its requests must pass.

    `allowed_models` is the nearest list of globs, None where every model is allowed. `limits` are
    those of key, team and organization.
    """

    policy: EffectivePolicy
    allowed_models: tuple[str, ...] | None
    limits: tuple[Limit, ...] = ()
    priority: Priority = Priority.STANDARD

    @property
    def needs_body(self) -> bool:
        """Tell whether a verdict needs the body: to inspect it, or to know the model."""
        return self.policy.needs_body or self.allowed_models is not None

    @property
    def stream_usage(self) -> StreamUsage:
        """How streams are counted: as the policy says, else exactly where limits go by it."""
        if self.policy.stream_usage is not None:
            return self.policy.stream_usage
        counts = any(limit.measure in _COUNTING for limit in self.limits)
        return StreamUsage.HIDE if counts else StreamUsage.ESTIMATE


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """The key is not good, or nobody can tell now."""

    kind: ErrorKind


Admission = Admitted | NotAdmitted


def admit(caller: Caller, *, parts: Parts, ledger: Ledger) -> Admission | Awaitable[Admission]:
    """Judge the key that *caller* presents; awaits only what is not at hand."""
    key = presented_key(caller.headers)
    if isinstance(key, CredentialFault):
        return NotAdmitted(key.kind)
    peeked = parts.keys.peek(key.key_id, now=parts.clocks.monotonic())
    match peeked:
        case Hit(record, is_stale):
            ledger.cache_tier = CacheTier.STALE if is_stale else CacheTier.L1
            return _judge(record, key, caller, parts=parts, ledger=ledger)
        case NegativeHit():
            ledger.cache_tier = CacheTier.NEGATIVE
            return _judge(None, key, caller, parts=parts, ledger=ledger)
        case Miss():
            return _load_and_judge(key, caller, parts=parts, ledger=ledger)
        case _:
            assert_never(peeked)


async def _load_and_judge(
    key: ApiKey, caller: Caller, *, parts: Parts, ledger: Ledger
) -> Admission:
    ledger.cache_tier = CacheTier.STORE
    try:
        loaded = await parts.keys.load(key.key_id, now=parts.clocks.monotonic)
    except KeyStoreUnavailableError as error:
        ledger.error_type = type(error).__name__
        ledger.authorize_ended()
        return NotAdmitted(ErrorKind.AUTHORIZATION_UNAVAILABLE)
    ledger.cache_tier = loaded.tier
    return _judge(loaded.record, key, caller, parts=parts, ledger=ledger)


def _judge(
    record: KeyRecord | None, key: ApiKey, caller: Caller, *, parts: Parts, ledger: Ledger
) -> Admission:
    authorization = authorize(
        record,
        key,
        now=parts.clocks.wall(),
        source=caller.source_address,
        operation=caller.operation,
    )
    ledger.authorize_ended()
    match authorization:
        case Refused(kind):
            if record is not None and kind in _HOLDER_REFUSED:
                ledger.principal = record.principal
            if kind is ErrorKind.SOURCE_NOT_ALLOWED and caller.source_address is None:
                ledger.error_type = NO_SOURCE_ADDRESS
            return NotAdmitted(kind)
        case Authorized(good):
            ledger.principal = good.principal
            return _under_policy(good, parts=parts, ledger=ledger)
        case _:
            assert_never(authorization)


def _under_policy(record: KeyRecord, *, parts: Parts, ledger: Ledger) -> Admission:
    snapshot = parts.policies.snapshot
    policy = None if snapshot is None else snapshot.effective(record.policies)
    if policy is None or isinstance(policy, MissingPolicy):
        # Without its policy nobody can say what this key's content must pass.
        return NotAdmitted(ErrorKind.AUTHORIZATION_UNAVAILABLE)
    if policy.request_variants is not None:
        request_scope = _request_scope(record.principal, parts=parts, ledger=ledger)
        policy = policy.request_variants(request_scope)
    ledger.take_policy(policy)
    ledger.priority = record.priority
    is_set = record.allowed_models is not None
    allowed_models = record.allowed_models if is_set else policy.allowed_models
    return Admitted(policy, allowed_models, record.limits, record.priority)


def _request_scope(principal: Principal, *, parts: Parts, ledger: Ledger) -> RequestScope:
    return RequestScope(
        operation=ledger.route.operation if isinstance(ledger.route, Route) else None,
        key_id=principal.key_id,
        team=f"{principal.organization_name}/{principal.team_name}",
        at=parts.clocks.wall(),
    )
