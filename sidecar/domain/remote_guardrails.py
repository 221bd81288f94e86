"""Settings of the guardrails that ask a server; immutable once built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """Where a remote check is asked. `headers` may hold credentials and are never shown.

    `url` is http(s), or `grpc://` and `grpcs://` with host and port for a gRPC server.
    `ca_file` holds the authorities a TLS server's certificate must come from, None the system's;
    `cert_file` and `key_file` are the client's own, both or neither.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteCare:
    """How a remote check is asked, and when it is let alone.

    `retries` come within the guardrail's own time limit. `hedge_after_seconds` asks a second
    time where no answer has come so far, None never. `cache_seconds` keeps an answer for equal
    content, 0 none. `max_concurrent` checks of one server run in a worker at a time; more are
    an error at once. After `breaker_failures` failures in a row the server is let alone for
    `breaker_seconds`, then tried with one request.
    """

    retries: int = 1
    hedge_after_seconds: float | None = None
    cache_seconds: float = 0.0
    max_concurrent: int = 64
    breaker_failures: int = 5
    breaker_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """A remote check over HTTP in Egret's own form."""

    guardrail_type: ClassVar[str] = "webhook"
    endpoint: RemoteEndpoint
    care: RemoteCare = RemoteCare()


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """A remote check over gRPC, `egret.guardrail.v1`."""

    guardrail_type: ClassVar[str] = "grpc"
    endpoint: RemoteEndpoint
    care: RemoteCare = RemoteCare()


@dataclass(frozen=True, slots=True)
class ModerationSettings:
    """An OpenAI-compatible moderations API.

    `thresholds` are scores from which a category counts; where there are none, the server's own
    `flagged` decides. `categories` None means all.
    """

    guardrail_type: ClassVar[str] = "moderation"
    endpoint: RemoteEndpoint
    model: str | None = None
    categories: tuple[str, ...] | None = None
    thresholds: tuple[tuple[str, float], ...] = ()
    care: RemoteCare = RemoteCare()


@dataclass(frozen=True, slots=True)
class PresidioSettings:
    """The analyzer API of Presidio; `entities` None means all it knows."""

    guardrail_type: ClassVar[str] = "presidio"
    endpoint: RemoteEndpoint
    language: str = "en"
    entities: tuple[str, ...] | None = None
    min_score: float = 0.5
    care: RemoteCare = RemoteCare()


@dataclass(frozen=True, slots=True)
class LlmJudgeSettings:
    """An OpenAI-compatible chat model that judges by a rubric.

    A score (0 harmless to 1) from `min_score` on is a finding.
    """

    guardrail_type: ClassVar[str] = "llm_judge"
    endpoint: RemoteEndpoint
    model: str
    rubric: str = field(repr=False)
    min_score: float = 0.5
    care: RemoteCare = RemoteCare()


RemoteSettings = (
    WebhookSettings | GrpcSettings | ModerationSettings | PresidioSettings | LlmJudgeSettings
)
