"""The port of remote guardrails, and the parsing of their replies."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Never, Protocol, TypeVar, assert_never

import orjson
from msgspec import structs
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import override

from sidecar.domain.finding import Failure, FailureKind, Finding, RemoteEvent, Verdict
from sidecar.domain.guardrail_settings import RemoteSettings
from sidecar.domain.policy import Action, Guardrail, Stage
from sidecar.domain.subject import Subject, TextPart


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """Key and model of the request that is inspected; sent along to remote checks.

    `organization_id` is not sent: verdicts are cached for one organization at a time.
    """

    request_id: str
    key_id: str
    model: str | None = None
    organization_id: str = ""


@dataclass(frozen=True, slots=True)
class RemoteRequest:
    """One remote check to be made.

    `stage` is the side of `subject`, input or output; a guardrail may be for both. `note`
    receives the events on the way to the answer.
    """

    guardrail: Guardrail
    subject: Subject
    about: RequestInfo
    stage: Literal[Stage.INPUT, Stage.OUTPUT]
    note: Callable[[RemoteEvent], None] = field(default=lambda _: None, compare=False, repr=False)


RemoteVerdict = Literal["pass", "flag", "redact", "block"]


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """The answer of a remote check; `redact` comes with one finding or more.

    `score` is its confidence from 0 to 1, None if it gives none.
    """

    verdict: RemoteVerdict
    findings: tuple[Finding, ...] = ()
    score: float | None = None


class RemoteFault(enum.Enum):
    """The cause of a missing answer: decides about retries, the breaker and `on_error`."""

    LOCAL = "local"
    """The worker did not ask the server."""
    ANSWER = "answer"
    """The server's answer is of no use."""
    CONTENT = "content"
    """The server's answer is of no use, and the text alone can cause that: its sender can."""
    SERVER = "server"
    """The server failed."""
    TRANSIENT = "transient"
    """The server failed before it processed anything: a retry is safe and may help."""


class RemoteCheckError(Exception):
    """A remote check that gave no usable answer; `error_type` is short and stable."""

    def __init__(self, error_type: str, fault: RemoteFault = RemoteFault.ANSWER) -> None:
        super().__init__(error_type)
        self.error_type = error_type
        self.fault = fault

    @property
    def failure(self) -> Failure:
        """Return the failure of the guardrail."""
        match self.fault:
            case RemoteFault.CONTENT:
                return Failure(FailureKind.CONTENT, self.error_type)
            case (
                RemoteFault.LOCAL | RemoteFault.ANSWER | RemoteFault.SERVER | RemoteFault.TRANSIENT
            ):
                return Failure(FailureKind.ERROR, self.error_type)
            case _:
                assert_never(self.fault)


class RemoteTimeoutError(RemoteCheckError):
    """A remote check whose time was over."""

    def __init__(self) -> None:
        super().__init__("timeout", RemoteFault.SERVER)

    @property
    @override
    def failure(self) -> Failure:
        """Return the failure of the guardrail."""
        return Failure(FailureKind.TIMEOUT, self.error_type)


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
    """The port for runs in which nothing may leave the process."""

    async def check(self, request: RemoteRequest) -> Never:
        """Raise an AssertionError."""
        raise AssertionError(f"{request.guardrail.name} may not be asked here")


def verdict_of(answer: RemoteAnswer, action: Action) -> Verdict:
    """Return the verdict of an answer under the guardrail's action.

    `action: flag` only ever flags. Otherwise the remote check chooses: it may ask for less than
    the action says, and a block stays a block even under `redact`, as there is nothing
    to replace.
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


MAX_FINDINGS: Final = 2_000
MAX_MESSAGE_CHARACTERS: Final = 2_000
"""Of an answer of Egret's own protocols, `webhook` and `grpc`; its message may quote the text."""
MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Of other APIs' answers: a score for each of some ten categories and each of many texts."""


class StrictModel(BaseModel):
    """An answer in Egret's own form: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class TolerantModel(BaseModel):
    """An answer in another API's form: further fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


_Answer = TypeVar("_Answer", bound=BaseModel)


def read_json(model: type[_Answer], body: bytes) -> _Answer:
    """Parse *body* as a model.

    Raises:
        RemoteCheckError: it is not JSON of this form.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RemoteCheckError("answer_invalid") from None
    return validated(model, value)


def validated(
    model: type[_Answer],
    value: object,
    *,
    error_type: str = "answer_invalid",
    fault: RemoteFault = RemoteFault.ANSWER,
) -> _Answer:
    """Return *value* as a model.

    Raises:
        RemoteCheckError: with this type and fault, if it does not match.
    """
    try:
        return model.model_validate(value)
    except ValidationError:
        raise RemoteCheckError(error_type, fault) from None


def answer_for(findings: tuple[Finding, ...], action: Action) -> RemoteAnswer:
    """Return the answer of a server that only finds: the policy's action follows."""
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
    if any(one.start >= one.end or one.part >= len(parts) for one in findings):
        raise RemoteCheckError("span_out_of_range", RemoteFault.CONTENT)
    offsets: dict[int, set[int]] = {}
    for one in findings:
        offsets.setdefault(one.part, set()).update((one.start, one.end))
    places: dict[tuple[int, int], int] = {}
    for part, wanted in offsets.items():
        text = parts[part].content.decode()
        seen_characters = seen_bytes = 0
        for offset in sorted(wanted):  # in one go over the text
            seen_bytes += len(text[seen_characters:offset].encode())
            seen_characters = offset
            places[part, offset] = seen_bytes
        if seen_characters > len(text):
            # A server that counts other units finds a text in the wrong place if it has emoji.
            raise RemoteCheckError("span_out_of_range", RemoteFault.CONTENT)
    return tuple(
        structs.replace(one, start=places[one.part, one.start], end=places[one.part, one.end])
        for one in findings
    )
