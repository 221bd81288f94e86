"""What a principal's content must pass, as loaded; immutable once built."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Stage(enum.Enum):
    """Which side of the exchange a guardrail looks at."""

    INPUT = "input"
    OUTPUT = "output"
    BOTH = "both"


class Action(enum.Enum):
    """What a finding leads to in enforce mode."""

    BLOCK = "block"
    REDACT = "redact"
    FLAG = "flag"


class Mode(enum.Enum):
    """Shadow judges and reports, and changes nothing."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class OnError(enum.Enum):
    """The direction of a guardrail that cannot tell: closed (block) or open (allow)."""

    BLOCK = "block"
    ALLOW = "allow"


class UnscannedAction(enum.Enum):
    """What happens to content that no guardrail can read."""

    BLOCK = "block"
    FLAG = "flag"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class SecretsSettings:
    """Vendor tokens, private keys, connection strings."""

    types: tuple[str, ...] | None = None  # None: all known types


@dataclass(frozen=True, slots=True)
class PiiSettings:
    """Personal data; `regions` are ISO country codes whose national phone form counts."""

    types: tuple[str, ...] | None = None  # None: all known types
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeniedPattern:
    """A named regular expression in RE2 syntax."""

    name: str
    regex: str


@dataclass(frozen=True, slots=True)
class DeniedPatternsSettings:
    """Regular expressions written by the policy's author."""

    patterns: tuple[DeniedPattern, ...]


@dataclass(frozen=True, slots=True)
class DeniedTermsSettings:
    """Words and phrases, matched on word boundaries without regard to case."""

    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """A remote check over HTTP; `headers` may hold credentials and are never shown."""

    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


GuardrailSettings = (
    SecretsSettings | PiiSettings | DeniedPatternsSettings | DeniedTermsSettings | WebhookSettings
)


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One check of a policy."""

    name: str
    settings: GuardrailSettings
    stage: Stage = Stage.INPUT
    action: Action = Action.BLOCK
    mode: Mode = Mode.ENFORCE
    on_error: OnError = OnError.BLOCK
    timeout_seconds: float = 1.0
    mandatory: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """A named, versioned list of guardrails and the direction for what cannot be read.

    `allowed_models` are glob patterns that apply where no key, team or organization sets its own.
    """

    name: str
    version: int
    guardrails: tuple[Guardrail, ...] = ()
    unscanned: UnscannedAction = UnscannedAction.BLOCK
    allowed_models: tuple[str, ...] | None = None
