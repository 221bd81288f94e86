"""The guardrails of one policy over one text, as `GuardrailRunner` runs them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from egret_tools.cli.bench import percentile

from sidecar.domain.finding import GuardrailResult
from sidecar.domain.policy import Policy
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import Subject, TextPart
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest, RequestInfo
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.policy.parse import DEFAULT_POLICY_NAME, default_policy, parse_policies
from sidecar.policy.snapshot import EffectivePolicy, MissingPolicy, build_snapshot

Judge = Callable[[str], tuple[GuardrailResult, ...] | Awaitable[tuple[GuardrailResult, ...]]]

SHORT_EVERY_SECONDS: Final = 0.005
"""200 short requests a second leave a worker room, so that they wait for the long one only."""


async def beside(judge: Judge, *, long: str, short: str, seconds: float) -> dict[str, float]:
    """Return the milliseconds of short texts from their due time, and of the long ones.

    `hold_cpu` is this process's CPU time between one turn of the loop and the next:
    unlike the wait of short texts, it excludes the time of other processes.
    """
    ends_at = time.perf_counter() + seconds
    longs: list[float] = []
    async with asyncio.TaskGroup() as group:
        shorts = group.create_task(_shorts(judge, short, ends_at))
        holds = group.create_task(_holds(seconds))
        group.create_task(_longs(judge, long, ends_at, longs))
    waited = shorts.result()
    return {
        "short_p50_ms": percentile(waited, 50),
        "short_p99_ms": percentile(waited, 99),
        "hold_cpu_p99_ms": percentile(holds.result(), 99),
        "hold_cpu_max_ms": max(holds.result()),
        "long_p50_ms": percentile(longs, 50),
    }


async def _longs(judge: Judge, text: str, ends_at: float, taken: list[float]) -> None:
    while time.perf_counter() < ends_at:
        started_at = time.perf_counter()
        results = judge(text)
        if not isinstance(results, tuple):
            await results
        taken.append((time.perf_counter() - started_at) * 1e3)
        await asyncio.sleep(0)


async def _shorts(judge: Judge, text: str, ends_at: float) -> list[float]:
    taken: list[float] = []
    due_at = time.perf_counter()
    while due_at < ends_at:
        await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
        results = judge(text)
        if not isinstance(results, tuple):
            await results
        taken.append((time.perf_counter() - due_at) * 1e3)
        due_at += SHORT_EVERY_SECONDS
    return taken


async def _holds(seconds: float) -> list[float]:
    """Return the milliseconds of CPU time between one turn of the loop and the next."""
    gaps: list[float] = []
    before = time.process_time()
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        await asyncio.sleep(0)
        now = time.process_time()
        gaps.append((now - before) * 1e3)
        before = now
    return gaps


MIN_CALLS: Final = 5

Results = tuple[GuardrailResult, ...]


class _NoRemote:
    """The default policy has no remote guardrail."""

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        raise NotImplementedError(request.guardrail.name)


@dataclass(frozen=True, slots=True)
class Pass:
    """One policy and a runner."""

    policy: EffectivePolicy
    runner: GuardrailRunner

    def inspect(self, text: str) -> Results | Awaitable[Results]:
        """Begin to judge *text*; a long one goes on when awaited."""
        parts = (TextPart(content=text.encode(), location=(0,), role="user"),)
        subject = Subject(model=None, streamed=False, parts=parts)
        about = RequestInfo(request_id="", key_id="", model=None)
        return self.runner.inspect(self.policy, subject, about=about)

    def results(self, text: str) -> Results:
        """Judge *text* in one go, its turns right after each other."""
        results = self.inspect(text)
        if isinstance(results, tuple):
            return results
        turns = results.__await__()
        while True:
            try:
                next(turns)
            except StopIteration as end:
                judged: Results = end.value
                return judged

    def cpu_us(self, text: str, *, seconds: float) -> float:
        """Return the median of this process's CPU time, which other processes do not change."""
        taken: list[float] = []
        ends_at = time.perf_counter() + seconds
        while len(taken) < MIN_CALLS or time.perf_counter() < ends_at:
            started_at = time.process_time()
            self.results(text)
            taken.append((time.process_time() - started_at) * 1e6)
        return percentile(taken, 50)


LOCAL_TYPES: Final = {
    "secrets": "",
    "pii": "",
    "prompt_injection": "threshold: high",
    "denied_patterns": "patterns: [{name: PROJECT_CODE, regex: 'PRJ-[0-9]{4}'}]",
    "denied_terms": "terms: [Bluebird, top secret]",
    "code": "",
    "toxicity": "",
    "max_input": "max_characters: {double}",
    "max_tokens": "max_tokens: {half}",
    "language": "allowed: [en, de]",
}
"""The types of local guardrails that judge requests, with their settings in a policy."""


def policy_of(types: Iterable[str], *, name: str, size: int) -> str:
    """Return a policy as YAML: a guardrail of each of *types*, which only reports.

    *size* is that of the bodies in bytes, more or less: they pass, but their tokens are counted.
    """
    lines = [f"name: {name}\nguardrails:\n"]
    for one in types:
        fields = LOCAL_TYPES[one]
        for amount, value in (("{half}", size // 2), ("{double}", 2 * size)):
            fields = fields.replace(amount, str(value))
        lines.append(
            f"  - {{name: g-{one.replace('_', '-')}, type: {one}, action: flag, {fields}}}\n"
        )
    return "".join(lines)


def default_pass(*, without: str = "") -> Pass:
    """Return the pass of the default policy, *without* the guardrails of one type."""
    default = default_policy()
    kept = tuple(one for one in default.guardrails if one.settings.guardrail_type != without)
    return _pass(replace(default, guardrails=kept))


def pass_of(types: Iterable[str], *, size: int) -> Pass:
    """Return the pass of `policy_of`."""
    return _pass(*parse_policies(policy_of(types, name=DEFAULT_POLICY_NAME, size=size)))


def _pass(default: Policy) -> Pass:
    policy = build_snapshot((default,)).effective(PolicyBinding())
    if isinstance(policy, MissingPolicy):
        raise TypeError("there is no default policy")
    return Pass(policy, GuardrailRunner(remote=_NoRemote(), clock=time.monotonic))
