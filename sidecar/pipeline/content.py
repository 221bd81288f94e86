"""Reads the body of a request, takes its share of the limits, judges its content."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, assert_never

import orjson
from msgspec import structs

from sidecar.apis.fragments import VALUE_FIELDS, likely_model
from sidecar.apis.request_schema import MOST_OUTPUT_TOKENS, name_on
from sidecar.apis.request_text import read_in_slices
from sidecar.apis.stream_usage import ask_for_usage, can_ask_for_usage, members
from sidecar.domain.cooperative import Cooperative
from sidecar.domain.errors import ClientError, ErrorKind, client_error
from sidecar.domain.finding import (
    NOTHING_REDACTED,
    Allow,
    Deny,
    Finding,
    Redact,
    Restoration,
    Results,
)
from sidecar.domain.limits import MICROS, Reservation, slot_name
from sidecar.domain.policy import StreamUsage
from sidecar.domain.subject import Dialect, Malformed, Route, Subject, Unreadable, UnscannedReason
from sidecar.domain.usage import TokenCounts
from sidecar.extproc.stream import ExtProcStream, LateError
from sidecar.guardrails.conversation import (
    MIN_BODY_BYTES,
    Conversation,
    learn_beginning,
    read_conversation,
)
from sidecar.guardrails.message_table import MessageTable
from sidecar.guardrails.remote.checks import RequestInfo
from sidecar.keys.credentials import is_model_allowed
from sidecar.limits.limit_check import Exceeded, LimitCheck, RequestCost, limit_checks
from sidecar.limits.limit_syntax import shown
from sidecar.limits.limiter import Granted, LimitDecision, Limited
from sidecar.pipeline.admission import Caller, allowed_models_of, stream_usage_of
from sidecar.pipeline.decide import decide, decide_unscanned, is_flagged
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.record import Allowance, RequestRecord
from sidecar.pipeline.reply import limit_error, single_request_error, uncounted_error
from sidecar.policy.snapshot import EffectivePolicy
from sidecar.redaction.redact import (
    Placeholders,
    RedactionRules,
    number_before,
    own_number,
    redact,
)
from sidecar.usage.records import BYTES_A_TOKEN, MEDIA_BYTES_A_TOKEN, UNKNOWN_OPERATION

NO_REQUEST: Final = RequestInfo(request_id="", key_id="")
"""For policies without remote guardrails, which alone read it."""

_FIRST_READ: Final = VALUE_FIELDS - {"system"}
"""Roles that a model reads before all messages, wherever they stand in the body. Numbered first,
their values keep their placeholders when a turn adds values to the messages: else the provider's
prompt cache would be of no use."""

_SYSTEM_IN_MESSAGES: Final = frozenset({Dialect.OPENAI, Dialect.AZURE_OPENAI})


@dataclass(frozen=True, slots=True)
class RequestAllowed:
    """The request may go on; `body` replaces its body, None leaves it.

    `restoration` has the values that replace placeholders in the answer; mostly none. With
    `hides_usage` the counts that Egret requested are removed from the answer. With
    `is_model_replaced` a guardrail has changed the model's name: the provider's model is unknown.
    `placeholders` are those that the model reads, for new values in the answer; None if unread.
    """

    body: bytes | None = None
    restoration: Restoration = NOTHING_REDACTED
    hides_usage: bool = False
    is_model_replaced: bool = False
    placeholders: Placeholders | None = field(default=None, repr=False)


UNCHANGED: Final = RequestAllowed()

_Reading = tuple[Subject | Unreadable | Malformed, Conversation | None]


async def judge_body(
    body: bytes,
    route: Route,
    caller: Caller,
    stream: ExtProcStream,
    record: RequestRecord,
    worker: Worker,
) -> RequestAllowed | ClientError:
    """Read *body*, reserve its share of the limits, and judge its content."""
    key, policy = caller
    conversation_steps = None
    if worker.messages is not None and len(body) >= MIN_BODY_BYTES:
        conversation_steps = await _open_conversation(worker.messages, body, route, caller, stream)
    steps = _read(body, route, policy, conversation_steps, stream, record)
    reading = worker.guardrail_runner.run_cooperatively(steps)
    read, conversation = reading if isinstance(reading, tuple) else await stream.wait_for(reading)
    record.read = record.step()
    if isinstance(read, Malformed):
        return ClientError(ErrorKind.INVALID_BODY, read.problem)
    short, models = None, allowed_models_of(caller)
    if key.limits or record.subject is not None:
        short = await take_limits(caller, stream, record, worker)
        if short is not None and short.kind is not ErrorKind.UNCOUNTED_USAGE:
            return short
    # A price would be of no use to a request that is refused in any case.
    if isinstance(read, Unreadable):
        record.unscanned = (read.reason,)
        return refuse_unread(read.reason, route.model, policy, models) or short or UNCHANGED
    policy, refused = judge_subject(read, route, policy, models)
    record.policy, refused = policy, refused or short
    if refused is not None:
        return refused
    began = worker.clocks.monotonic()
    try:
        if conversation is not None:
            results = await _inspect_conversation(conversation, policy, stream, record, worker)
            read = record.subject or read
        else:
            about = subject_of(record) if policy.remote else NO_REQUEST
            found = worker.guardrail_runner.inspect(policy, read, about=about)
            results = found if isinstance(found, tuple) else await stream.wait_for(found)
    finally:
        record.guardrails = record.step(began)
    record.results = results
    decision = decide(results)
    match decision:
        case Allow():
            record.is_flagged = is_flagged(results)
            allowed = UNCHANGED
            if read.streamed or policy.answers.redacts:
                allowed = await _allowed(read, body, (), route, caller, stream, record, worker)
        case Redact(findings):
            record.is_redacted = True
            allowed = await _allowed(read, body, findings, route, caller, stream, record, worker)
        case Deny(error):
            return error
        case _:
            assert_never(decision)
    return allowed if record.alias is None else replace_alias(allowed, body, record, caller[1])


def replace_alias(
    allowed: RequestAllowed, body: bytes, record: RequestRecord, policy: EffectivePolicy
) -> RequestAllowed:
    """Name the model in place of its alias, unless a guardrail has replaced the name."""
    alias, body = record.alias or "", body if allowed.body is None else allowed.body
    for one in members(body, 0):
        named = orjson.loads(body[one.start : one.end]) if one.name == b"model" else None
        # Google's clients write a place before it, such as `models/`; a policy may write one too.
        if isinstance(named, str) and (named == alias or named.endswith(f"/{alias}")):
            place = named.removesuffix(alias)
            model = orjson.dumps(f"{place}{record.model}" if place else policy.aliases[alias])
            return replace(allowed, body=body[: one.start] + model + body[one.end :])
    return allowed


async def _open_conversation(
    table: MessageTable, body: bytes, route: Route, caller: Caller, stream: ExtProcStream
) -> Cooperative[_Reading]:
    """Learn the beginning of a conversation if another worker has shared it; return its reading.

    By the guardrails of the model that the unread body seems to name.
    """
    key, policy = caller
    owner, scan = key.principal.organization_id, policy.local
    if policy.model_variants is not None:
        named = likely_model(route, body)
        scan = policy.for_model(policy.aliases.get(named or "", named)).local
    if table.shared is not None:
        await stream.outcome_of(learn_beginning(table, route, body, scan, owner=owner))
    return read_conversation(table, route, stream.protocol.headers, body, scan, owner=owner)


def _read(
    body: bytes,
    route: Route,
    policy: EffectivePolicy,
    conversation_steps: Cooperative[_Reading] | None,
    stream: ExtProcStream,
    record: RequestRecord,
) -> Cooperative[_Reading]:
    """Read *body*; of a conversation, by *conversation_steps*, only the text that is not known."""
    record.body_bytes = len(body)
    if conversation_steps is None:
        read = yield from read_in_slices(route, stream.protocol.headers, body)
        conversation = None
    else:
        read, conversation = yield from conversation_steps
    if isinstance(read, Subject):
        # Before anything judges it: models are allowed, limited and paid for by their own name.
        if policy.aliases and route.model is None and body.lstrip()[:1] == b"{":
            alias = read.model_as_sent if read.model_as_sent in policy.aliases else read.model
            if (model := policy.aliases.get(alias or "")) is not None:
                record.alias, read = alias, structs.replace(read, model=name_on(route, model))
        if read.other_models and read.model in read.other_models:
            others = tuple([name for name in read.other_models if name != read.model])
            read = structs.replace(read, other_models=others)
        record.subject, record.unscanned = read, read.unscanned
        record.model, record.streamed = read.model, read.streamed
        record.billed_tools = read.billed_tools
        known = 0 if conversation is None else conversation.known_text_bytes
        record.text_bytes = known + sum([len(part.content) for part in read.parts]) or 1
    return read, conversation


async def _inspect_conversation(
    conversation: Conversation,
    policy: EffectivePolicy,
    stream: ExtProcStream,
    record: RequestRecord,
    worker: Worker,
) -> Results:
    """Return the results of all guardrails, of which the local ones search only new text.

    The record gets the whole subject if remote checks read it, or if findings in it are redacted
    or refused: a flag alone needs no text.
    """
    runner, started_at = worker.guardrail_runner, worker.clocks.monotonic()
    if conversation.scan is not policy.local:  # a variant for another model than it seemed
        await stream.outcome_of(runner.run_cooperatively(conversation.forget(policy.local)))
    local = await stream.outcome_of(runner.scan(policy, conversation.subject))
    results = conversation.joined(local)
    if results is None:
        await stream.outcome_of(runner.run_cooperatively(conversation.forget(policy.local)))
        local = results = await stream.outcome_of(runner.scan(policy, conversation.subject))
    conversation.keep(local)
    record.subject = conversation.subject
    if policy.remote or not isinstance(decide(results), Allow):
        steps = runner.run_cooperatively(conversation.whole())
        record.subject = subject = (await stream.outcome_of(steps))[0]
        about = subject_of(record)
        results = await stream.outcome_of(
            runner.complete(policy, results, started_at, subject, about)
        )
    return results


async def judge_without_body(
    reason: UnscannedReason | None,
    caller: Caller,
    stream: ExtProcStream,
    record: RequestRecord,
    worker: Worker,
) -> RequestAllowed | ClientError:
    """Judge by the headers alone; *reason* is why the rest cannot be read."""
    key, policy = caller
    short = await take_limits(caller, stream, record, worker) if key.limits else None
    if short is not None and short.kind is not ErrorKind.UNCOUNTED_USAGE:
        return short
    refused = None
    if reason is not None:
        record.unscanned = (reason,)
        refused = refuse_unread(reason, None, policy, allowed_models_of(caller))
    return refused or short or UNCHANGED


def judge_subject(
    subject: Subject,
    route: Route,
    policy: EffectivePolicy,
    allowed_models: tuple[str, ...] | None,
) -> tuple[EffectivePolicy, ClientError | None]:
    """Judge all but the texts; return the policy for the model, and the refusal, if any."""
    if allowed_models is not None:
        # No model runs when content is stored; the tools in it may name some.
        main = () if route.operation.spec.is_stored else (subject.model,)
        for named in (*main, *subject.other_models):
            if not is_model_allowed(named, allowed_models):
                return policy, client_error(ErrorKind.MODEL_NOT_ALLOWED)
    # Of several models it is unknown which one runs: guardrails of any of them hold.
    policy = policy.for_model(None if subject.other_models else subject.model)
    if subject.unscanned:
        decision = decide_unscanned(subject.unscanned, policy.unscanned)
        if isinstance(decision, Deny):
            return policy, decision.error
    return policy, None


def refuse_unread(
    reason: UnscannedReason,
    model: str | None,
    policy: EffectivePolicy,
    allowed_models: tuple[str, ...] | None,
) -> ClientError | None:
    """Return why a request is refused whose content cannot be read; None if it may pass.

    Its *model* is known only if the path names it.
    """
    decision = decide_unscanned((reason,), policy.unscanned)
    if isinstance(decision, Deny):
        return decision.error
    if not is_model_allowed(model, allowed_models):
        return client_error(ErrorKind.MODEL_NOT_ALLOWED)
    return None


def subject_of(record: RequestRecord) -> RequestInfo:
    """Return the request as guardrails receive it."""
    if (owner := record.principal) is None:
        return RequestInfo(record.request_id, "", record.model)
    return RequestInfo(record.request_id, owner.key_id, record.model, owner.organization_id)


def hash_key_of(record: RequestRecord, worker: Worker) -> bytes | None:
    """Return the organization's own key, so that no other can search for its values."""
    key, principal = worker.redaction_key, record.principal
    if key is None or principal is None:
        return None
    return hmac.digest(key, principal.organization_id.encode(), "sha256")


