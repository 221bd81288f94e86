"""Usage of a request: the note of its verdict, its end in the access log, the stored record.

Each request builds and encodes these values: msgspec's structs are built and encoded in C.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from sidecar.domain.limits import Reservation

MAX_COUNT: Final = (1 << 53) - 1
"""Whole numbers up to here are exact in JSON and fit a `bigint`; no request has more tokens."""


class AnswerEnd(enum.Enum):
    """The end of the answer to a request."""

    COMPLETED = "completed"
    CLIENT_ABORTED = "client_aborted"
    FAILED = "failed"  # by the provider or on the way to it
    REFUSED = "refused"  # by Egret: the provider never saw the request
    BLOCKED = "blocked"  # by Egret: the provider has answered, and is paid for it
    LOST = "lost"  # no log entry: Envoy died before its access log had left


class Estimate(enum.Enum):
    """Why a worker that reads answers estimates the tokens of one."""

    NO_COUNTS = "no_counts"  # the answer states none, or its stream was not made to
    LEFT_EARLY = "left_early"  # the client left, or the provider broke off
    UNREADABLE = "unreadable"  # compressed, or of an unknown form
    NOT_SENT = "not_sent"  # the gateway sends no answers, or nothing reads this one
    NO_SIGNAL = "no_signal"  # the trailers with Envoy's counts did not come


class DecisionKind(enum.Enum):
    """The decision about a request, without its reasons."""

    ALLOW = "allow"
    REDACT = "redact"
    DENY = "deny"


class TokenCounts(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request.

    `input` holds `cached_input` (read from the provider's cache) and `cache_write_input` (written
    to it), which holds `cache_write_hour` (kept there for an hour); `output` holds `reasoning`.
    Providers that count them apart are brought to this form.
    """

    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write_input: int = 0
    reasoning: int = 0
    cache_write_hour: int = 0


NO_TOKENS: Final = TokenCounts()


SERVICE_TIERS: Final = ("ultrafast", "priority", "flex")
"""The tiers that a request may name, and that have prices of their own, the dearest first.

Of OpenAI, Google and Bedrock; the fast mode of Anthropic's API counts as `priority`."""


class JudgedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request and its verdict, as they are known when Egret has decided.

    `request_id` and `occurred_at` together identify it: every note of the same request has both.
    `operation`, `provider` and `model` are None if they were not read. `text_bytes` is the
    text that goes to the model, 0 if the body was not read. `guardrails` holds each verdict
    that is not a pass, by the guardrail's name, without failures in shadow. `reserved` are the
    amounts taken from limits, None if its key, team and organization have none. `service_tier` is
    one of `SERVICE_TIERS`.
    """

    request_id: str
    occurred_at: datetime
    key_id: str
    team_id: str
    organization_id: str
    decision: DecisionKind
    operation: str | None = None
    provider: str | None = None
    model: str | None = None
    is_streamed: bool = False
    text_bytes: int = 0
    guardrails: dict[str, str] | None = None
    reserved: Reservation | None = None
    service_tier: str | None = None


USAGE_NAMESPACE: Final = "egret.usage"
"""The `metadata_namespace` of Envoy's AI filter; `forwarding_namespaces.typed` must list it."""


BEDROCK_INPUT_TOKENS: Final = "x-amzn-bedrock-input-token-count"
BEDROCK_OUTPUT_TOKENS: Final = "x-amzn-bedrock-output-token-count"
"""Headers of a whole answer to Bedrock's `invoke`; models of embeddings state the first alone."""

_COUNTS: Final = f"metadata.typed_filter_metadata['{USAGE_NAMESPACE}']"


def _counted(field: str) -> str:
    """Return the operator for a field of the token counts that Envoy's AI filter found."""
    return f"%CEL({_COUNTS}.{field})%"


_SUM: Final = f"{_COUNTS}.provider_total_tokens"
"""The provider's own sum; `total_tokens` is the filter's, of input and output. Some servers for
OpenAI's API, as that of xAI, have reasoning in the sum alone; that of Voyage states nothing else.
"""
_BESIDE: Final = (
    f"has({_COUNTS}.total_tokens) && has({_SUM}) && {_SUM} > {_COUNTS}.total_tokens"
    f" ? {_SUM} - {_COUNTS}.total_tokens : 0u"
)

