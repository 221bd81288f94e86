"""Runs one text through a policy, guardrail by guardrail, with the cost of each."""

from __future__ import annotations

import enum
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from sidecar.apis.response_structure import AnswerPiece
from sidecar.domain.cooperative import run_sync
from sidecar.domain.finding import Allow, Decision, Deny, GuardrailResult, Redact
from sidecar.domain.guardrail_settings import JsonSchemaSettings, SecretsSettings
from sidecar.domain.policy import EVERYWHERE, Guardrail, Stage, judges_input
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import Subject
from sidecar.guardrails.detectors.secrets import tier_of
from sidecar.guardrails.json_schema.check import (
    SchemaGuardrail,
    check_structure,
    schema_guardrails,
)
from sidecar.guardrails.registry import is_remote, judges_texts
from sidecar.guardrails.remote.checks import NoRemoteChecks, RequestInfo
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.guardrails.streaming.response_policy import judges_output
from sidecar.policy.compilation import compile_in_subprocess
from sidecar.policy.snapshot import EffectivePolicy, PolicySnapshot, snapshot_steps

MAX_RUNS: Final = 200
MAX_RUN_SECONDS: Final = 0.1
"""How often, and for how long, a pass is repeated for the median of its time."""

PICTURES: Final = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}
"""Control characters as pictures of themselves: a text must not act on a terminal."""

_PREFIX: Final = "\0"
"""Of the names of policies made here; no document can have such a name."""

_SCANNING: Final = threading.RLock()
"""Held by the thread that scans: databases are shared, and each has one scratch space."""


class TextRole(enum.Enum):
    """The author of a text to judge: guardrails take rules and results of tools otherwise."""

    USER = "user"
    SYSTEM = "system"
    DEVELOPER = "developer"
    INSTRUCTIONS = "instructions"
    ASSISTANT = "assistant"
    TOOL = "tool"
    FUNCTION = "function"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class TimedResult:
    """A guardrail's result, and the time of a pass with that guardrail alone."""

    result: GuardrailResult
    microseconds: float


@dataclass(frozen=True, slots=True)
class PolicyTestResult:
    """The results of a policy for a text.

    `results` are those the decision depends on; `not_asked` are guardrails that a test leaves out.
    """

    judged: tuple[TimedResult, ...]
    not_asked: tuple[Guardrail, ...]
    pass_microseconds: float

    @property
    def results(self) -> tuple[GuardrailResult, ...]:
        """The guardrails' results, in the policy's order."""
        return tuple(one.result for one in self.judged)

    def described(self, subject: Subject) -> dict[str, Any]:
        """Return all for a program but the text of *subject*; offsets count characters."""
        return {
            "pass_microseconds": round(self.pass_microseconds, 1),
            "guardrails": [
                {
                    "name": guardrail.name,
                    "type": guardrail.settings.guardrail_type,
                    "action": guardrail.action.value,
                    "mode": guardrail.mode.value,
                    "verdict": one.result.verdict.value,
                    "score": one.result.score,
                    "microseconds": round(one.microseconds, 1),
                    "findings": spans_of(subject, one.result),
                }
                for one in self.judged
                for guardrail in (one.result.guardrail,)
            ],
            "not_asked": [one.name for one in self.not_asked],
        }


