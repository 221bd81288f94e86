"""The keys of Egret's dynamic metadata, in namespace `egret`.

The pipeline writes them. Envoy's access log and response headers read them, and its access log
brings them back to Egret for usage. Further keys are the names of headers of limits, which Envoy
writes to the client as they are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sidecar.domain.limits import Reservation

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class MetadataKey:
    """Names of dynamic metadata. Numbers that must stay exact are text: Envoy rounds others."""

    REQUEST_ID: Final = "request_id"
    VERDICT: Final = "verdict"
    ERROR: Final = "error"
    ANSWER_STATUS: Final = "answer_status"
    """The provider's status, of an answer that Egret refused."""
    MODEL: Final = "model"
    TRACE_ID: Final = "trace_id"
    """Only of a sampled trace."""
    POLICY: Final = "policy"
    KEY_ID: Final = "key_id"
    TEAM: Final = "team"
    ORGANIZATION: Final = "organization"
    PRIORITY: Final = "priority"
    ESTIMATED_TOKENS: Final = "estimated_tokens"
    """Text, as a descriptor of Envoy's rate limits takes nothing else."""
    STARTED_US: Final = "started_us"
    """Microseconds since the epoch, as text."""
    TEAM_ID: Final = "team_id"
    ORGANIZATION_ID: Final = "organization_id"
    OPERATION: Final = "operation"
    PROVIDER: Final = "provider"
    STREAMED: Final = "streamed"
    TEXT_BYTES: Final = "text_bytes"
    GUARDRAILS: Final = "guardrails"
    """`name=verdict name=verdict`, of each verdict that is not a pass."""
    RESERVED: Final = "reserved"
    SERVICE_TIER: Final = "service_tier"
    """Only of a request that names one with prices of its own."""
    USAGE_SOURCE: Final = "usage_source"
    """There if the worker itself accounts for the request: its entry in an access log is not
    counted then."""
    PROVIDER_CREDENTIAL: Final = "provider_credential"
    PROVIDER_REGION: Final = "provider_region"
    PROVIDER_ORDER: Final = "provider_order"
    """Names with commas between them."""
    SERVER_TIMING: Final = "server_timing"
    AUTHORIZE_US: Final = "authorize_us"
    GUARDRAILS_US: Final = "guardrails_us"
    EGRET_US: Final = "egret_us"


METADATA_KEYS: Final = frozenset(
    value for name, value in vars(MetadataKey).items() if name.isupper()
)

RESERVED_NUMBERS: Final = 4
"""Input tokens, output tokens, cost, time; ids of limits for some models follow them."""


def reserved_text(reserved: Reservation) -> str:
    """Return the value of `reserved`, words with blanks between them."""
    tokens = f"{reserved.input_tokens} {reserved.output_tokens}"
    numbers = f"{tokens} {reserved.cost} {reserved.taken_us}"
    return " ".join((numbers, *reserved.by_model)) if reserved.by_model else numbers
