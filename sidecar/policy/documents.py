"""The policy document: its typed form, one model per local guardrail type."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, model_validator
from typing_extensions import override

from sidecar.domain.guardrail_settings import (
    AnswerPart,
    CodeLanguage,
    CodeSettings,
    DeniedPattern,
    DeniedPatternsSettings,
    DeniedTermsSettings,
    InjectionKind,
    JsonSchemaSettings,
    LanguageSettings,
    MaxInputSettings,
    MaxTokensSettings,
    PiiSettings,
    PromptInjectionSettings,
    SecretsSettings,
    Threshold,
    ToxicitySettings,
)
from sidecar.domain.policy import (
    Action,
    Guardrail,
    Policy,
    Stage,
    StreamMode,
    StreamUsage,
    UnscannedAction,
)
from sidecar.guardrails.detectors.language import LANGUAGES
from sidecar.guardrails.detectors.national import COUNTRIES, NATIONAL_TYPES
from sidecar.guardrails.detectors.numbers import KNOWN_REGIONS
from sidecar.guardrails.detectors.pii import PII_TYPES
from sidecar.guardrails.detectors.secrets import SECRET_TYPES
from sidecar.guardrails.registry import judges_pieces
from sidecar.policy.fields import (
    MAX_ITEMS,
    ActionOnAll,
    Document,
    Expression,
    FindingType,
    Glob,
    GuardrailFields,
    PolicyName,
    Term,
    known_name,
)
from sidecar.policy.remote_documents import (
    GrpcDocument,
    LlmJudgeDocument,
    ModerationDocument,
    PresidioDocument,
    RemoteDocument,
    WebhookDocument,
)


class SecretsDocument(GuardrailFields):
    """Settings of `secrets`."""

    type: Literal["secrets"]
    types: Annotated[
        tuple[Annotated[str, known_name("secret type", SECRET_TYPES)], ...] | None,
        Field(min_length=1, max_length=MAX_ITEMS),
    ] = None

    @override
    def settings(self) -> SecretsSettings:
        return SecretsSettings(types=self.types)


def _of_a_country(value: str, info: ValidationInfo) -> str:
    country = value[:2]
    if value in NATIONAL_TYPES and country not in info.data.get("countries", ()):
        raise ValueError(f"is looked for only where `countries` has {country}")
    return value


class PiiDocument(GuardrailFields):
    """Settings of `pii`."""

    type: Literal["pii"]
    regions: Annotated[
        tuple[Annotated[str, known_name("region", KNOWN_REGIONS)], ...], Field(max_length=20)
    ] = ()
    countries: Annotated[
        tuple[Annotated[str, known_name("country", COUNTRIES)], ...],
        Field(max_length=len(COUNTRIES)),
    ] = ()
    types: Annotated[
        tuple[
            Annotated[str, known_name("PII type", PII_TYPES), AfterValidator(_of_a_country)], ...
        ]
        | None,
        Field(min_length=1, max_length=MAX_ITEMS),
    ] = None

    @override
    def settings(self) -> PiiSettings:
        return PiiSettings(types=self.types, regions=self.regions, countries=self.countries)


class PatternDocument(Document):
    """One of `denied_patterns`."""

    name: FindingType
    regex: Expression


class DeniedPatternsDocument(GuardrailFields):
    """Settings of `denied_patterns`."""

    type: Literal["denied_patterns"]
    patterns: Annotated[tuple[PatternDocument, ...], Field(min_length=1, max_length=MAX_ITEMS)]

    @override
    def settings(self) -> DeniedPatternsSettings:
        patterns = (DeniedPattern(name=one.name, regex=one.regex) for one in self.patterns)
        return DeniedPatternsSettings(tuple(patterns))


class DeniedTermsDocument(GuardrailFields):
    """Settings of `denied_terms`."""

    type: Literal["denied_terms"]
    terms: Annotated[tuple[Term, ...], Field(min_length=1, max_length=MAX_ITEMS)]

    @override
    def settings(self) -> DeniedTermsSettings:
        return DeniedTermsSettings(terms=self.terms)


class CodeDocument(GuardrailFields):
    """Settings of `code`."""

    type: Literal["code"]
    languages: Annotated[tuple[CodeLanguage, ...], Field(min_length=1)] = tuple(CodeLanguage)

    @override
    def settings(self) -> CodeSettings:
        return CodeSettings(languages=self.languages)


class ToxicityDocument(GuardrailFields):
    """Settings of `toxicity`."""

    type: Literal["toxicity"]
    allowed: Annotated[tuple[Term, ...], Field(max_length=MAX_ITEMS)] = ()

    @override
    def settings(self) -> ToxicitySettings:
        return ToxicitySettings(allowed=self.allowed)


class PromptInjectionDocument(GuardrailFields):
    """Settings of `prompt_injection`."""

    type: Literal["prompt_injection"]
    action: ActionOnAll = Action.BLOCK
    threshold: Threshold = Threshold.MEDIUM
    indirect_threshold: Threshold | None = None
    kinds: Annotated[tuple[InjectionKind, ...] | None, Field(min_length=1)] = None

    @override
    def settings(self) -> PromptInjectionSettings:
        indirect = self.indirect_threshold or self.threshold
        return PromptInjectionSettings(
            threshold=self.threshold, indirect_threshold=indirect, kinds=self.kinds
        )


class LanguageDocument(GuardrailFields):
    """Settings of `language`."""

    type: Literal["language"]
    allowed: Annotated[
        tuple[Annotated[str, known_name("language", LANGUAGES)], ...],
        Field(min_length=1, max_length=100),
    ]

    @override
    def settings(self) -> LanguageSettings:
        return LanguageSettings(allowed=self.allowed)


class MaxInputDocument(GuardrailFields):
    """Settings of `max_input`."""

    type: Literal["max_input"]
    action: ActionOnAll = Action.BLOCK
    max_characters: Annotated[int, Field(strict=True, ge=1, le=100_000_000)]

    @override
    def settings(self) -> MaxInputSettings:
        return MaxInputSettings(max_characters=self.max_characters)


class MaxTokensDocument(GuardrailFields):
    """Settings of `max_tokens`."""

    type: Literal["max_tokens"]
    action: ActionOnAll = Action.BLOCK
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=100_000_000)]

    @override
    def settings(self) -> MaxTokensSettings:
        return MaxTokensSettings(max_tokens=self.max_tokens)


LocalDocument = (
    SecretsDocument
    | PiiDocument
    | DeniedPatternsDocument
    | DeniedTermsDocument
    | CodeDocument
    | ToxicityDocument
    | PromptInjectionDocument
    | LanguageDocument
    | MaxInputDocument
    | MaxTokensDocument
)


def _answers_alone(value: Stage) -> Stage:
    if value is not Stage.OUTPUT:
        raise ValueError("judges answers alone; use output, or leave it out")
    return value


class JsonSchemaDocument(GuardrailFields):
    """Settings of `json_schema`."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    stage: Annotated[Stage, AfterValidator(_answers_alone)] = Stage.OUTPUT
    action: ActionOnAll = Action.BLOCK
    of: AnswerPart = AnswerPart.CONTENT
    tools: Annotated[tuple[Term, ...] | None, Field(min_length=1, max_length=MAX_ITEMS)] = None
    max_bytes: Annotated[int, Field(strict=True, ge=1, le=262_144)] = 65_536
    max_depth: Annotated[int, Field(strict=True, ge=1, le=100)] = 32
    answer_schema: Annotated[dict[str, Any], Field(alias="schema")]

    @model_validator(mode="after")
    def _tools_have_arguments(self) -> Self:
        if self.tools is not None and self.of is not AnswerPart.ARGUMENTS:
            raise ValueError("has `tools`, which go with `of: arguments`")
        return self

    @override
    def settings(self) -> JsonSchemaSettings:
        return JsonSchemaSettings(
            schema=json.dumps(self.answer_schema, ensure_ascii=False),
            of=self.of,
            tools=self.tools,
            max_bytes=self.max_bytes,
            max_depth=self.max_depth,
        )


