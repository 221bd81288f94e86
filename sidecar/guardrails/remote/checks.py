"""The port of remote guardrails, and the parsing of their replies."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Never, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from sidecar.domain.finding import Finding, RemoteEvent, Verdict
from sidecar.domain.guardrail_settings import RemoteSettings
from sidecar.domain.policy import Action, Guardrail, Stage
from sidecar.domain.subject import Subject, TextPart


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """Whose request is inspected; sent along to remote checks."""

    request_id: str
    key_id: str
    model: str | None = None


def _unheard(_: RemoteEvent) -> None:
    """Take no note."""


@dataclass(frozen=True, slots=True)
class RemoteRequest:
    """One remote check to be made.

    `stage` says which side `subject` is of, input or output; a guardrail may be for both.
    `note` is told what happens on the way to the answer.
    """

    guardrail: Guardrail
    subject: Subject
    about: RequestInfo
    stage: Literal[Stage.INPUT, Stage.OUTPUT]
    note: Callable[[RemoteEvent], None] = field(default=_unheard, compare=False, repr=False)


RemoteVerdict = Literal["pass", "flag", "redact", "block"]


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """A remote check's opinion; `redact` comes with one finding or more.

    `score` is how sure it is, from 0 to 1, where it tells.
    """

    verdict: RemoteVerdict
    findings: tuple[Finding, ...] = ()
    score: float | None = None


class RemoteFault(enum.Enum):
    """Whose fault it is that there is no answer, and so what may be done about it.

    LOCAL: nobody was asked. ANSWER: the server is there and what it says is of no use; whoever
    writes the content may have brought that about. SERVER: it is not well. TRANSIENT: not well,
    and it has taken nothing up, so that asking again is safe and may help.
    """

    LOCAL = "local"
    ANSWER = "answer"
    SERVER = "server"
    TRANSIENT = "transient"


class RemoteCheckError(Exception):
    """A remote check that gave no usable answer; `error_type` is short and stable."""

    def __init__(self, error_type: str, fault: RemoteFault = RemoteFault.ANSWER) -> None:
        super().__init__(error_type)
        self.error_type = error_type
        self.fault = fault


class RemoteTimeoutError(RemoteCheckError):
    """A remote check whose time was over."""

    def __init__(self) -> None:
        super().__init__("timeout", RemoteFault.SERVER)


def remote_settings(guardrail: Guardrail) -> RemoteSettings:
    """Return the settings of a remote guardrail.

    Raises:
        RemoteCheckError: it is a local one.
    """
    if not isinstance(guardrail.settings, RemoteSettings):
        raise RemoteCheckError("not_remote", RemoteFault.LOCAL)
    return guardrail.settings


class RemoteChecks(Protocol):
    """Asks servers outside of the process."""

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer within the guardrail's time limit. The caller may cancel.

        Raises:
            RemoteCheckError: there is no usable answer.
        """
        ...


class NoRemoteChecks:
    """The port where nothing may leave the process."""

    async def check(self, request: RemoteRequest) -> Never:
        """Refuse."""
        raise AssertionError(f"{request.guardrail.name} was asked, and nobody may be")


def verdict_of(answer: RemoteAnswer, action: Action) -> Verdict:
    """Return what becomes of an opinion under the guardrail's action.

    `action: flag` only ever flags. Otherwise the remote check chooses: it may ask for less than
    the action says, and a block stays a block even under `redact`, where there is nothing to
    replace.
    """
    match answer.verdict:
        case "pass":
            return Verdict.PASS
        case "flag":
            return Verdict.FLAG
        case "redact":
            return Verdict.FLAG if action is Action.FLAG else Verdict.REDACT
        case "block":
            return Verdict.FLAG if action is Action.FLAG else Verdict.BLOCK


MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Of APIs that are not ours: a score for each of some ten categories and each of many texts."""


class StrictModel(BaseModel):
    """An answer in Egret's own form: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class TolerantModel(BaseModel):
    """An answer in somebody else's form: fields we do not use may be there."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


_Answer = TypeVar("_Answer", bound=BaseModel)


def read_json(model: type[_Answer], body: bytes) -> _Answer:
    """Return what *body* says.

    Raises:
        RemoteCheckError: it is not the JSON that was agreed.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RemoteCheckError("answer_invalid") from None
    return validated(model, value)


def validated(
    model: type[_Answer], value: object, *, error_type: str = "answer_invalid"
) -> _Answer:
    """Return *value* as a model.

    Raises:
        RemoteCheckError: of this type, where it is none.
    """
    try:
        return model.model_validate(value)
    except ValidationError:
        raise RemoteCheckError(error_type) from None


def answer_for(findings: tuple[Finding, ...], action: Action) -> RemoteAnswer:
    """Return the answer of a server that only finds: what follows is the policy's to say."""
    if not findings:
        return RemoteAnswer("pass")
    match action:
        case Action.BLOCK:
            return RemoteAnswer("block", findings)
        case Action.REDACT:
            return RemoteAnswer("redact", findings)
        case Action.FLAG:
            return RemoteAnswer("flag", findings)


def with_byte_offsets(
    findings: Sequence[Finding], parts: Sequence[TextPart]
) -> tuple[Finding, ...]:
    """Return *findings* with byte offsets.

    Raises:
        RemoteCheckError: a span is outside its text, or empty.
    """
    if any(one.start >= one.end for one in findings):
        raise RemoteCheckError("span_out_of_range")
    offsets: dict[int, set[int]] = {}
    for one in findings:
        offsets.setdefault(one.part, set()).update((one.start, one.end))
    places = {part: _byte_offsets(parts, part, sorted(wanted)) for part, wanted in offsets.items()}
    return tuple(
        replace(one, start=places[one.part][one.start], end=places[one.part][one.end])
        for one in findings
    )


def _byte_offsets(parts: Sequence[TextPart], part: int, wanted: list[int]) -> dict[int, int]:
    """Return the byte offset of each character offset in one go over the text."""
    if part >= len(parts):
        raise RemoteCheckError("span_out_of_range")
    text = parts[part].content.decode()
    if wanted[-1] > len(text):
        raise RemoteCheckError("span_out_of_range")
    places: dict[int, int] = {}
    seen_characters = seen_bytes = 0
    for offset in wanted:
        seen_bytes += len(text[seen_characters:offset].encode())
        seen_characters = offset
        places[offset] = seen_bytes
    return places
