"""Types and validators of the fields in documents of policies and of other objects."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Self

from annotated_types import GroupedMetadata
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from typing_extensions import override

from sidecar.domain.policy import (
    FULL_ROLLOUT,
    Action,
    Exemption,
    ExemptLevel,
    Guardrail,
    GuardrailSettings,
    Mode,
    OnError,
    RedactionStyle,
    Scope,
    Stage,
    StreamMode,
)
from sidecar.domain.subject import Operation
from sidecar.domain.validation import ACCEPTED_TIMES, is_accepted
from sidecar.guardrails.registry import judges_pieces
from sidecar.keys.scopes import parse_operations, parse_sources, parse_tags

MAX_TIMEOUT_SECONDS: Final = 30.0
MAX_ITEMS: Final = 1_000
TRUSTED: Final = "trusted"
"""Validation context: expressions were checked when the document was applied."""
SYNTAX_ONLY: Final = "syntax"
"""Validation context: the slow part of an expression's check is done by `compilation`."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_PERCENT: Final = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_UNIT_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


class UnknownNameError(ValueError):
    """A name outside a closed set; carries the set, so that the nearest can be suggested."""

    def __init__(self, kind: str, value: str, known: Collection[str]) -> None:
        super().__init__(f"unknown {kind} `{value[:80]}`")
        self.value = value
        self.known = known


@dataclass(frozen=True, slots=True)
class KnownName(GroupedMetadata):
    """Accepts the names of a closed set only; *kind* names them in a fault."""

    kind: str
    names: Collection[str]

    @override
    def __iter__(self) -> Iterator[object]:
        """Yield the validator, and the set as the JSON Schema writes it."""

        def check(value: str) -> str:
            if value not in self.names:
                raise UnknownNameError(self.kind, value, self.names)
            return value

        yield AfterValidator(check)
        yield WithJsonSchema({"type": "string", "enum": sorted(self.names)})


def _seconds(value: object) -> object:
    """Read 500ms, 2s, 5m or a number of seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError("is not a duration; write for example 500ms, 2s or 1.5")
        return float(match[1]) * _UNIT_MILLISECONDS[match[2]] / 1000
    return value


def _written_as(form: re.Pattern[str], *others: dict[str, Any]) -> WithJsonSchema:
    """Give the JSON Schema the form of a field as text, which differs from its value."""
    text = {"type": "string", "pattern": f"^{form.pattern}$"}
    return WithJsonSchema({"anyOf": [text, *others]} if others else text)


PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
GuardrailName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
FindingType = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,39}$")]
Term = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Glob = Annotated[str, Field(min_length=1, max_length=200)]
Timeout = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, le=MAX_TIMEOUT_SECONDS, allow_inf_nan=False),
    _written_as(_DURATION, {"type": "number", "exclusiveMinimum": 0}),
]
LongDuration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0, le=86_400, allow_inf_nan=False),
    _written_as(_DURATION, {"type": "number", "minimum": 0}),
]
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]


class Document(BaseModel):
    """A mapping that has these fields and no others; its faults do not repeat its values."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ExceptionDocument(Document):
    """Exempts a key or a team from a guardrail, up to and including a day."""

    key: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{12}$")] | None = None
    team: Annotated[str, Field(pattern=r"^[a-z0-9._-]+/[a-z0-9._-]+$")] | None = None
    until: Annotated[date, _written_as(_DAY)]
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]

    @field_validator("until", mode="before")
    @classmethod
    def _is_a_day(cls, value: object) -> date:
        if not isinstance(value, str) or not _DAY.fullmatch(value):
            raise ValueError("is not a day; write for example 2027-01-31")
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise ValueError("is not a day of the calendar") from None

    @model_validator(mode="after")
    def _for_one(self) -> Self:
        if (self.key is None) == (self.team is None):
            raise ValueError("needs a `key` or a `team`, and not both")
        return self

    def exemption(self) -> Exemption:
        """Return the domain's value."""
        if self.key is not None:
            return Exemption(ExemptLevel.KEY, self.key, self.until, self.reason)
        return Exemption(ExemptLevel.TEAM, self.team or "", self.until, self.reason)