async def _allowed(  # noqa: PLR0913, PLR0917 - the facts of one request
    subject: Subject,
    body: bytes,
    findings: tuple[Finding, ...],
    route: Route,
    caller: Caller,
    stream: ExtProcStream,
    record: RequestRecord,
    worker: Worker,
) -> RequestAllowed:
    """Redact *findings*, request the counts of a stream, and hand on placeholders."""
    (_, policy), changed, restoration = caller, body, NOTHING_REDACTED
    placeholders: Placeholders | None = None
    if findings or policy.answers.redacts:
        guardrails = {result.guardrail.name: result.guardrail for result in record.results}
        first = _FIRST_READ if route.dialect in _SYSTEM_IN_MESSAGES else _FIRST_READ | {"system"}
        # Items are added to a conversation that the path names, and the provider has the others.
        adds = route.operation.spec.is_stored
        after = own_number(record.request_id) if adds else number_before(body, record.request_id)
        rules = RedactionRules(guardrails, hash_key_of(record, worker), first, after)
        steps = redact(body, subject.parts, findings, rules=rules)
        done = worker.guardrail_runner.run_cooperatively(steps)
        # Without a call of `outcome_of`, as nearly every redaction is short.
        changed, restoration, placeholders = (
            done if isinstance(done, tuple) else await stream.wait_for(done)
        )
    asking, hides = _asking_for_usage(subject, changed, route, caller, stream)
    is_replaced = False
    if findings and subject.model is not None and route.model is None:
        name = (record.alias or subject.model).encode()
        contents = [subject.parts[one.part].content for one in findings]
        is_replaced = any(
            one == name or (route.has_google_names and one.endswith(b"/" + name))
            for one in contents
        )
    asking = asking or (changed if findings else None)
    return RequestAllowed(asking, restoration, hides, is_replaced, placeholders)


