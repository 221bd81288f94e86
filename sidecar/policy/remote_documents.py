"""The typed form of remote guardrails in policy documents."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AnyUrl,
    Field,
    HttpUrl,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import override

from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    LlmJudgeSettings,
    ModerationSettings,
    PresidioSettings,
    RemoteEndpoint,
    RemoteScope,
    ResilienceSettings,
    WebhookSettings,
)
from sidecar.domain.validation import is_refused_address
from sidecar.policy.fields import Document, GuardrailFields, LongDuration, Score, Timeout

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_METADATA_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
"""gRPC refuses a call with any other name, so that each check would fail."""
_RESERVED_HEADERS: Final = frozenset({
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "host",
    "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


FilePath = Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^/")]


_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#\x00-\x1f\x7f][^\s#\x00-\x1f\x7f]*")
MESSAGE_CACHE_SECONDS: Final = 600.0
"""How long the verdict on a message is kept if the policy names no time."""

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
"""A name or an IPv4 address; services of clusters may have underscores."""


class BreakerDocument(Document):
    """Settings of the circuit breaker of a server."""

    failures: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 5
    open_for: LongDuration = 10.0


class _RemoteFields(GuardrailFields):
    url: Annotated[str, Field(max_length=2_000)]
    headers: Annotated[dict[str, str], Field(max_length=20)] = Field(
        default_factory=dict, repr=False
    )
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    retries: Annotated[int, Field(strict=True, ge=0, le=5)] = 1
    hedge_after: Timeout | None = None
    cache: LongDuration = 0.0
    scope: RemoteScope = RemoteScope.CONVERSATION
    max_concurrent: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 64
    breaker: BreakerDocument = BreakerDocument()

    @field_validator("url")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        if not _URL.fullmatch(value):
            # Parsers of URLs mend such text, each in its own way; the client sends it as it is.
            raise ValueError(
                "is not a scheme, `://`, a host, and a path without blanks, line ends and `#`"
            )
        url = cls.parsed_url(value)
        if url.username or url.password:
            raise ValueError("holds credentials; put them into headers, which are never shown")
        host = url.host or ""
        if not (host.startswith("[") or _HOST.fullmatch(host)) or url.port == 0:
            raise ValueError("names no host and port that can be connected to")
        if is_refused_address(host):
            raise ValueError("points at a link-local or metadata address")
        return value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, content in value.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"`{name[:80]}` is not a header name")
            if name.lower() in _RESERVED_HEADERS:
                raise ValueError(f"`{name}` is set by Egret")
            if not content.isascii() or not content.isprintable():
                raise ValueError(f"the value of `{name}` holds characters a header cannot carry")
        return value

    @model_validator(mode="after")
    def _has_a_whole_identity(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("`cert_file` and `key_file` go together")
        has_files = self.ca_file is not None or self.cert_file is not None
        if has_files and not self.url.lower().startswith(("https:", "grpcs:")):
            raise ValueError("has certificate files, and a URL without TLS")
        return self

    @model_validator(mode="after")
    def _hedges_in_time(self) -> Self:
        if self.hedge_after is not None and self.hedge_after >= self.timeout:
            raise ValueError("`hedge_after` is not shorter than `timeout`")
        return self

    @model_validator(mode="after")
    def _remembers_messages(self) -> Self:
        if self.scope is RemoteScope.MESSAGE and not self.cache_seconds:
            raise ValueError("`scope: message` keeps verdicts, and `cache: 0s` keeps none")
        return self

    @property
    def cache_seconds(self) -> float:
        """Return how long verdicts are kept."""
        if self.scope is RemoteScope.MESSAGE and "cache" not in self.model_fields_set:
            return MESSAGE_CACHE_SECONDS
        return self.cache

    @classmethod
    def parsed_url(cls, value: str) -> AnyUrl | HttpUrl:
        """Read a URL; a type with other schemes overrides this."""
        try:
            return TypeAdapter(HttpUrl).validate_python(value)
        except ValidationError:
            raise ValueError("is not an http or https URL") from None

    @property
    def endpoint(self) -> RemoteEndpoint:
        """Return the address of the server, and the credentials for it."""
        return RemoteEndpoint(
            url=self.url,
            headers=tuple(self.headers.items()),
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
        )

    @property
    def resilience(self) -> ResilienceSettings:
        """Return retries, hedging, cache, bulkhead and breaker."""
        return ResilienceSettings(
            retries=self.retries,
            hedge_after_seconds=self.hedge_after,
            cache_seconds=self.cache_seconds,
            scope=self.scope,
            max_concurrent=self.max_concurrent,
            breaker_failures=self.breaker.failures,
            breaker_seconds=self.breaker.open_for,
        )


class WebhookDocument(_RemoteFields):
    """Settings of `webhook`."""

    settings_class = WebhookSettings

    type: Literal["webhook"]


class GrpcDocument(_RemoteFields):
    """Settings of `grpc`."""

    settings_class = GrpcSettings

    type: Literal["grpc"]

    @override
    @classmethod
    def parsed_url(cls, value: str) -> AnyUrl | HttpUrl:
        try:
            url = TypeAdapter(AnyUrl).validate_python(value)
        except ValidationError:
            raise ValueError("is not a grpc or grpcs URL") from None
        if url.scheme not in {"grpc", "grpcs"} or not url.host or not url.port:
            raise ValueError("is not grpc://host:port or grpcs://host:port")
        if url.path not in {None, "", "/"} or url.query:
            raise ValueError("has a path; a gRPC server is named by host and port")
        return url

    @model_validator(mode="after")
    def _has_metadata(self) -> Self:
        for name in self.headers:
            if not _METADATA_NAME.fullmatch(name):
                raise ValueError(
                    f"`{name[:80]}` is no name of gRPC metadata: letters, digits, `_`, `.` and `-`"
                )
            if name.lower().startswith("grpc-") or name.lower().endswith("-bin"):
                raise ValueError(f"`{name[:80]}` is gRPC's own, or binary metadata")
        return self


class ModerationDocument(_RemoteFields):
    """Settings of `moderation`."""

    settings_class = ModerationSettings

    type: Literal["moderation"]
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    categories: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_/-]{0,62}$")], ...] | None,
        Field(min_length=1, max_length=100),
    ] = None
    thresholds: Annotated[dict[str, Score], Field(max_length=100)] = Field(default_factory=dict)

    @override
    def settings(self) -> ModerationSettings:
        return ModerationSettings(
            endpoint=self.endpoint,
            model=self.model,
            categories=self.categories,
            thresholds=tuple(self.thresholds.items()),
            resilience=self.resilience,
        )


class PresidioDocument(_RemoteFields):
    """Settings of `presidio`."""

    settings_class = PresidioSettings

    type: Literal["presidio"]
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] = "en"
    entities: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,39}$")], ...] | None,
        Field(min_length=1, max_length=200),
    ] = None
    min_score: Score = 0.5


class LlmJudgeDocument(_RemoteFields):
    """Settings of `llm_judge`."""

    settings_class = LlmJudgeSettings

    type: Literal["llm_judge"]
    model: Annotated[str, Field(min_length=1, max_length=200)]
    rubric: Annotated[str, Field(min_length=1, max_length=20_000)]
    min_score: Score = 0.5