async def run_policy_test(
    document: str, subject: Subject, *, side: Stage = Stage.INPUT
) -> PolicyTestResult:
    """Judge *subject* by the policy of *document*, whose expressions were checked.

    With *side* `OUTPUT` each text is judged as the model's, or as the arguments of a call.

    Raises:
        CompileError: it cannot be compiled within the limits.
    """
    (compiled,) = await compile_in_subprocess([document])
    policy = compiled.policy
    judges = judges_output if side is Stage.OUTPUT else judges_input
    asked = tuple(one for one in policy.guardrails if judges(one))
    local = tuple(
        replace(one, scope=EVERYWHERE, stage=Stage.INPUT) for one in asked if judges_texts(one)
    )
    # The policy, and one of each guardrail alone, over the same databases.
    whole = replace(policy, name=_PREFIX, guardrails=local)
    alone = (replace(policy, name=_PREFIX + one.name, guardrails=(one,)) for one in local)
    policies = {one.name: one for one in (*alone, whole, policy)}
    with _SCANNING:
        snapshot = run_sync(
            snapshot_steps([replace(compiled, policy=one) for one in policies.values()])
        )

        def microseconds_of(policy_name: str) -> float:
            scan = _effective(snapshot, policy_name).local.scan
            return _microseconds(lambda: scan(subject.parts, subject.runs))

        results = GuardrailRunner(remote=NoRemoteChecks(), clock=time.perf_counter).inspect(
            _effective(snapshot, _PREFIX),
            subject,
            about=RequestInfo(request_id="", key_id="", model=subject.model),
        )
        judged: dict[str, TimedResult] = {}
        for result in results if isinstance(results, tuple) else await results:
            name = result.guardrail.name
            judged[name] = TimedResult(result, microseconds_of(_PREFIX + name))
        for checked in schema_guardrails(asked):
            settings = checked.guardrail.settings
            assert isinstance(settings, JsonSchemaSettings)  # noqa: S101 - no other type has a schema
            pieces = [AnswerPiece(settings.of, part.content, "answer") for part in subject.parts]

            def judge(
                one: SchemaGuardrail = checked, given: Sequence[AnswerPiece] = pieces
            ) -> GuardrailResult:
                return run_sync(check_structure([one], given, clock=time.perf_counter))[0]

            judged[checked.guardrail.name] = TimedResult(judge(), _microseconds(judge))
        return PolicyTestResult(
            judged=tuple(judged[one.name] for one in asked if one.name in judged),
            not_asked=tuple(one for one in asked if is_remote(one)),
            pass_microseconds=microseconds_of(_PREFIX),
        )


def _effective(snapshot: PolicySnapshot, name: str) -> EffectivePolicy:
    found = snapshot.effective(PolicyBinding(key=name))
    assert isinstance(found, EffectivePolicy)  # noqa: S101 - the snapshot was built with it
    return found


def _microseconds(judge: Callable[[], object]) -> float:
    """Return the median time of *judge*, repeated within `MAX_RUNS` and `MAX_RUN_SECONDS`."""
    taken: list[float] = []
    until = time.perf_counter() + MAX_RUN_SECONDS
    while not taken or (len(taken) < MAX_RUNS and time.perf_counter() < until):
        began_at = time.perf_counter()
        judge()
        taken.append(time.perf_counter() - began_at)
    return statistics.median(taken) * 1e6


def decision_words(decision: Decision) -> str:
    """Return the decision about a text, in words for a person."""
    match decision:
        case Deny(error):
            return f"Refused: {error.message}"
        case Redact(findings):
            count = len(findings)
            return f"Goes on, with {count} value{'s' * (count != 1)} replaced"
        case Allow():
            return "Goes on unchanged"
        case _:
            assert_never(decision)


def spans_of(subject: Subject, result: GuardrailResult) -> list[dict[str, object]]:
    """Return a guardrail's findings by text and characters, without the characters.

    One of `secrets` has its tier.
    """
    is_secret = isinstance(result.guardrail.settings, SecretsSettings)
    spans: list[dict[str, object]] = []
    for found in result.findings:
        content = subject.parts[found.part].content
        start, end = character_span(content, (found.start, found.end))
        span = {"type": found.type, "text": found.part, "start": start, "end": end}
        span |= {"tier": tier_of(found.type).value} if is_secret else {}
        spans.append(span if found.place is None else span | {"place": found.place})
    return spans


def character_span(content: bytes, span: tuple[int, int]) -> tuple[int, int]:
    """Return a span of bytes as one of characters."""
    start = len(content[: span[0]].decode(errors="ignore"))
    return start, start + len(content[span[0] : span[1]].decode(errors="ignore"))
