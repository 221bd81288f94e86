"""Settings of the guardrails that judge within the process; immutable once built."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar


class Threshold(enum.Enum):
    """From which score on a finding counts: `LOW` finds most, `HIGH` errs least."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class InjectionKind(enum.Enum):
    """What an attack on a model's instructions tries."""

    INSTRUCTION_OVERRIDE = "instruction_override"
    JAILBREAK = "jailbreak"
    PROMPT_EXTRACTION = "prompt_extraction"
    ENCODED_PAYLOAD = "encoded_payload"


class CodeLanguage(enum.Enum):
    """A language whose statements count as code."""

    SQL = "sql"
    SHELL = "shell"


class AnswerPart(enum.Enum):
    """Which texts of an answer a program reads."""

    CONTENT = "content"
    ARGUMENTS = "arguments"


@dataclass(frozen=True, slots=True)
class SecretsSettings:
    """Vendor tokens, private keys, connection strings."""

    guardrail_type: ClassVar[str] = "secrets"
    types: tuple[str, ...] | None = None  # None: those on by default


@dataclass(frozen=True, slots=True)
class PiiSettings:
    """Personal data.

    `regions` are ISO country codes whose national phone form counts, `countries` those whose
    identifiers are looked for.
    """

    guardrail_type: ClassVar[str] = "pii"
    types: tuple[str, ...] | None = None  # None: those on by default
    regions: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()


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
    """What an answer must look like that a program reads.

    `schema` is JSON text of draft 2020-12. `tools` are those whose arguments are judged, None
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
"""Judged by the rules of the shared database: findings have spans."""

WholeTextSettings = (
    PromptInjectionSettings | LanguageSettings | MaxInputSettings | MaxTokensSettings
)
"""Judged over a text as a whole: a score or a count decides."""
