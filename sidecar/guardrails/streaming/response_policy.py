"""The guardrails that a policy has for answers, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from sidecar.domain.policy import Action, Guardrail, Stage, StreamMode, judges_input
from sidecar.guardrails.json_schema.check import SchemaGuardrail, schema_guardrails
from sidecar.guardrails.local_scan import LocalScan
from sidecar.guardrails.matching.partial_match import PartialMatcher
from sidecar.guardrails.registry import is_remote, rules_of

_STRICTEST_FIRST: Final = (StreamMode.BUFFER, StreamMode.WINDOW, StreamMode.OBSERVE)


@dataclass(frozen=True, slots=True)
class RemoteGuardrails:
    """The remote guardrails of answers alone, as `GuardrailRunner` accepts them."""

    guardrails: tuple[Guardrail, ...]
    remote: tuple[Guardrail, ...]
    local: LocalScan = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class AnswerPolicy:
    """The guardrails of answers. `streams` is the strictest mode that any of them has.

    `restores` is whether placeholders of the request are turned back, `redacts` whether values of
    an answer may get some. `structured` judge the text that leaves, after all others have changed
    it.
    """

    guardrails: tuple[Guardrail, ...]
    streams: StreamMode
    restores: bool
    redacts: bool
    local: LocalScan = field(repr=False, compare=False)
    asking: RemoteGuardrails = field(repr=False, compare=False)
    unfinished: PartialMatcher = field(repr=False, compare=False)
    structured: tuple[SchemaGuardrail, ...] = field(default=(), repr=False)


def answer_policy(
    guardrails: Iterable[Guardrail], scan_of: Callable[[tuple[Guardrail, ...]], LocalScan]
) -> AnswerPolicy:
    """Return the part of a policy's *guardrails* that is for answers."""
    every = tuple(guardrails)
    outputs = tuple(replace(one, stage=Stage.OUTPUT) for one in every if judges_output(one))
    remote = tuple(one for one in outputs if is_remote(one))
    rules = (rule for one in outputs for rule in rules_of(one.settings))
    return AnswerPolicy(
        guardrails=outputs,
        # Without any, an answer is read to restore its placeholders only.
        streams=min(
            (one.streams for one in outputs), key=_STRICTEST_FIRST.index, default=StreamMode.WINDOW
        ),
        restores=any(
            one.restore and one.action is Action.REDACT for one in every if judges_input(one)
        ),
        # A remote check may ask for it under any action but `flag`.
        redacts=any(
            one.action is Action.REDACT or (one.action is Action.BLOCK and is_remote(one))
            for one in outputs
        ),
        local=scan_of(outputs),
        asking=RemoteGuardrails(remote, remote, scan_of(())),
        unfinished=PartialMatcher(rules),
        structured=schema_guardrails(outputs),
    )


def judges_output(guardrail: Guardrail) -> bool:
    """Return whether *guardrail* is for answers."""
    return guardrail.stage in {Stage.OUTPUT, Stage.BOTH}
