"""Writes dynamic metadata for Envoy, and headers and refusals for the client.

The state of limits goes into the headers that client libraries read. OpenAI's are described in its
guide on rate limits (`x-ratelimit-*`, resets as `1m30s`), Anthropic's in its page on rate limits
(`anthropic-ratelimit-*`, resets as RFC 3339 times).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from sidecar.apis.error_body import error_body, error_headers
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.http import HeaderName, Headers, MetadataFields, Refusal
from sidecar.domain.limits import (
    MICROS,
    SETTLED,
    Limit,
    LimitStatus,
    Measure,
    Window,
    dollars,
    sliding_seconds,
)
from sidecar.domain.metadata import MetadataKey, reserved_text
from sidecar.domain.policy import ProviderChoice, UncountedAction
from sidecar.domain.report import Clocks
from sidecar.domain.subject import Dialect, RequestForm, Route, Subject
from sidecar.extproc.codec import metadata_fields
from sidecar.limits.budgets import highest_passed
from sidecar.limits.limit_check import LimitCheck
from sidecar.pipeline.record import RequestRecord
from sidecar.telemetry import sanitize
from sidecar.telemetry.names import OVERFLOW
from sidecar.telemetry.traceparent import sampled_trace_id


def metadata_of(record: RequestRecord, *, now: float) -> MetadataFields:
    """Return the metadata of a request as it stands, and keep it as judged in the record.

    *now* is in monotonic seconds.
    """
    outcome = record.outcome_now()  # its `_value_` is used: `value` is a slow property (3.11)
    model = record.model
    if model is not None and not sanitize.MODEL.fullmatch(model):
        model = OVERFLOW
    record.judged = judged = record.judged_request(outcome, model)
    policy = None if record.policy is None else record.policy.name
    pairs: list[tuple[str, str | float]] = [(MetadataKey.REQUEST_ID, record.request_id)]
    if record.error is not None:
        pairs.append((MetadataKey.ERROR, record.error.value))
        if record.answer_status is not None:
            pairs.append((MetadataKey.ANSWER_STATUS, str(record.answer_status)))
    traceparent = record.traceparent
    if traceparent is not None and (trace_id := sampled_trace_id(traceparent)) is not None:
        pairs.append((MetadataKey.TRACE_ID, trace_id))
    owner = record.principal
    if owner is None or judged is None:
        shared = _shared_fields(outcome._value_, model, policy)
    else:
        shared = _shared_fields(
            outcome._value_,
            model,
            policy,
            None if record.key is None else record.key.priority._value_,
            owner.key_id,
            owner.team_name,
            owner.organization_name,
            owner.team_id,
            owner.organization_id,
            judged.operation,
            judged.provider,
            None if record.policy is None else record.policy.provider,
            judged.service_tier,
        )
        if record.estimated_tokens is not None:
            pairs.append((MetadataKey.ESTIMATED_TOKENS, str(record.estimated_tokens)))
        pairs.append((MetadataKey.STARTED_US, str(record.wall_ns // 1_000)))
        if judged.is_streamed:
            pairs.append((MetadataKey.STREAMED, "true"))
        if judged.text_bytes:
            pairs.append((MetadataKey.TEXT_BYTES, str(judged.text_bytes)))
        if judged.guardrails:
            verdicts = [f"{name}={verdict}" for name, verdict in judged.guardrails.items()]
            pairs.append((MetadataKey.GUARDRAILS, " ".join(verdicts)))
        if judged.reserved is not None:
            pairs.append((MetadataKey.RESERVED, reserved_text(judged.reserved)))
        if record.usage_source is not None:
            pairs.append((MetadataKey.USAGE_SOURCE, record.usage_source))
    authorize, guardrails, own = record.spent_seconds(now)
    pairs += (
        (MetadataKey.SERVER_TIMING, server_timing(authorize, guardrails, own)),
        (MetadataKey.AUTHORIZE_US, round(authorize * 1e6)),
        (MetadataKey.GUARDRAILS_US, round(guardrails * 1e6)),
        (MetadataKey.EGRET_US, round(own * 1e6)),
    )
    return shared + metadata_fields(pairs)


@lru_cache(maxsize=4096)
def _shared_fields(  # noqa: PLR0913, PLR0917 - the facts that requests have in common
    verdict: str,
    model: str | None,
    policy: str | None,
    priority: str | None = None,
    key_id: str | None = None,
    team: str | None = None,
    organization: str | None = None,
    team_id: str | None = None,
    organization_id: str | None = None,
    operation: str | None = None,
    provider: str | None = None,
    choice: ProviderChoice | None = None,
    service_tier: str | None = None,
) -> MetadataFields:
    """Encode the fields that most requests of a key have in common, once for all of them."""
    named: tuple[tuple[str, str | None], ...] = (
        (MetadataKey.VERDICT, verdict),
        (MetadataKey.MODEL, model),
        (MetadataKey.POLICY, policy),
        (MetadataKey.PRIORITY, priority),
        (MetadataKey.KEY_ID, key_id),
        (MetadataKey.TEAM, team),
        (MetadataKey.ORGANIZATION, organization),
        (MetadataKey.TEAM_ID, team_id),
        (MetadataKey.ORGANIZATION_ID, organization_id),
        (MetadataKey.OPERATION, operation),
        (MetadataKey.PROVIDER, provider),
        (MetadataKey.SERVICE_TIER, service_tier),
    )
    if choice is not None:
        named += (
            (MetadataKey.PROVIDER_CREDENTIAL, choice.credential),
            (MetadataKey.PROVIDER_REGION, choice.region),
            (MetadataKey.PROVIDER_ORDER, ",".join(choice.order) or None),
        )
    return metadata_fields([(name, value) for name, value in named if value is not None])


def server_timing(authorize: float, guardrails: float, own: float) -> str:
    """Return a `server-timing` value; durations in milliseconds (W3C Server Timing)."""
    return (
        f"authorize;dur={authorize * 1000:.3f}, "
        f"guardrails;dur={guardrails * 1000:.3f}, "
        f"egret;dur={own * 1000:.3f}"
    )


LONGEST_WAIT_SECONDS: Final = 120
"""OpenAI's library waits no longer. Anthropic's and Codex would sleep for all of `retry-after`,
even until the next month: a header forbids the retry, and `retry-after`, all that Codex reads,
is left out."""
_CALENDAR: Final = frozenset({Window.DAY, Window.WEEK, Window.MONTH})


def _is_long(short: LimitStatus) -> bool:
    """Return whether the wait for room is too long for a library."""
    return short.reset_seconds > LONGEST_WAIT_SECONDS or short.limit.window in _CALENDAR


_LOCAL: Final = (HeaderName.LIMITS, "local")
"""For diagnosis: the shared counts were unavailable, and this worker's share decided."""


