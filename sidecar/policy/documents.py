"""The policy document: its typed form, one model per local guardrail type."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
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
    SecretTier,
    Threshold,
    ToxicitySettings,
)
from sidecar.domain.policy import (
    Policy,
    ProviderChoice,
    Stage,
    StreamUsage,
    UncountedAction,
    UnscannedAction,
)
from sidecar.guardrails.detectors.language import LANGUAGES
from sidecar.guardrails.detectors.national import COUNTRIES, NATIONAL_TYPES
from sidecar.guardrails.detectors.phone import KNOWN_REGIONS
from sidecar.guardrails.detectors.pii import PII_TYPES
from sidecar.guardrails.detectors.secrets import SECRET_TYPES, tier_of
from sidecar.guardrails.matching.database import expression_problem, syntax_problem
from sidecar.guardrails.matching.text_views import fold
from sidecar.policy.fields import (
    MAX_ITEMS,
    SYNTAX_ONLY,
    TRUSTED,
    Document,
    FindingType,
    Glob,
    GuardrailFields,
    KnownName,
    PolicyName,
    Term,
    WholeTextFields,
)
from sidecar.policy.remote_documents import (
    GrpcDocument,
    LlmJudgeDocument,
    ModerationDocument,
    PresidioDocument,
    WebhookDocument,
)


class SecretsDocument(GuardrailFields):
    """Settings of `secrets`."""

    settings_class = SecretsSettings

    type: Literal["secrets"]
    types: Annotated[
        tuple[Annotated[str, KnownName("secret type", SECRET_TYPES)], ...] | None,
        Field(min_length=1, max_length=MAX_ITEMS),
    ] = None
    tiers: Annotated[tuple[SecretTier, ...] | None, Field(min_length=1)] = None

    @model_validator(mode="after")
    def _types_are_of_the_tiers(self) -> Self:
        for type_ in self.types or ():
            if self.tiers is not None and tier_of(type_) not in self.tiers:
                raise ValueError(f"has the type {type_}, which `tiers` leaves out")
        return self


def _of_a_country(value: str, info: ValidationInfo) -> str:
    country = value[:2]
    if value in NATIONAL_TYPES and country not in info.data.get("countries", ()):
        raise ValueError(f"is looked for only where `countries` has {country}")
    return value


class PiiDocument(GuardrailFields):
    """Settings of `pii`."""

    settings_class = PiiSettings

    type: Literal["pii"]
    regions: Annotated[
        tuple[Annotated[str, KnownName("region", KNOWN_REGIONS)], ...], Field(max_length=20)
    ] = ()
    countries: Annotated[
        tuple[Annotated[str, KnownName("country", COUNTRIES)], ...],
        Field(max_length=len(COUNTRIES)),
    ] = ()
    private_addresses: bool = False
    types: Annotated[
        tuple[Annotated[str, KnownName("PII type", PII_TYPES), AfterValidator(_of_a_country)], ...]
        | None,
        Field(min_length=1, max_length=MAX_ITEMS),
    ] = None


class PatternDocument(Document):
    """One of `denied_patterns`."""

    name: FindingType
    regex: Annotated[str, Field(min_length=1)]

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str, info: ValidationInfo) -> str:
        if info.context == TRUSTED:
            return value
        problem = (syntax_problem if info.context == SYNTAX_ONLY else expression_problem)(value)
        if problem:
            raise ValueError(problem)
        return value


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

    settings_class = DeniedTermsSettings

    type: Literal["denied_terms"]
    terms: Annotated[tuple[Term, ...], Field(min_length=1, max_length=MAX_ITEMS)]

    @field_validator("terms")
    @classmethod
    def _are_displayed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # Texts are searched without zero-width spaces and the like: nothing would be left of it.
        for number, term in enumerate(value, start=1):
            if not fold(term).split():
                raise ValueError(f"has no character that is displayed in term {number}")
        return value


class CodeDocument(GuardrailFields):
    """Settings of `code`."""

    settings_class = CodeSettings

    type: Literal["code"]
    languages: Annotated[tuple[CodeLanguage, ...], Field(min_length=1)] = tuple(CodeLanguage)


class ToxicityDocument(GuardrailFields):
    """Settings of `toxicity`."""

    settings_class = ToxicitySettings

    type: Literal["toxicity"]
    allowed: Annotated[tuple[Term, ...], Field(max_length=MAX_ITEMS)] = ()


class PromptInjectionDocument(WholeTextFields):
    """Settings of `prompt_injection`; `indirect_threshold` is `threshold` unless given."""

    type: Literal["prompt_injection"]
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

    settings_class = LanguageSettings

    type: Literal["language"]
    allowed: Annotated[
        tuple[Annotated[str, KnownName("language", LANGUAGES)], ...],
        Field(min_length=1, max_length=100),
    ]


class MaxInputDocument(WholeTextFields):
    """Settings of `max_input`."""

    settings_class = MaxInputSettings

    type: Literal["max_input"]
    max_characters: Annotated[int, Field(strict=True, ge=1, le=100_000_000)]


class MaxTokensDocument(WholeTextFields):
    """Settings of `max_tokens`."""

    settings_class = MaxTokensSettings

    type: Literal["max_tokens"]
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=100_000_000)]


class JsonSchemaDocument(WholeTextFields):
    """Settings of `json_schema`."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    stage: Stage = Stage.OUTPUT
    of: AnswerPart = AnswerPart.CONTENT
    tools: Annotated[tuple[Term, ...] | None, Field(min_length=1, max_length=MAX_ITEMS)] = None
    max_bytes: Annotated[int, Field(strict=True, ge=1, le=262_144)] = 65_536
    max_depth: Annotated[int, Field(strict=True, ge=1, le=100)] = 32
    answer_schema: Annotated[dict[str, Any], Field(alias="schema")]

    @field_validator("stage")
    @classmethod
    def _judges_answers_alone(cls, value: Stage) -> Stage:
        if value is not Stage.OUTPUT:
            raise ValueError("judges answers alone; use output, or leave it out")
        return value

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


