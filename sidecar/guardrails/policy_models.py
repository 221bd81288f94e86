"""The shape of a policy document; refuses every field it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, Literal, assert_never

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from sidecar.domain.policy import (
    Action,
    DeniedPattern,
    DeniedPatternsSettings,
    DeniedTermsSettings,
    Guardrail,
    GuardrailSettings,
    Mode,
    OnError,
    PiiSettings,
    Policy,
    SecretsSettings,
    Stage,
    UnscannedAction,
    WebhookSettings,
)
from sidecar.guardrails.addresses import is_refused_address
from sidecar.guardrails.expressions import expression_problem
from sidecar.guardrails.rules.phones import KNOWN_REGIONS
from sidecar.guardrails.rules.pii import PII_TYPES
from sidecar.guardrails.rules.secrets import SECRET_TYPES

MAX_TIMEOUT_SECONDS: Final = 30.0
MAX_ITEMS: Final = 1_000
TRUSTED: Final = "trusted"
"""Validation context: expressions were checked when the document was applied."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_RESERVED_HEADERS: Final = frozenset({
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "host",
    "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


def _seconds(value: object) -> object:
    """Read 500ms, 2s or a number of seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError("is not a duration; write for example 500ms, 2s or 1.5")
        return float(match[1]) / (1000 if match[2] == "ms" else 1)
    return value


def _known(kind: str, known: Iterable[str]) -> Any:
    names = frozenset(known)

    def check(value: str) -> str:
        if value not in names:
            raise UnknownNameError(kind, value, names)
        return value

    return AfterValidator(check)


class UnknownNameError(ValueError):
    """A name outside a closed set; carries the set, so that the nearest can be suggested."""

    def __init__(self, kind: str, value: str, known: frozenset[str]) -> None:
        super().__init__(f"unknown {kind} `{value[:80]}`")
        self.value = value
        self.known = known


def _expression(value: str, info: ValidationInfo) -> str:
    problem = None if info.context == TRUSTED else expression_problem(value)
    if problem:
        raise ValueError(problem)
    return value


def _webhook_url(value: str) -> str:
    try:
        url = TypeAdapter(HttpUrl).validate_python(value)
    except ValidationError:
        raise ValueError("is not an http or https URL") from None
    if url.username or url.password:
        raise ValueError("holds credentials; put them into headers, which are never shown")
    if is_refused_address(url.host or ""):
        raise ValueError("points at a link-local or metadata address")
    return value


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name, content in value.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"`{name[:80]}` is not a header name")
        if name.lower() in _RESERVED_HEADERS:
            raise ValueError(f"`{name}` is set by Egret")
        if not content.isascii() or not content.isprintable():
            raise ValueError(f"the value of `{name}` holds characters a header cannot carry")
    return value


PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
GuardrailName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
FindingType = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,39}$")]
Term = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Glob = Annotated[str, Field(min_length=1, max_length=200)]
Timeout = Annotated[
    float, BeforeValidator(_seconds), Field(gt=0, le=MAX_TIMEOUT_SECONDS, allow_inf_nan=False)
]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _GuardrailDocument(_Document):
    name: GuardrailName
    stage: Stage = Stage.INPUT
    action: Action = Action.BLOCK
    mode: Mode = Mode.ENFORCE
    on_error: OnError = OnError.BLOCK
    timeout: Timeout = 1.0
    mandatory: Annotated[bool, Field(strict=True)] = False

    supported_stages: ClassVar[frozenset[Stage]] = frozenset({Stage.INPUT})


class SecretsDocument(_GuardrailDocument):
    """Settings of `secrets`."""

    type: Literal["secrets"]
    types: Annotated[
        tuple[Annotated[str, _known("secret type", SECRET_TYPES)], ...] | None,
        Field(min_length=1, max_length=MAX_ITEMS),
    ] = None


class PiiDocument(_GuardrailDocument):
    """Settings of `pii`."""

    type: Literal["pii"]
    types: Annotated[
        tuple[Annotated[str, _known("PII type", PII_TYPES)], ...] | None,
        Field(min_length=1, max_length=MAX_ITEMS),
    ] = None
    regions: Annotated[
        tuple[Annotated[str, _known("region", KNOWN_REGIONS)], ...], Field(max_length=20)
    ] = ()


class PatternDocument(_Document):
    """One of `denied_patterns`."""

    name: FindingType
    regex: Annotated[str, Field(min_length=1), AfterValidator(_expression)]


class DeniedPatternsDocument(_GuardrailDocument):
    """Settings of `denied_patterns`."""

    type: Literal["denied_patterns"]
    patterns: Annotated[tuple[PatternDocument, ...], Field(min_length=1, max_length=200)]


class DeniedTermsDocument(_GuardrailDocument):
    """Settings of `denied_terms`."""

    type: Literal["denied_terms"]
    terms: Annotated[tuple[Term, ...], Field(min_length=1, max_length=MAX_ITEMS)]


class WebhookDocument(_GuardrailDocument):
    """Settings of `webhook`."""

    type: Literal["webhook"]
    url: Annotated[str, Field(max_length=2_000), AfterValidator(_webhook_url)]
    headers: Annotated[dict[str, str], AfterValidator(_headers), Field(max_length=20)] = Field(
        default_factory=dict, repr=False
    )


AnyGuardrailDocument = (
    SecretsDocument | PiiDocument | DeniedPatternsDocument | DeniedTermsDocument | WebhookDocument
)

GUARDRAIL_DOCUMENTS: Final[dict[str, type[_GuardrailDocument]]] = {
    "secrets": SecretsDocument,
    "pii": PiiDocument,
    "denied_patterns": DeniedPatternsDocument,
    "denied_terms": DeniedTermsDocument,
    "webhook": WebhookDocument,
}


class PolicyModel(_Document):
    """A whole document."""

    name: PolicyName
    unscanned: UnscannedAction = UnscannedAction.BLOCK
    allowed_models: Annotated[tuple[Glob, ...] | None, Field(max_length=MAX_ITEMS)] = None
    guardrails: Annotated[
        tuple[Annotated[AnyGuardrailDocument, Field(discriminator="type")], ...],
        Field(max_length=100),
    ] = ()

    def to_policy(self, *, version: int) -> Policy:
        """Return the domain's value."""
        return Policy(
            name=self.name,
            version=version,
            guardrails=tuple(_guardrail(document) for document in self.guardrails),
            unscanned=self.unscanned,
            allowed_models=self.allowed_models,
        )


def _guardrail(document: AnyGuardrailDocument) -> Guardrail:
    return Guardrail(
        name=document.name,
        settings=_settings(document),
        stage=document.stage,
        action=document.action,
        mode=document.mode,
        on_error=document.on_error,
        timeout_seconds=document.timeout,
        mandatory=document.mandatory,
    )


def _settings(document: AnyGuardrailDocument) -> GuardrailSettings:
    match document:
        case SecretsDocument():
            return SecretsSettings(types=document.types)
        case PiiDocument():
            return PiiSettings(types=document.types, regions=document.regions)
        case DeniedPatternsDocument():
            return DeniedPatternsSettings(
                tuple(DeniedPattern(name=p.name, regex=p.regex) for p in document.patterns)
            )
        case DeniedTermsDocument():
            return DeniedTermsSettings(terms=document.terms)
        case WebhookDocument():
            return WebhookSettings(url=document.url, headers=tuple(document.headers.items()))
        case _:
            assert_never(document)
