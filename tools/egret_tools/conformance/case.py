"""One case as written in YAML: the request, and the expectations on every side.

Defaults describe the ordinary case, so that a file says only what is special: a POST that
reaches the upstream unchanged and whose answer reaches the client unchanged.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated, Final, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from egret_tools.conformance.modes import JUDGED_MODES, MODES

CASES_DIRECTORY: Final = Path(__file__).with_name("cases")
SAME: Final = "same"
"""The body that was sent, byte for byte."""
ANY: Final = "any"
MAX_BODY_BYTES: Final = 64 * 1024 * 1024


class CaseError(ValueError):
    """A file of cases cannot be used; says which, where and why."""


class Protocol(enum.Enum):
    """The protocol of the client."""

    HTTP1 = "http1"
    HTTP2 = "http2"


class Group(enum.Enum):
    """Whom a case is for.

    ANY: every server that lets an ordinary request pass.
    EGRET: promises of Egret's built-in policy.
    """

    ANY = "any"
    EGRET = "egret"


class Framing(enum.Enum):
    """The framing that ends a body."""

    LENGTH = "length"
    CHUNKED = "chunked"
    """Without a length: chunks over HTTP/1.1, DATA frames alone over HTTP/2."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Pair = tuple[str, str]


class Message(_Part):
    """A body and how it is sent. `body_bytes` makes a chat request of about that size."""

    headers: tuple[Pair, ...] = ()
    body: str | None = None
    body_bytes: Annotated[int, Field(ge=1, le=MAX_BODY_BYTES)] | None = None
    framing: Framing = Framing.LENGTH
    pieces: Annotated[int, Field(ge=1, le=1000)] = 1
    pause_ms: Annotated[int, Field(ge=0, le=5000)] = 0
    """Before each piece but the first."""

    @model_validator(mode="after")
    def _has_one_body(self) -> Self:
        if self.body is not None and self.body_bytes is not None:
            raise ValueError("give body or body_bytes, not both")
        return self


class Request(Message):
    """The request of the client, `times` on one connection, over `connections` at once."""

    method: str = "POST"
    path: str | None = None
    """None is that of the run (`--path`)."""
    trailers: tuple[Pair, ...] = ()
    with_key: bool = True
    """Whether the headers that let a request pass (`--header`, `--key`) are sent."""
    leaves_after_pieces: Annotated[int, Field(ge=1)] | None = None
    """The client hangs up then, without waiting for an answer."""
    times: Annotated[int, Field(ge=1, le=100)] = 1
    connections: Annotated[int, Field(ge=1, le=64)] = 1


class Respond(Message):
    """The answer of the upstream."""

    status: int = 200
    before_body: bool = False
    """Whether it answers as soon as it has the headers."""
    hangs_up: bool = False
    """Whether it closes the connection instead."""


class Side(_Part):
    """Expectations of a message: body, and headers by regular expression."""

    body: str = SAME
    contains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    values: dict[str, tuple[str, ...]] = {}
    """Every value of a header that comes more than once, in order."""
    absent: tuple[str, ...] = ()

    @field_validator("body")
    @classmethod
    def _is_a_known_word(cls, body: str) -> str:
        if body not in {SAME, ANY}:
            raise ValueError("must be same or any; a part of it goes into contains")
        return body

    @field_validator("headers")
    @classmethod
    def _are_expressions(cls, headers: dict[str, str]) -> dict[str, str]:
        for expression in headers.values():
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{expression!r} is no regular expression") from error
        return headers


class Bounds(_Part):
    """How often something may be counted, for every request sent."""

    least: int = Field(default=0, alias="min")
    most: int = Field(default=1 << 30, alias="max")


def _number_as_bounds(bounds: object) -> object:
    """A number is exact."""
    return {"min": bounds, "max": bounds} if isinstance(bounds, int) else bounds


class Upstream(Side):
    """Expectations at the upstream; `requests` is for every request sent."""

    requests: Bounds = Bounds(min=1, max=1)
    may_break_off: bool = False
    """Whether a request may end before its body does: its client has left."""

    @field_validator("requests", mode="before")
    @classmethod
    def _exact(cls, requests: object) -> object:
        return _number_as_bounds(requests)


class Answer(Side):
    """Expectations at the client. `status` may name several."""

    status: tuple[int, ...] = (200,)
    may_break_off: bool = False
    """Whether the connection may end before the answer does."""

    @field_validator("status", mode="before")
    @classmethod
    def _one_or_more(cls, status: object) -> object:
        return (status,) if isinstance(status, int) else status


class Expect(_Part):
    """Expectations on every side. Counters are those of the ext_proc filter, by Envoy's names."""

    upstream: Upstream = Upstream()
    answer: Answer = Answer()
    counters: dict[str, Bounds] = {}

    @field_validator("counters", mode="before")
    @classmethod
    def _numbers_are_exact(cls, counters: object) -> object:
        if not isinstance(counters, dict):
            return counters
        return {name: _number_as_bounds(bounds) for name, bounds in counters.items()}


class Case(_Part):
    """One case; it runs in every one of its modes, over every one of its protocols."""

    name: str
    why: str
    """The trap it is about, in one sentence."""
    modes: tuple[str, ...] = JUDGED_MODES
    protocols: tuple[Protocol, ...] = tuple(Protocol)
    request: Request = Request()
    respond: Respond = Respond()
    expect: Expect = Expect()

    @field_validator("modes")
    @classmethod
    def _are_known(cls, modes: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [mode for mode in modes if mode not in MODES]
        if unknown:
            raise ValueError(f"no such mode: {', '.join(unknown)}; there are {', '.join(MODES)}")
        return modes


class CaseFile(_Part):
    """A file of cases of one group."""

    group: Group = Group.ANY
    cases: tuple[Case, ...]


def own_files() -> list[Path]:
    """Return the files of cases that come with Egret."""
    return sorted(CASES_DIRECTORY.glob("*.yaml"))


def load_cases(path: Path) -> CaseFile:
    """Read a file of cases.

    Raises:
        CaseError: it cannot be read, or says something that no case can.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return CaseFile.model_validate(document)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CaseError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        faults = (
            f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        raise CaseError(f"{path}: {'; '.join(faults)}") from None