GuardrailDocument = (
    SecretsDocument
    | PiiDocument
    | PromptInjectionDocument
    | DeniedPatternsDocument
    | DeniedTermsDocument
    | CodeDocument
    | ToxicityDocument
    | LanguageDocument
    | MaxInputDocument
    | MaxTokensDocument
    | JsonSchemaDocument
    | WebhookDocument
    | GrpcDocument
    | ModerationDocument
    | PresidioDocument
    | LlmJudgeDocument
)
"""Every type of guardrail: a new one is added here and nowhere else in this package."""

GUARDRAIL_DOCUMENTS: Final[dict[str, type[GuardrailFields]]] = {
    get_args(one.model_fields["type"].annotation)[0]: one for one in get_args(GuardrailDocument)
}
"""The same by their name in a document."""


class UsageDocument(Document):
    """Source of the counts of tokens."""

    streams: StreamUsage | None = None
    uncounted: UncountedAction = UncountedAction.BLOCK


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/@+~-]{1,256}$")]
ChosenName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class ProviderDocument(Document):
    """Names that Envoy's routes choose a provider and its credential by."""

    credential: ChosenName | None = None
    region: ChosenName | None = None
    order: Annotated[tuple[ChosenName, ...], Field(max_length=10)] = ()


class PolicyModel(Document):
    """A whole document."""

    name: PolicyName
    unscanned: UnscannedAction = UnscannedAction.BLOCK
    allowed_models: Annotated[tuple[Glob, ...] | None, Field(max_length=MAX_ITEMS)] = None
    aliases: Annotated[dict[ModelName, ModelName], Field(max_length=MAX_ITEMS)] = Field(
        default_factory=dict
    )
    restore_aliases: bool = False
    provider: ProviderDocument | None = None
    usage: UsageDocument = UsageDocument()
    guardrails: Annotated[
        tuple[Annotated[GuardrailDocument, Field(discriminator="type")], ...],
        Field(max_length=100),
    ] = ()

    @field_validator("aliases")
    @classmethod
    def _aliases_lead_to_models(cls, value: dict[str, str]) -> dict[str, str]:
        for alias, model in value.items():
            if model in value:
                raise ValueError(f"must not lead to another alias: {alias} leads to {model}")
        return value

    def to_policy(self, *, version: int) -> Policy:
        """Return the domain's value."""
        return Policy(
            name=self.name,
            version=version,
            guardrails=tuple(document.guardrail() for document in self.guardrails),
            unscanned=self.unscanned,
            allowed_models=self.allowed_models,
            stream_usage=self.usage.streams,
            uncounted=self.usage.uncounted,
            aliases=tuple(self.aliases.items()),
            restores_aliases=self.restore_aliases,
            provider=None
            if self.provider is None
            else ProviderChoice(
                self.provider.credential, self.provider.region, self.provider.order
            ),
        )
