"""Admits a request by its headers: who calls, under which policy, and which headers leave."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final, assert_never
from urllib.parse import quote

from sidecar.apis.routes import bedrock_id, recognise
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import (
    CREDENTIAL_HEADERS,
    EGRET_HEADER_PREFIX,
    HeaderFields,
    HeaderName,
    Headers,
)
from sidecar.domain.limits import SETTLED, Limit, Measure
from sidecar.domain.policy import RequestScope, StreamUsage
from sidecar.domain.principal import KeyRecord, PolicyBinding
from sidecar.domain.report import CacheTier, FaultKind
from sidecar.domain.subject import Dialect, Route, UnknownRoute, UnscannedReason
from sidecar.extproc.phases import RefusedError
from sidecar.extproc.stream import ExtProcStream
from sidecar.guardrails.runner import ORGANIZATION
from sidecar.keys.cache import Hit, Miss, NegativeHit
from sidecar.keys.credentials import ApiKey, authorize, presented_key
from sidecar.keys.ports import KeyStoreUnavailableError
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.record import RequestRecord
from sidecar.policy.snapshot import EffectivePolicy, MissingPolicy

NO_SOURCE_ADDRESS: Final = "SourceAddressUnknown"
"""In the log: the client may be in an allowed network, but Envoy does not send its address."""

POLICY_NOT_COMPILED: Final = "PolicyNotCompiled"
"""In the log: the policy is in the store, and cannot be compiled."""

_OF_HEADERS: Final = frozenset({Measure.REQUESTS, Measure.CONCURRENT})

Caller = tuple[KeyRecord, EffectivePolicy]
"""A good key, and the policy that holds for its requests before their model is known."""


async def admit(
    headers: Headers, stream: ExtProcStream, record: RequestRecord, worker: Worker
) -> Caller | ErrorKind:
    """Judge the key that *headers* present.

    Waits only for a key that is not in the cache, or a policy that is not compiled yet.

    Raises:
        RefusedError: the organization has no room for the bytes that came meanwhile.
    """
    key = presented_key(headers)
    if isinstance(key, ErrorKind):
        return key
    known: KeyRecord | None = None
    found = worker.keys.peek(key.key_id, now=worker.clocks.monotonic())
    match found:
        case Hit(cached, is_stale):
            known = cached
            record.cache_tier = CacheTier.STALE if is_stale else CacheTier.L1
        case NegativeHit():
            record.cache_tier = CacheTier.NEGATIVE
        case Miss():
            record.cache_tier = CacheTier.STORE
            load = worker.keys.load(key.key_id, now=worker.clocks.monotonic)
            try:
                loaded = await stream.wait_for(load)
            except KeyStoreUnavailableError as error:
                record.error_type = type(error).__name__
                record.authorize = record.step()
                return ErrorKind.AUTHORIZATION_UNAVAILABLE
            known, record.cache_tier = loaded.record, loaded.tier
        case _:
            assert_never(found)
    while isinstance(judged := _judge(known, key, stream, record, worker), PolicyBinding):
        if not await stream.wait_for(worker.policies.compiled(judged)):
            record.error_type = POLICY_NOT_COMPILED
            return ErrorKind.AUTHORIZATION_UNAVAILABLE
    return judged


def _judge(
    known: KeyRecord | None,
    key: ApiKey,
    stream: ExtProcStream,
    record: RequestRecord,
    worker: Worker,
) -> Caller | ErrorKind | PolicyBinding:
    """Judge *key* by its stored record, and find the policy that holds for it.

    Returns the binding if the key is good, and its policies are not compiled yet in this worker.
    """
    operation = record.route.operation if isinstance(record.route, Route) else None
    protocol = stream.protocol
    source = protocol.source_address
    now = worker.clocks.wall()
    good = authorize(known, key, now=now, source=source, operation=operation)
    record.authorize = record.step()
    if isinstance(good, ErrorKind):
        if known is not None and good is not ErrorKind.INVALID_API_KEY:
            # The caller has the secret: the log names the holder, whose key may be stolen.
            record.principal = known.principal
        if good is ErrorKind.SOURCE_NOT_ALLOWED and source is None:
            record.error_type = NO_SOURCE_ADDRESS
        return good
    record.principal = good.principal
    snapshot = worker.policies.snapshot
    policy = None if snapshot is None else snapshot.effective(good.policies)
    if policy is None or isinstance(policy, MissingPolicy):
        if isinstance(policy, MissingPolicy) and policy.is_pending:
            return good.policies
        # Without its policy it is unknown which guardrails this key's content must pass.
        return ErrorKind.AUTHORIZATION_UNAVAILABLE
    if policy.request_variants is not None:
        owner = good.principal
        team = f"{owner.organization_name}/{owner.team_name}"
        scope = RequestScope(operation=operation, key_id=owner.key_id, team=team, at=now)
        policy = policy.request_variants(scope)
    record.key, record.policy = good, policy
    organization = good.principal.organization_id
    ORGANIZATION.set(organization)
    record.owner = organization
    if not worker.guard.assign_place(organization):
        worker.recorder.fault(FaultKind.TOO_MANY_EXCHANGES)
        return ErrorKind.OVERLOADED
    protocol.owner = organization
    early = protocol.held_bytes + protocol.arriving_bytes  # they came before the key was known
    if early and not protocol.room.assign(early, organization):
        raise RefusedError(ErrorKind.OVERLOADED)
    return good, policy


def allowed_models_of(caller: Caller) -> tuple[str, ...] | None:
    """Return the nearest list of globs; None where every model is allowed."""
    key, policy = caller
    return policy.allowed_models if key.allowed_models is None else key.allowed_models


def unscannable(route: Route | UnknownRoute, *, has_body: bool) -> UnscannedReason | None:
    """Return why a request cannot be read, if that is known before its body."""
    if isinstance(route, UnknownRoute):
        return UnscannedReason.UNKNOWN_ROUTE
    # A GET with a body: providers differ in how they read it.
    return UnscannedReason.UNKNOWN_SHAPE if has_body and not route.has_body else None


def requires_body(
    route: Route,
    policy: EffectivePolicy,
    *,
    names_route: bool,
    allowed_models: tuple[str, ...] | None = None,
    limits: tuple[Limit, ...] = (),
) -> bool:
    """Return whether the verdict needs the body; with *names_route* its model chooses the route.

    Guardrails, the choice of a model, and limits on tokens need it.
    """
    if not route.has_body:
        return False
    return (
        policy.needs_body
        or allowed_models is not None
        or any(one.measure not in _OF_HEADERS or one.models is not None for one in limits)
        or (names_route and not route.model)
        or judges_answer(route, policy)
    )


def judges_answer(route: Route, policy: EffectivePolicy) -> bool:
    """Return whether answers on this route must pass here, whatever the model will be.

    They then need the request's body too: with it Envoy refuses if it may not follow the change of
    mode, and without it the answer would pass unjudged.
    """
    answers = policy.answers
    is_needed = bool(answers.guardrails) or answers.restores
    return is_needed and route.operation.spec.has_model_text


def stream_usage_of(caller: Caller) -> StreamUsage:
    """Return the way to count streams: the policy's, else exact if limits depend on it."""
    key, policy = caller
    if policy.stream_usage is not None:
        return policy.stream_usage
    counts = any(limit.measure in SETTLED for limit in key.limits)
    return StreamUsage.HIDE if counts else StreamUsage.ESTIMATE