def own_headers(record: RequestRecord, clocks: Clocks) -> tuple[tuple[str, bytes], ...]:
    """Return all headers of Egret, for an answer that Egret writes or changes itself."""
    now = clocks.monotonic()
    age = now - record.started_at
    timing = server_timing(*record.spent_seconds(now))
    return (
        (HeaderName.EGRET_REQUEST_ID, record.request_id.encode("ascii", "replace")),
        (HeaderName.RESPONSE_TIME, f"{age * 1000:.3f}ms".encode()),
        (HeaderName.SERVER_TIMING, timing.encode()),
        *[(name, value.encode()) for name, value in limit_pairs(record, clocks)],
    )


def limit_pairs(record: RequestRecord, clocks: Clocks) -> tuple[tuple[str, str], ...]:
    """Return the state of the limit without room, or of all that the request has reserved of.

    They are as last seen by this worker: no round trip is made for a header.
    """
    allowance = record.allowance
    if allowance.short is not None:
        headers = limit_headers(record.dialect, [allowance.short], now=clocks.wall())
        if allowance.never_passes or _is_long(allowance.short):
            headers.append((HeaderName.SHOULD_RETRY, "false"))
    elif allowance.standings:
        headers = limit_headers(record.dialect, allowance.standings, now=clocks.wall())
        passed = highest_passed(allowance.standings)
        if passed and not allowance.is_local:
            headers.append((HeaderName.BUDGET, str(passed)))
    else:
        return ()
    return tuple([*headers, _LOCAL] if allowance.is_local else headers)


