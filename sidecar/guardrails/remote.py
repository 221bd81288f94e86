"""What a remote check is asked and may answer; the port the inspector speaks through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from sidecar.domain.finding import Finding, Verdict
from sidecar.domain.policy import Action, Guardrail
from sidecar.domain.subject import Subject


@dataclass(frozen=True, slots=True)
class InspectionSubject:
    """Whose request is inspected; sent along to remote checks."""

    request_id: str
    key_id: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteRequest:
    """One remote check to be made."""

    guardrail: Guardrail
    subject: Subject
    about: InspectionSubject


RemoteVerdict = Literal["pass", "flag", "redact", "block"]


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """A remote check's opinion; `redact` comes with one finding or more."""

    verdict: RemoteVerdict
    findings: tuple[Finding, ...] = ()


class RemoteCheckError(Exception):
    """A remote check that gave no usable answer; `error_type` is short and stable."""

    def __init__(self, error_type: str) -> None:
        super().__init__(error_type)
        self.error_type = error_type


class RemoteChecks(Protocol):
    """Asks the outside."""

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer. The caller sets the time limit and cancels.

        Raises:
            RemoteCheckError: there is no usable answer.
        """
        ...


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