class GuardrailFields(Document):
    """The fields that every type of guardrail has, and the type's own in a subclass."""

    settings_class: ClassVar[type[Any]]
    """The type's settings; the document has a field for each of theirs, under the same name."""

    name: GuardrailName
    stage: Stage = Stage.INPUT
    action: Action = Action.BLOCK
    mode: Mode = Mode.ENFORCE
    on_error: OnError = OnError.BLOCK
    timeout: Timeout = 1.0
    mandatory: Switch = False
    redaction: RedactionStyle = RedactionStyle.PLACEHOLDER
    restore: Switch = False
    streams: StreamMode | None = None
    routes: Annotated[tuple[Operation, ...] | None, Field(min_length=1)] = None
    models: Annotated[tuple[Glob, ...] | None, Field(min_length=1, max_length=MAX_ITEMS)] = None
    rollout: Annotated[int, _written_as(_PERCENT)] = FULL_ROLLOUT
    warn_on_volume: Annotated[int | None, _written_as(_PERCENT)] = None
    exceptions: Annotated[tuple[ExceptionDocument, ...], Field(max_length=MAX_ITEMS)] = ()

    @field_validator("rollout", "warn_on_volume", mode="before")
    @classmethod
    def _hundredths(cls, value: object) -> int:
        """Read 10% or 0.25% as hundredths of a percent."""
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError("is not a percentage; write for example 10% or 0.5%")
        hundredths = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
        if hundredths > FULL_ROLLOUT:
            raise ValueError("is more than 100%")
        return hundredths

    def settings(self) -> GuardrailSettings:
        """Return the settings of the type, as the domain has them."""
        names = (one.name for one in dataclasses.fields(self.settings_class))
        made: GuardrailSettings = self.settings_class(**{one: getattr(self, one) for one in names})
        return made

    def guardrail(self) -> Guardrail:
        """Return the domain's value."""
        settings = self.settings()
        usual = StreamMode.WINDOW if judges_pieces(settings) else StreamMode.BUFFER
        return Guardrail(
            name=self.name,
            settings=settings,
            stage=self.stage,
            action=self.action,
            mode=self.mode,
            on_error=self.on_error,
            timeout_seconds=self.timeout,
            mandatory=self.mandatory,
            redaction=self.redaction,
            restore=self.restore,
            scope=Scope(
                routes=self.routes,
                models=self.models,
                rollout=self.rollout,
                exceptions=tuple(one.exemption() for one in self.exceptions),
            ),
            streams=self.streams or usual,
            warn_on_volume=None
            if self.warn_on_volume is None
            else self.warn_on_volume / FULL_ROLLOUT,
        )


class WholeTextFields(GuardrailFields):
    """Fields of a guardrail whose finding is a limit passed, and no span of text."""

    @field_validator("action")
    @classmethod
    def _has_nothing_to_replace(cls, value: Action) -> Action:
        if value is Action.REDACT:
            raise ValueError("has nothing to replace here; use block or flag")
        return value


_DIGEST: Final = re.compile("[0-9a-fA-F]{64}")


def _moment(value: object) -> object:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise ValueError("is no time; write for example 2027-01-31T12:00:00Z")
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    if not is_accepted(moment):
        raise ValueError(f"is not {ACCEPTED_TIMES}")
    return moment.astimezone(UTC)


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError("is not the 64 hexadecimal digits of a SHA-256")
    return text.lower()


Moment = Annotated[datetime, BeforeValidator(_moment)]
Sha256 = Annotated[
    str,
    AfterValidator(_digest),
    WithJsonSchema({"type": "string", "pattern": f"^{_DIGEST.pattern}$"}),
]
Operations = Annotated[tuple[str, ...], AfterValidator(parse_operations)]
Sources = Annotated[
    tuple[str, ...], AfterValidator(lambda texts: tuple(map(str, parse_sources(texts))))
]
Tags = Annotated[tuple[str, ...], AfterValidator(parse_tags)]
Dollars = Annotated[
    Decimal,
    Field(ge=0, max_digits=14, decimal_places=6),
    PlainSerializer(float, return_type=float),  # exact: of 14 digits at most
    WithJsonSchema({"type": "number", "minimum": 0}),
]
