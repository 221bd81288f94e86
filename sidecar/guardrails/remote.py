"""What a remote check is asked and may answer; the port the inspector speaks through."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Never, Protocol

from sidecar.domain.finding import Finding, RemoteEvent, Verdict
from sidecar.domain.policy import Action, Guardrail, Stage
from sidecar.domain.subject import Subject


@dataclass(frozen=True, slots=True)
class InspectionSubject:
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
    about: InspectionSubject
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


class RemoteChecks(Protocol):
    """Asks the outside."""

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer within the guardrail's time limit. The caller may cancel.

        Raises:
            RemoteCheckError: there is no usable answer.
        """
        ...


class AskNobody:
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