_BEDROCK_INPUT: Final = f"response.headers['{BEDROCK_INPUT_TOKENS}']"
_BEDROCK_OUTPUT: Final = f"response.headers['{BEDROCK_OUTPUT_TOKENS}']"
_IN_HEADERS: Final = (
    f"'{BEDROCK_INPUT_TOKENS}' in response.headers"
    f" && !('{USAGE_NAMESPACE}' in metadata.typed_filter_metadata"
    f" && {_COUNTS}.extraction_status == 1)"
)
"""Whether Bedrock's headers have counts that Envoy's AI filter did not find in the body: of models
whose answers have a form of their own. The filter's counts of Claude have cached input, too."""


class LogEntry(NamedTuple):
    """One entry of Envoy's access log for usage: a line for each field, in this order.

    The default of a field is Envoy's command operator for it (envoyproxy.io, "Command
    operators"), `-` if there is none. No value but the last can hold a line feed: a header
    cannot, and Envoy writes metadata as JSON on one line. All text of the provider is at the end.
    """

    form: str = "1"
    """The version of this list, to be raised with each change of it."""
    egret: str = "%DYNAMIC_METADATA(egret)%"
    stream: str = "%FILTER_STATE(egret.stream:PLAIN)%"
    upstream: str = "%UPSTREAM_HOST%"
    status: str = "%RESPONSE_CODE%"
    flags: str = "%RESPONSE_FLAGS%"
    received_bytes: str = "%BYTES_RECEIVED%"
    sent_bytes: str = "%BYTES_SENT%"
    answer_bytes: str = "%UPSTREAM_WIRE_BYTES_RECEIVED%"
    method: str = "%REQ(:METHOD)%"
    duration_ms: str = "%DURATION%"
    duration_us: str = "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
    first_byte_us: str = "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%"
    output_us: str = "%COMMON_DURATION(US_RX_BODY_BEG:US_RX_END:us)%"
    usage_status: str = f"%CEL({_IN_HEADERS} ? 1 : {_COUNTS}.extraction_status)%"
    input_tokens: str = (
        f"%CEL({_IN_HEADERS} ? {_BEDROCK_INPUT}"
        f" : has({_COUNTS}.input_tokens) ? {_COUNTS}.input_tokens : {_SUM})%"
    )
    output_tokens: str = (
        f"%CEL({_IN_HEADERS} ? {_BEDROCK_OUTPUT} : {_COUNTS}.output_tokens + ({_BESIDE}))%"
    )
    cached_input_tokens: str = _counted("input_token_details.cached_tokens")
    cache_write_input_tokens: str = _counted("input_token_details.cache_creation_tokens")
    reasoning_tokens: str = _counted("output_token_details.reasoning_tokens")
    content_type: str = "%RESP(CONTENT-TYPE):100%"
    provider_request_id: str = "%RESP(X-REQUEST-ID?REQUEST-ID):200%"
    model: str = _counted("model")
    """Last, since the provider's JSON may hold any text: everything behind the line before."""


LOG_FORMAT: Final = "\n".join(LogEntry())
"""The body of a record of Envoy's OpenTelemetry access log."""


class ExchangeEnded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The end of a request, by Envoy's access log: its last byte has left.

    Comes once for each request whose key is known, refused ones included, to one of the workers;
    again if a worker died over it, with the same `request`. `tokens` are the provider's counts,
    None if it reported none of the whole answer; `stated` are those it had reported until its
    answer broke off. `status` is 0 if no answer began. The three times
    count from the first byte of the request; `output_seconds` from the first to the last byte
    of the answer's body. `answer_status` and `answer_bytes` are the provider's own, of an answer
    that was blocked. `trace_id` is that of a sampled trace. `assumed_output` are the output tokens
    to estimate with if nothing of the answer was seen.
    """

    request: JudgedRequest
    status: int
    end: AnswerEnd
    tokens: TokenCounts | None = None
    stated: TokenCounts = NO_TOKENS
    response_model: str | None = None
    provider_request_id: str | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    answer_status: int | None = None
    answer_bytes: int = 0
    is_event_stream: bool = False
    latency_seconds: float = 0.0
    first_token_seconds: float | None = None
    output_seconds: float | None = None
    trace_id: int | None = None
    assumed_output: int = 0


class UnmatchedEnd(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The end of a request without any of Egret's metadata; no provider has seen it.

    `stream` is Envoy's id of the request, which Egret received with it.
    """

    stream: str
    status: int
    end: AnswerEnd
    latency_seconds: float = 0.0


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The stored usage of one request. `is_estimated`: the provider reported no counts."""

    request: JudgedRequest
    status: int
    end: AnswerEnd
    tokens: TokenCounts
    is_estimated: bool
    response_model: str | None = None
    provider_request_id: str | None = None
    latency_seconds: float = 0.0
    first_token_seconds: float | None = None