def limit_metadata(
    record: RequestRecord, clocks: Clocks, *, has_headers: bool, has_limits: bool
) -> MetadataFields:
    """Return the state of limits as metadata: headers for the client, structs for Envoy's limits.

    `limit_<measure>` has the fields `requests_per_unit` and `unit`, as Envoy's rate limits read an
    override, where Envoy has that unit, and `remaining` and `reset_seconds`. Of several limits on
    one measure it is the one with least left. Money is in US dollars.
    """
    pairs: list[tuple[str, str | float | bytes]] = []
    if has_headers:
        pairs += limit_pairs(record, clocks)
    if has_limits:
        for name, one in _tightest(record.allowance.standings, _METADATA_NAMES).items():
            limit = one.limit
            if limit.measure is Measure.COST:
                amounts = (("amount", limit.amount), ("remaining", one.remaining))
                state: list[tuple[str, str | float]] = [(key, of / MICROS) for key, of in amounts]
            else:
                state = [("remaining", float(one.remaining))]
                if (unit := _ENVOY_UNITS.get(limit.window)) is not None:
                    state += [("requests_per_unit", float(limit.amount)), ("unit", unit)]
            state.append(("reset_seconds", one.reset_seconds))
            pairs.append((name, metadata_fields(state)))
    return metadata_fields(pairs)


def _tightest(
    standings: Iterable[LimitStatus], names: Mapping[Measure, str]
) -> dict[str, LimitStatus]:
    """Return the limit with least left for each of *names*; a measure without one is left out."""
    tightest: dict[str, LimitStatus] = {}
    for one in standings:
        name = names.get(one.limit.measure)
        if name is not None and (name not in tightest or one.remaining < tightest[name].remaining):
            tightest[name] = one
    return tightest


_METADATA_NAMES: Final = {measure: f"limit_{measure.value}" for measure in Measure}

_ENVOY_UNITS: Final = {
    Window.SECOND: "SECOND",
    Window.MINUTE: "MINUTE",
    Window.DAY: "DAY",
    Window.MONTH: "MONTH",
}
"""Names of `envoy.type.v3.RateLimitUnit`."""

_OURS: Final = re.compile(r"(?:x-ratelimit|anthropic-ratelimit|x-egret)-[a-z0-9-]+")
"""As Envoy's `mutation_rules` allow: to remove another name would fail the answer."""


def foreign_headers(answer: Headers) -> tuple[str, ...]:
    """Return the names in a provider's *answer* that are ours to write, to be removed.

    A provider counts for the account that all our clients share: its remainder shows the use of
    others, and a client could not distinguish its numbers from ours.
    """
    return tuple(dict.fromkeys(name for name, _ in answer.fields if _OURS.fullmatch(name)))


def limit_headers(
    dialect: Dialect, standings: Iterable[LimitStatus], *, now: float
) -> list[tuple[str, str]]:
    """Return the headers of *dialect*; of several limits on one measure, the tightest.

    *now* is in seconds since the epoch. Dialects without such headers get none.
    """
    headers: list[tuple[str, str]] = []
    for name, one in _tightest(standings, _LIMIT_NAMES[dialect]).items():
        amount, remaining = str(one.limit.amount), str(one.remaining)
        if dialect is Dialect.ANTHROPIC:
            resets_at = datetime.fromtimestamp(math.ceil(now + one.reset_seconds), UTC)
            headers += (
                (f"anthropic-ratelimit-{name}-limit", amount),
                (f"anthropic-ratelimit-{name}-remaining", remaining),
                (f"anthropic-ratelimit-{name}-reset", f"{resets_at:%Y-%m-%dT%H:%M:%SZ}"),
            )
        else:
            headers += (
                (f"x-ratelimit-limit-{name}", amount),
                (f"x-ratelimit-remaining-{name}", remaining),
                (f"x-ratelimit-reset-{name}", _duration(one.reset_seconds)),
            )
    return headers


_OF_OPENAI: Final = {
    Measure.REQUESTS: "requests",
    Measure.TOKENS: "tokens",
    Measure.INPUT_TOKENS: "tokens",
    Measure.OUTPUT_TOKENS: "tokens",
}
_LIMIT_NAMES: Final[dict[Dialect, dict[Measure, str]]] = {
    Dialect.OPENAI: _OF_OPENAI,
    Dialect.AZURE_OPENAI: _OF_OPENAI,
    Dialect.ANTHROPIC: {
        Measure.REQUESTS: "requests",
        Measure.TOKENS: "tokens",
        Measure.INPUT_TOKENS: "input-tokens",
        Measure.OUTPUT_TOKENS: "output-tokens",
    },
    Dialect.GEMINI: {},
    Dialect.VERTEX_AI: {},
    Dialect.BEDROCK: {},
}
"""The measures that each API has headers for, by the names there."""


