"""Types and validators of the fields in policy documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Final, Self

from annotated_types import GroupedMetadata
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from typing_extensions import override

from sidecar.domain.policy import (
    FULL_ROLLOUT,
    Action,
    Exemption,
    ExemptLevel,
    GuardrailSettings,
    Mode,
    OnError,
    RedactionStyle,
    Scope,
    Stage,
    StreamMode,
)
from sidecar.domain.subject import Operation
from sidecar.guardrails.matching.database import expression_problem, syntax_problem

MAX_TIMEOUT_SECONDS: Final = 30.0
MAX_ITEMS: Final = 1_000
TRUSTED: Final = "trusted"
"""Validation context: expressions were checked when the document was applied."""
SYNTAX_ONLY: Final = "syntax"
"""Validation context: what is slow to check of expressions is checked elsewhere."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_PERCENT: Final = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_UNIT_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


def _seconds(value: object) -> object:
    """Read 500ms, 2s, 5m or a number of seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError("is not a duration; write for example 500ms, 2s or 1.5")
        return float(match[1]) * _UNIT_MILLISECONDS[match[2]] / 1000
    return value


def _hundredths(value: object) -> int:
    """Read 10% or 0.25% as hundredths of a percent."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a percentage; write for example 10% or 0.5%")
    hundredths = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
    if hundredths > FULL_ROLLOUT:
        raise ValueError("is more than 100%")
    return hundredths


def _day(value: object) -> date:
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("is not a day; write for example 2027-01-31")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("is not a day of the calendar") from None


class UnknownNameError(ValueError):
    """A name outside a closed set; carries the set, so that the nearest can be suggested."""

    def __init__(self, kind: str, value: str, known: frozenset[str]) -> None:
        super().__init__(f"unknown {kind} `{value[:80]}`")
        self.value = value
        self.known = known


@dataclass(frozen=True, slots=True)
class _KnownName(GroupedMetadata):
    """Takes the names of a closed set only, and lists them in the JSON Schema."""

    kind: str
    names: frozenset[str]

    @override
    def __iter__(self) -> Iterator[object]:
        yield AfterValidator(self._check)
        yield WithJsonSchema({"type": "string", "enum": sorted(self.names)})

    def _check(self, value: str) -> str:
        if value not in self.names:
            raise UnknownNameError(self.kind, value, self.names)
        return value


def known_name(kind: str, known: Iterable[str]) -> Any:
    """Return a validator that takes the names of *known* only; *kind* names them in a fault."""
    return _KnownName(kind, frozenset(known))


def _expression(value: str, info: ValidationInfo) -> str:
    if info.context == TRUSTED:
        return value
    problem = (syntax_problem if info.context == SYNTAX_ONLY else expression_problem)(value)
    if problem:
        raise ValueError(problem)
    return value


def _nothing_to_replace(value: Action) -> Action:
    if value is Action.REDACT:
        raise ValueError("has nothing to replace here; use block or flag")
    return value


def _written_as(form: re.Pattern[str], *others: dict[str, Any]) -> WithJsonSchema:
    """Say in the JSON Schema how a field is written, which is not what it is read as."""
    text = {"type": "string", "pattern": f"^{form.pattern}$"}
    return WithJsonSchema({"anyOf": [text, *others]} if others else text)


PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
GuardrailName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
FindingType = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,39}$")]
Term = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Glob = Annotated[str, Field(min_length=1, max_length=200)]
Expression = Annotated[str, Field(min_length=1), AfterValidator(_expression)]
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
Rollout = Annotated[int, BeforeValidator(_hundredths), _written_as(_PERCENT)]
Day = Annotated[date, BeforeValidator(_day), _written_as(_DAY)]
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ActionOnAll = Annotated[Action, AfterValidator(_nothing_to_replace)]
"""What a finding leads to that is a limit passed, and no span of text."""
Switch = Annotated[bool, Field(strict=True)]


class Document(BaseModel):
    """A mapping that has these fields and no others; its faults do not repeat its values."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ExceptionDocument(Document):
    """A key or a team that a guardrail does not hold for, up to and with a day."""

    key: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{12}$")] | None = None
    team: Annotated[str, Field(pattern=r"^[a-z0-9._-]+/[a-z0-9._-]+$")] | None = None
    until: Day
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]

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
    """What every type of guardrail has."""

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
    rollout: Rollout = FULL_ROLLOUT
    exceptions: Annotated[tuple[ExceptionDocument, ...], Field(max_length=MAX_ITEMS)] = ()

    def settings(self) -> GuardrailSettings:
        """Return the settings of the type, as the domain has them."""
        raise NotImplementedError

    def scope(self) -> Scope:
        """Return the requests it is for, as the domain has them."""
        return Scope(
            routes=self.routes,
            models=self.models,
            rollout=self.rollout,
            exceptions=tuple(one.exemption() for one in self.exceptions),
        )
