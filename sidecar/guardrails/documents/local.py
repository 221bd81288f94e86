"""Guardrails that judge within the process, as a policy document writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo
from typing_extensions import override

from sidecar.domain.local_guardrails import (
    CodeLanguage,
    CodeSettings,
    DeniedPattern,
    DeniedPatternsSettings,
    DeniedTermsSettings,
    InjectionKind,
    LanguageSettings,
    MaxInputSettings,
    MaxTokensSettings,
    PiiSettings,
    PromptInjectionSettings,
    SecretsSettings,
    Threshold,
    ToxicitySettings,
)
from sidecar.domain.policy import Action
from sidecar.guardrails.documents.fields import (
    MAX_ITEMS,
    ActionOnAll,
    Document,
    Expression,
    FindingType,
    GuardrailFields,
    Term,
    known_name,
)
from sidecar.guardrails.rules.national import COUNTRIES, NATIONAL_TYPES
from sidecar.guardrails.rules.numbering import KNOWN_REGIONS
from sidecar.guardrails.rules.pii import PII_TYPES
from sidecar.guardrails.rules.secrets import SECRET_TYPES
from sidecar.guardrails.whole_text.language import LANGUAGES


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