CLIENT_CREDENTIALS: Final = frozenset(
    {
        *CREDENTIAL_HEADERS,
        *("proxy-authorization", "cookie", "x-amz-security-token", "ocp-apim-subscription-key"),
    }
)
"""A client's credentials, for Egret or others, must not reach the provider, which receives one of
its own from Envoy."""

OVERRIDING: Final = frozenset(
    {"x-ms-oai-image-generation-deployment", "x-http-method-override", "x-goog-fieldmask"}
)
"""Headers that make a provider do something else than was judged.

Azure draws with the model that the first one names, despite the allowed models; Google obeys the
second instead of the method, and with the third leaves the token counts out of its answer."""

ACCOUNTS: Final = frozenset(
    {"openai-organization", "openai-project", "chatgpt-account-id", "x-goog-user-project"}
)
"""Headers by which a client chooses which account of the provider, of those that the credential of
the gateway may use, pays for its request."""

_REMOVED: Final = CLIENT_CREDENTIALS | OVERRIDING | ACCOUNTS


def strip(headers: Headers) -> tuple[str, ...]:
    """Return the names to remove: credentials, overrides, accounts, every client's `x-egret-*`."""
    names = headers.by_name
    removed = _REMOVED.intersection(names)
    if EGRET_HEADER_PREFIX in "\n".join(names):
        removed |= {name for name in names if name.startswith(EGRET_HEADER_PREFIX)}
    return tuple(sorted(removed))


_ROUTABLE: Final = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._:/@+~-]{0,255}")
"""Names of models, ARNs and names of repositories included. The matcher of a route could interpret
other text differently (blanks at its ends, letters outside of ASCII, a line's end, ten kilobytes):
no route is chosen by it."""


def rename_path(record: RequestRecord, policy: EffectivePolicy) -> HeaderFields | ErrorKind:
    """Replace an alias that the path names by its model, in the record's route too.

    A path in which the model would be read in another way is refused.
    """
    route = record.route
    if not isinstance(route, Route) or route.model is None:
        return ()
    model = policy.aliases.get(route.model)
    if model is None:
        return ()
    # The alias is one segment of the path, or stands before the colon of a method (Google's APIs).
    # A project of Vertex AI may have the same name.
    place = "/models/" if "/publishers/" in record.path else "/"
    before, _, after = record.path.partition(f"{place}{route.model}")
    path = f"{before}{place}{quote(model, safe='@')}{after}"
    renamed = recognise(record.method or "", path)
    named = bedrock_id(model) if route.dialect is Dialect.BEDROCK else model
    if renamed != replace(route, model=named):
        return ErrorKind.MODEL_NOT_ALLOWED
    record.alias, record.route = route.model, renamed
    return ((":path", path.encode()),)


def naming_model(model: str | None) -> HeaderFields:
    """Return the header of ours with the model, just as the provider reads it.

    For a model without such a name there is no header: the client's own is removed before.
    """
    if model is None or not _ROUTABLE.fullmatch(model):
        return ()
    return ((HeaderName.EGRET_MODEL, model.encode("ascii")),)