def _asking_for_usage(
    subject: Subject, body: bytes, route: Route, caller: Caller, stream: ExtProcStream
) -> tuple[bytes | None, bool]:
    """Return a body that requests its stream's counts, if needed, and whether to hide them."""
    if not subject.streamed or subject.asks_for_usage or not can_ask_for_usage(route):
        return None, False
    wanted = stream_usage_of(caller)
    match wanted:
        case StreamUsage.ESTIMATE:
            return None, False
        case StreamUsage.PASS:
            return ask_for_usage(body), False
        case StreamUsage.HIDE:
            asking = ask_for_usage(body) if stream.protocol.may_judge_answer else body
            return (None, False) if asking is body else (asking, True)
        case _:
            assert_never(wanted)


async def take_limits(
    caller: Caller, stream: ExtProcStream, record: RequestRecord, worker: Worker
) -> ClientError | None:
    """Reserve the request's share of its limits; return the refusal if there is no room.

    Waits for the shared counts, and only if the leases of this worker are not enough.
    """
    route = record.route if isinstance(record.route, Route) else None
    subject = record.subject
    spec = UNKNOWN_OPERATION if route is None else route.operation.spec
    text = record.text_bytes or (record.body_bytes if spec.uploads is None else 0)
    media = max(0, record.body_bytes - text)
    tokens_in, tokens_out = -(-text // BYTES_A_TOKEN) + media // MEDIA_BYTES_A_TOKEN, 0
    if spec.reserves_output:
        tokens_out = worker.default_output_tokens
        if subject is not None and (most := subject.max_output_tokens) is not None:
            tokens_out = most
        elif subject is not None:
            tokens_out = min(tokens_out * subject.choices, MOST_OUTPUT_TOKENS)
            if subject.least_output_tokens:
                tokens_out = max(tokens_out, subject.least_output_tokens)
    if subject is not None:  # for rate limits of Envoy's own as well
        record.estimated_tokens = tokens_in + tokens_out
    key, policy = caller
    if not key.limits:
        return None
    cost = _cost(route, subject, TokenCounts(tokens_in, tokens_out), worker)
    has_one_model = subject is not None and not subject.other_models
    demand = RequestCost(
        operation=None if route is None else route.operation.value,
        model=subject.model if subject is not None and has_one_model else None,
        priority=key.priority,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost=cost or 0,
        request_bytes=record.body_bytes,
    )
    claims = limit_checks(key.limits, demand, now=worker.clocks.wall())
    if isinstance(claims, Exceeded):
        record.limit = f"{claims.limit.level.value} {shown(claims.limit)}"
        return single_request_error(claims.limit)
    if not claims:
        return None
    has_price = cost is not None or not spec.uses_tokens
    uncounted = uncounted_error(
        claims, subject, policy.uncounted, has_price=has_price, route=route
    )
    if uncounted is not None:
        return uncounted
    slot = slot_name(record.request_id, record.wall_ns // 1000)
    taken = worker.limiter.take(key.principal, claims, member=slot)
    if isinstance(taken, Awaitable):
        taken = await _taken(taken, demand, claims, stream, record, worker)
    record.allowance = _allowance(taken, demand, claims, worker)
    short = record.allowance.short
    if short is None:
        worker.recorder.limit_granted(is_local=taken.is_local)
        return None
    record.limit = f"{short.limit.level.value} {shown(short.limit)}"
    worker.recorder.limit_refused(short.limit.measure, short.limit.level, is_local=taken.is_local)
    return limit_error(short, never_passes=record.allowance.never_passes)


async def _taken(
    taken: Awaitable[LimitDecision],
    demand: RequestCost,
    claims: tuple[LimitCheck, ...],
    stream: ExtProcStream,
    record: RequestRecord,
    worker: Worker,
) -> LimitDecision:
    """Wait for the limiter; record units granted in the turn in which the wait is given up."""
    taking = asyncio.ensure_future(taken)
    try:
        return await stream.wait_for(taking)
    except (asyncio.CancelledError, LateError):
        if taking.done() and not taking.cancelled() and taking.exception() is None:
            record.allowance = _allowance(taking.result(), demand, claims, worker)
        raise


def _allowance(
    taken: LimitDecision, demand: RequestCost, claims: tuple[LimitCheck, ...], worker: Worker
) -> Allowance:
    match taken:
        case Granted(standings, is_local):
            reserved = Reservation(
                demand.input_tokens,
                demand.output_tokens,
                demand.cost,
                int(worker.clocks.wall() * 1e6),
                tuple([one.limit.id for one in claims if one.limit.models is not None]),
            )
            return Allowance(standings, None, reserved, is_local)
        case Limited(standing, is_local):
            check = next(one for one in claims if one.limit.id == standing.limit.id)
            return Allowance((), standing, None, is_local, check.never_passes)
        case _:
            assert_never(taken)


def _cost(
    route: Route | None, subject: Subject | None, tokens: TokenCounts, worker: Worker
) -> int | None:
    """Return the estimated cost in millionths of a dollar, rounded up; None without a price.

    Of several models it is unknown which one runs: the dearest counts. If no model is known, since
    none is named or the body cannot be read, the price of all models counts (`*`): a provider may
    choose any.
    """
    at = datetime.fromtimestamp(worker.clocks.wall(), UTC)
    prices, tier = worker.prices.current, None
    models: tuple[str | None, ...] = (None if route is None else route.model,)
    if subject is not None:
        tier, models = subject.service_tier, (subject.model, *subject.other_models)
    # Of an unknown route it is not even known that a model runs.
    dearest = None if prices.is_known and route is not None else 0
    for model in models:
        price = prices.price_of(model or "", at=at, tier=tier)
        if price is not None:
            dearest = max(dearest or 0, math.ceil(price.cost_of(tokens) * MICROS))
    return dearest
