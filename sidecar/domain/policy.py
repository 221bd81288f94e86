"""A policy: its guardrails, and the selectors that scope each of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from sidecar.domain.guardrail_settings import (
    JsonSchemaSettings,
    RemoteSettings,
    RuleSettings,
    WholeTextSettings,
)
from sidecar.domain.subject import Operation

FULL_ROLLOUT: Final = 10_000
"""All keys, in hundredths of a percent."""


class ExemptLevel(enum.Enum):
    """The holder of an exception."""

    KEY = "key"
    TEAM = "team"


@dataclass(frozen=True, slots=True)
class Exemption:
    """One key or team that a guardrail does not apply to, up to and including a day, and why.

    `name` is a key's public id, or a team's path `ORGANIZATION/TEAM`.
    """

    level: ExemptLevel
    name: str
    until: date
    reason: str

    @property
    def ends_at(self) -> float:
        """Seconds since the epoch from which the guardrail applies again: midnight, UTC."""
        last = datetime.combine(self.until, time(), tzinfo=UTC)
        return (last + timedelta(days=1)).timestamp()


@dataclass(frozen=True, slots=True)
class Scope:
    """The requests a guardrail applies to; all of them if nothing is set.

    `routes` are operations, `models` globs that match in any case. `rollout` is the share of
    keys, in hundredths of a percent.
    """

    routes: tuple[Operation, ...] | None = None
    models: tuple[str, ...] | None = None
    rollout: int = FULL_ROLLOUT
    exceptions: tuple[Exemption, ...] = ()

    @property
    def depends_on_key(self) -> bool:
        """Return whether two keys may differ in it."""
        return self.rollout < FULL_ROLLOUT or bool(self.exceptions)

    @property
    def depends_on_caller(self) -> bool:
        """Return whether it depends on key or operation, which are known before a body."""
        return self.depends_on_key or self.routes is not None


EVERYWHERE: Final = Scope()


@dataclass(frozen=True, slots=True)
class RequestScope:
    """Operation, key, team and time of a request, as known from its headers.

    `operation` is None if the path is unknown. `team` is `ORGANIZATION/TEAM`; `at` is in
    seconds since the epoch.
    """

    operation: Operation | None
    key_id: str
    team: str
    at: float


class Stage(enum.Enum):
    """The side of the exchange that a guardrail checks."""

    INPUT = "input"
    OUTPUT = "output"
    BOTH = "both"


class Action(enum.Enum):
    """The effect of a finding in enforce mode."""

    BLOCK = "block"
    REDACT = "redact"
    FLAG = "flag"


class Mode(enum.Enum):
    """Shadow checks and reports, and changes nothing."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class OnError(enum.Enum):
    """The direction of a guardrail that fails: closed (block) or open (allow)."""

    BLOCK = "block"
    ALLOW = "allow"


class UnscannedAction(enum.Enum):
    """The action on content that no guardrail can read."""

    BLOCK = "block"
    FLAG = "flag"
    ALLOW = "allow"


class UncountedAction(enum.Enum):
    """The action on a request whose use no limit on it can count.

    Under a budget, one for a model without a price; under a limit on tokens or money, one that
    OpenAI answers in the background, where it states its tokens to a later request.
    """

    BLOCK = "block"
    ALLOW = "allow"


class StreamUsage(enum.Enum):
    """The source of a stream's token counts if its provider sends them on demand only.

    `HIDE` requests them and takes them out of the answer again. `PASS` requests them, and the
    client gets their event too. `ESTIMATE` leaves the request unchanged and derives them from
    the delivered bytes.
    """

    HIDE = "hide"
    PASS = "pass"  # noqa: S105 - no password
    ESTIMATE = "estimate"


class RedactionStyle(enum.Enum):
    """The form of the text in place of a redacted value.

    `HASH` lets equal values be joined over requests; `FORMAT_PRESERVING` keeps the shape of a
    card number, and is a placeholder for everything else.
    """

    PLACEHOLDER = "placeholder"
    HASH = "hash"
    FORMAT_PRESERVING = "format_preserving"


class StreamMode(enum.Enum):
    """The way a streamed answer is checked.

    BUFFER: whole, before any of it leaves. WINDOW: as it comes, holding back text that could
    still become a finding. OBSERVE: as it comes, holding back nothing; findings are only flagged.
    """

    BUFFER = "buffer"
    WINDOW = "window"
    OBSERVE = "observe"


GuardrailSettings = RuleSettings | WholeTextSettings | JsonSchemaSettings | RemoteSettings


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One check of a policy. `restore` turns placeholders in the answer back for the client.

    `streams` matters if the stage includes answers. `warn_on_volume` is the share of checks, 0 to
    1, above which findings of one type are reported as suspiciously frequent; None never.
    """

    name: str
    settings: GuardrailSettings
    stage: Stage = Stage.INPUT
    action: Action = Action.BLOCK
    mode: Mode = Mode.ENFORCE
    on_error: OnError = OnError.BLOCK
    timeout_seconds: float = 1.0
    mandatory: bool = False
    redaction: RedactionStyle = RedactionStyle.PLACEHOLDER
    restore: bool = False
    scope: Scope = EVERYWHERE
    streams: StreamMode = StreamMode.WINDOW
    warn_on_volume: float | None = None


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """Names that Envoy's routes choose a provider by; Egret passes them on and reads none.

    `credential` is the name of a secret that Envoy has, `order` the providers to try in turn.
    """

    credential: str | None = None
    region: str | None = None
    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A named, versioned list of guardrails and the action on content that cannot be read.

    `allowed_models` are glob patterns that apply if no key, team or organization sets its own.
    With `stream_usage` None, it depends on whether the key's limits count tokens. `aliases` are
    names of models with the model that is requested in their place; no model is an alias too.
    With `restores_aliases` an answer names the alias.
    """

    name: str
    version: int
    guardrails: tuple[Guardrail, ...] = ()
    unscanned: UnscannedAction = UnscannedAction.BLOCK
    allowed_models: tuple[str, ...] | None = None
    stream_usage: StreamUsage | None = None
    uncounted: UncountedAction = UncountedAction.BLOCK
    aliases: tuple[tuple[str, str], ...] = ()
    restores_aliases: bool = False
    provider: ProviderChoice | None = None


def judges_input(guardrail: Guardrail) -> bool:
    """Return whether *guardrail* checks requests."""
    return guardrail.stage in {Stage.INPUT, Stage.BOTH}


def name_beside(guardrail: str, policy: str) -> str:
    """Return the name of a guardrail of *policy* that judges beside a mandatory namesake.

    No document can give it: the names of guardrails have no dot.
    """
    return f"{guardrail}.{policy}"