def _duration(seconds: float) -> str:
    """Write a duration as Go and OpenAI do: `250ms`, `1s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def refusal_of(
    error: ClientError,
    *,
    dialect: Dialect,
    headers: tuple[tuple[str, bytes], ...],
    metadata: MetadataFields,
    request_id: str = "",
    contact: str = "",
) -> Refusal:
    """Return the refusal of *error*; *headers* are added to those of the error itself.

    Its message ends with *contact*, the operator's own line, and the request id.
    """
    named = error_headers(dialect, error, request_id=request_id)
    own = [(HeaderName.CONTENT_TYPE, b"application/json"), *named]
    if error.retry_after_seconds is not None:
        own.append((HeaderName.RETRY_AFTER, str(error.retry_after_seconds).encode()))
    return Refusal(
        status=error.kind.spec.status,
        headers=(*own, *headers),
        body=error_body(dialect, error, request_id=request_id, contact=contact),
        details=f"egret_{error.kind.value}",
        metadata=metadata,
    )


def limit_error(short: LimitStatus, *, never_passes: bool = False) -> ClientError:
    """Return the error of a limit without room: which, and whose, with its own amount.

    With *never_passes* the request needs more than there ever is at once.
    """
    level, words = short.limit.level.value, _limit_words(short.limit)
    wait = max(1, math.ceil(short.reset_seconds))
    if short.limit.measure is Measure.COST:
        kind = ErrorKind.BUDGET_EXHAUSTED
        text = f"The budget of this {level} does not cover this request: {words}."
    else:
        kind, text = (
            ErrorKind.RATE_LIMIT_EXCEEDED,
            f"The limit of this {level} is reached: {words}.",
        )
        if never_passes:
            text = f"This request needs more than the limit of this {level} ever allows: {words}."
        else:
            text += f" Try again in {wait} s."
    waits = not never_passes and not _is_long(short)
    return ClientError(kind, text, retry_after_seconds=wait if waits else None)


def single_request_error(limit: Limit) -> ClientError:
    """Return the error of one request that needs more than its limit ever allows."""
    if limit.measure is Measure.REQUEST_BYTES:
        return ClientError(
            ErrorKind.BODY_TOO_LARGE,
            f"The request body is larger than this {limit.level.value} may send:"
            f" {limit.amount} bytes.",
        )
    return ClientError(
        ErrorKind.OUTPUT_LIMIT_EXCEEDED,
        f"The request asks for more output than this {limit.level.value} may:"
        f" {limit.amount} tokens.",
        param="max_tokens",
    )


def uncounted_error(
    claims: Iterable[LimitCheck],
    subject: Subject | None,
    action: UncountedAction,
    *,
    has_price: bool,
    route: Route | None = None,
) -> ClientError | None:
    """Return the error of a request whose use one of its limits cannot count, None without one.

    *subject* is None if the body cannot be read: *route* may name the model all the same.
    """
    in_background = subject is not None and subject.in_background
    if action is UncountedAction.ALLOW or (has_price and not in_background):
        return None
    measures = SETTLED if in_background else {Measure.COST}
    limit = next((one.limit for one in claims if one.limit.measure in measures), None)
    if limit is None:
        return None
    if in_background:
        text = (
            "A response in the background states its tokens later, where no limit of this"
            f" {limit.level.value} counts them. Send the request without `background`."
        )
        return ClientError(ErrorKind.UNCOUNTED_USAGE, text, param="background")
    known = route if subject is None else subject
    if known is None or known.model is None:
        takes_uploads = (
            route is not None
            and route.operation.spec.uploads is not None
            and route.form is RequestForm.ANY_OBJECT
        )
        advice = (
            "Ask for a price of all models (`*`) to be set: Egret does not read uploads."
            if takes_uploads
            else "Name a model with a price, in a body of plain JSON."
        )
        text = (
            f"No model is known of this request, so the budget of this {limit.level.value} cannot"
            f" count it. {advice}"
        )
        return ClientError(ErrorKind.UNCOUNTED_USAGE, text, param="model")
    text = (
        f"This model has no price, so the budget of this {limit.level.value} cannot count the"
        " request. Use another model, or ask for its price to be set."
    )
    return ClientError(ErrorKind.UNCOUNTED_USAGE, text, param="model")


def _limit_words(limit: Limit) -> str:
    if limit.measure is Measure.CONCURRENT:
        return f"{limit.amount} requests at a time"
    if limit.measure is Measure.COST:
        return f"{dollars(limit.amount)} US dollars a {limit.window.value}"
    words = f"{limit.amount} {limit.measure.value.replace('_', ' ')} a {limit.window.value}"
    # A client that has sent fewer than the amount would take the refusal for a fault.
    has_burst = sliding_seconds(limit.window) is not None and limit.at_once != limit.amount
    return f"{words}, {limit.at_once} at once" if has_burst else words