GUARDRAIL_DOCUMENTS: Final[dict[str, type[GuardrailFields]]] = {
    "secrets": SecretsDocument,
    "pii": PiiDocument,
    "prompt_injection": PromptInjectionDocument,
    "denied_patterns": DeniedPatternsDocument,
    "denied_terms": DeniedTermsDocument,
    "code": CodeDocument,
    "toxicity": ToxicityDocument,
    "language": LanguageDocument,
    "max_input": MaxInputDocument,
    "max_tokens": MaxTokensDocument,
    "json_schema": JsonSchemaDocument,
    "webhook": WebhookDocument,
    "grpc": GrpcDocument,
    "moderation": ModerationDocument,
    "presidio": PresidioDocument,
    "llm_judge": LlmJudgeDocument,
}
"""The types of guardrails, by their name in a document."""


class UsageDocument(Document):
    """How it becomes known what was used."""

    streams: StreamUsage | None = None


class PolicyModel(Document):
    """A whole document."""

    name: PolicyName
    unscanned: UnscannedAction = UnscannedAction.BLOCK
    allowed_models: Annotated[tuple[Glob, ...] | None, Field(max_length=MAX_ITEMS)] = None
    usage: UsageDocument = UsageDocument()
    guardrails: Annotated[
        tuple[
            Annotated[
                LocalDocument | JsonSchemaDocument | RemoteDocument, Field(discriminator="type")
            ],
            ...,
        ],
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
            stream_usage=self.usage.streams,
        )


def _guardrail(document: GuardrailFields) -> Guardrail:
    settings = document.settings()
    usual = StreamMode.WINDOW if judges_pieces(settings) else StreamMode.BUFFER
    return Guardrail(
        name=document.name,
        settings=settings,
        stage=document.stage,
        action=document.action,
        mode=document.mode,
        on_error=document.on_error,
        timeout_seconds=document.timeout,
        mandatory=document.mandatory,
        redaction=document.redaction,
        restore=document.restore,
        scope=document.scope(),
        streams=document.streams or usual,
    )
