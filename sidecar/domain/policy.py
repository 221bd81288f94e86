"""What a principal's content must pass, as loaded; immutable once built."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sidecar.domain.local_guardrails import (
    JsonSchemaSettings,
    RuleSettings,
    WholeTextSettings,
)
from sidecar.domain.remote_guardrails import RemoteSettings
from sidecar.domain.scope import EVERYWHERE, Scope


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


class StreamUsage(enum.Enum):
    """How the tokens of a stream become known where its provider tells them on demand only.

    `HIDE` asks for them and takes them out of the answer again. `PASS` asks for them, and the
    client gets the event that tells them too. `ESTIMATE` leaves the request alone and derives
    them from what was delivered.
    """

    HIDE = "hide"
    PASS = "pass"  # noqa: S105 - no password
    ESTIMATE = "estimate"


class RedactionStyle(enum.Enum):
    """What stands in the place of a redacted value.

    `HASH` lets equal values be joined over requests; `FORMAT_PRESERVING` keeps the shape of a
    card number, and is a placeholder for everything else.
    """

    PLACEHOLDER = "placeholder"
    HASH = "hash"
    FORMAT_PRESERVING = "format_preserving"


class StreamMode(enum.Enum):
    """How a streamed answer is judged.

    BUFFER: whole, before any of it leaves. WINDOW: as it comes, holding back what could still
    become a finding. OBSERVE: as it comes, holding back nothing; findings are only flagged.
    """

    BUFFER = "buffer"
    WINDOW = "window"
    OBSERVE = "observe"


GuardrailSettings = RuleSettings | WholeTextSettings | JsonSchemaSettings | RemoteSettings


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One check of a policy. `restore` turns placeholders in the answer back for the client.

    `streams` counts where the stage includes answers.
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


@dataclass(frozen=True, slots=True)
class Policy:
    """A named, versioned list of guardrails and the direction for what cannot be read.

    `allowed_models` are glob patterns that apply where no key, team or organization sets its own.
    `stream_usage` is None where it goes by whether the key's limits count tokens.
    """

    name: str
    version: int
    guardrails: tuple[Guardrail, ...] = ()
    unscanned: UnscannedAction = UnscannedAction.BLOCK
    allowed_models: tuple[str, ...] | None = None
    stream_usage: StreamUsage | None = None
