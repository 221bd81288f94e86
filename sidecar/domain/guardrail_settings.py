"""Settings of each guardrail type, local and remote."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar


class Threshold(enum.Enum):
    """From which score on a finding counts: `LOW` finds most, `HIGH` errs least."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class InjectionKind(enum.Enum):
    """The aim of an attack on a model's instructions."""

    INSTRUCTION_OVERRIDE = "instruction_override"
    JAILBREAK = "jailbreak"
    PROMPT_EXTRACTION = "prompt_extraction"
    ENCODED_PAYLOAD = "encoded_payload"


class CodeLanguage(enum.Enum):
    """A language whose statements count as code."""

    SQL = "sql"
    SHELL = "shell"


class AnswerPart(enum.Enum):
    """A part of an answer that a program reads."""

    CONTENT = "content"
    ARGUMENTS = "arguments"


class SecretTier(enum.Enum):
    """How certain it is that a finding is a secret in use.

    `STRICT` findings have a shape of their own, `LIKELY` ones may be defaults and examples.
    """

    STRICT = "strict"
    LIKELY = "likely"


@dataclass(frozen=True, slots=True)
class SecretsSettings:
    """Vendor tokens, private keys, connection strings."""

    guardrail_type: ClassVar[str] = "secrets"
    types: tuple[str, ...] | None = None  # None: those on by default
    tiers: tuple[SecretTier, ...] | None = None  # None: both


@dataclass(frozen=True, slots=True)
class PiiSettings:
    """Personal data.

    `regions` are ISO country codes whose national phone form counts, `countries` those whose
    identifiers are looked for. `private_addresses` lets addresses of private networks count.
    """

    guardrail_type: ClassVar[str] = "pii"
    types: tuple[str, ...] | None = None  # None: those on by default
    regions: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    private_addresses: bool = False


@dataclass(frozen=True, slots=True)
class DeniedPattern:
    """A named regular expression in RE2 syntax."""

    name: str
    regex: str


@dataclass(frozen=True, slots=True)
class DeniedPatternsSettings:
    """Regular expressions written by the policy's author."""

    guardrail_type: ClassVar[str] = "denied_patterns"
    patterns: tuple[DeniedPattern, ...]


@dataclass(frozen=True, slots=True)
class DeniedTermsSettings:
    """Words and phrases, matched on word boundaries without regard to case."""

    guardrail_type: ClassVar[str] = "denied_terms"
    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CodeSettings:
    """Statements of programming languages."""

    guardrail_type: ClassVar[str] = "code"
    languages: tuple[CodeLanguage, ...] = tuple(CodeLanguage)


@dataclass(frozen=True, slots=True)
class ToxicitySettings:
    """Insults and swear words; `allowed` words are none."""

    guardrail_type: ClassVar[str] = "toxicity"
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptInjectionSettings:
    """Attempts to override a model's instructions.

    `indirect_threshold` holds for tool results and documents, which no user has written.
    """

    guardrail_type: ClassVar[str] = "prompt_injection"
    threshold: Threshold = Threshold.MEDIUM
    indirect_threshold: Threshold = Threshold.MEDIUM
    kinds: tuple[InjectionKind, ...] | None = None  # None: all


@dataclass(frozen=True, slots=True)
class LanguageSettings:
    """Languages that may be written in, by ISO 639-1 code."""

    guardrail_type: ClassVar[str] = "language"
    allowed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MaxInputSettings:
    """The most text of one request, in Unicode characters over all strings."""

    guardrail_type: ClassVar[str] = "max_input"
    max_characters: int


@dataclass(frozen=True, slots=True)
class MaxTokensSettings:
    """The most text of one request, in tokens of the o200k vocabulary over all strings."""

    guardrail_type: ClassVar[str] = "max_tokens"
    max_tokens: int


@dataclass(frozen=True, slots=True)
class JsonSchemaSettings:
    """The JSON Schema that an answer read by a program must satisfy.

    `schema` is JSON text of draft 2020-12. `tools` are those whose arguments are checked, None
    all. `max_bytes` and `max_depth` bound one text, and the levels of values within each other.
    """

    guardrail_type: ClassVar[str] = "json_schema"
    schema: str
    of: AnswerPart = AnswerPart.CONTENT
    tools: tuple[str, ...] | None = None
    max_bytes: int = 65_536
    max_depth: int = 32


RuleSettings = (
    SecretsSettings
    | PiiSettings
    | DeniedPatternsSettings
    | DeniedTermsSettings
    | CodeSettings
    | ToxicitySettings
)
"""Checked by the rules of the shared database: findings have spans."""

WholeTextSettings = (
    PromptInjectionSettings | LanguageSettings | MaxInputSettings | MaxTokensSettings
)
"""Checked over a text as a whole: a score or a count decides."""


class RemoteScope(enum.Enum):
    """The texts that a remote check judges together."""

    CONVERSATION = "conversation"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """The server of a remote check. `headers` may hold credentials and are never shown.

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
class ResilienceSettings:
    """Retries, hedging, cache, concurrency and circuit breaker of a remote check.

    `retries` come within the guardrail's own time limit. After `hedge_after_seconds` without an
    answer a second request is sent, None never. `cache_seconds` keeps an answer for equal content,
    0 none: for all texts of a request or for each message, by `scope`. `max_concurrent` checks of
    one server, which organizations share, run in a worker at a time; more are an error at once.
    After `breaker_failures` failures in a row the circuit breaker opens for `breaker_seconds`, for
    one organization if all are of that one; then it lets one request probe the server.
    """

    retries: int = 1
    hedge_after_seconds: float | None = None
    cache_seconds: float = 0.0
    scope: RemoteScope = RemoteScope.CONVERSATION
    max_concurrent: int = 64
    breaker_failures: int = 5
    breaker_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """A remote check over HTTP in Egret's own form."""

    guardrail_type: ClassVar[str] = "webhook"
    endpoint: RemoteEndpoint
    resilience: ResilienceSettings = ResilienceSettings()


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """A remote check over gRPC, `egret.guardrail.v1`."""

    guardrail_type: ClassVar[str] = "grpc"
    endpoint: RemoteEndpoint
    resilience: ResilienceSettings = ResilienceSettings()


@dataclass(frozen=True, slots=True)
class ModerationSettings:
    """An OpenAI-compatible moderations API.

    `thresholds` are scores from which a category counts; without any, the server's own
    `flagged` decides. `categories` None means all.
    """

    guardrail_type: ClassVar[str] = "moderation"
    endpoint: RemoteEndpoint
    model: str | None = None
    categories: tuple[str, ...] | None = None
    thresholds: tuple[tuple[str, float], ...] = ()
    resilience: ResilienceSettings = ResilienceSettings()


@dataclass(frozen=True, slots=True)
class PresidioSettings:
    """The analyzer API of Presidio; `entities` None means all that it supports."""

    guardrail_type: ClassVar[str] = "presidio"
    endpoint: RemoteEndpoint
    language: str = "en"
    entities: tuple[str, ...] | None = None
    min_score: float = 0.5
    resilience: ResilienceSettings = ResilienceSettings()


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
    resilience: ResilienceSettings = ResilienceSettings()


RemoteSettings = (
    WebhookSettings | GrpcSettings | ModerationSettings | PresidioSettings | LlmJudgeSettings
)
