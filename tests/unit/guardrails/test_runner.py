from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Awaitable
from contextvars import copy_context

import pytest

from loadtest.texts import mixed_text
from sidecar.domain.cooperative import SLICE_BYTES, Cooperative
from sidecar.domain.finding import Failure, FailureKind, Finding, GuardrailResult, Verdict
from sidecar.domain.subject import Subject, TextPart
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RequestInfo,
)
from sidecar.guardrails.runner import (
    LEVELS,
    ORGANIZATION,
    ROUND_SLICES,
    STARVATION_EVERY,
    GuardrailRunner,
)
from sidecar.policy.parse import default_policy
from sidecar.policy.snapshot import EffectivePolicy
from tests.support.guardrails import (
    Script,
    ScriptedChecks,
    Ticks,
    effective,
    parts_of,
    policy,
    subject_of,
)

ABOUT = RequestInfo(request_id="r1", key_id="k1", model="gpt-5")
EMAIL = "mail bob@example.com"

SHORT, LONGER, LONG, _ = LEVELS

Outcome = tuple[str, Verdict, str | None]


def hook(name: str, settings: str = "") -> str:
    return f"  - {{name: {name}, type: webhook, url: 'http://h/'{settings}}}\n"


def pii(settings: str) -> str:
    return f"  - {{name: pii, type: pii{settings}}}\n"


def answering(answer: RemoteAnswer) -> Script:
    async def script() -> RemoteAnswer:
        return answer

    return script


def raising(error: BaseException) -> Script:
    async def script() -> RemoteAnswer:
        raise error

    return script


async def hanging() -> RemoteAnswer:
    await asyncio.Event().wait()
    raise AssertionError


PASS = answering(RemoteAnswer("pass"))
FLAG = answering(RemoteAnswer("flag"))
BLOCK = answering(RemoteAnswer("block"))
REDACT = answering(RemoteAnswer("redact", (Finding("h", "NAME", 0, 0, 4),)))


async def results_of(
    chosen: EffectivePolicy, subject: Subject, checks: ScriptedChecks
) -> tuple[GuardrailResult, ...]:
    results = GuardrailRunner(remote=checks, clock=Ticks()).inspect(chosen, subject, about=ABOUT)
    return results if isinstance(results, tuple) else await results


async def outcomes_of(
    guardrails: str, scripts: dict[str, Script], *texts: str
) -> tuple[list[Outcome], ScriptedChecks]:
    checks = ScriptedChecks(scripts)
    results = await results_of(effective(policy(guardrails)), subject_of(*texts), checks)
    return [
        (one.guardrail.name, one.verdict, one.failure and one.failure.error_type)
        for one in results
    ], checks


@pytest.mark.parametrize(
    ("action", "verdict"),
    [("block", Verdict.BLOCK), ("redact", Verdict.REDACT), ("flag", Verdict.FLAG)],
)
async def test_a_local_finding_leads_to_the_action(action: str, verdict: Verdict) -> None:
    """And text without one passes, in the same breath: nothing is awaited."""
    chosen = effective(policy(pii(f", action: {action}")))
    runner = GuardrailRunner(remote=ScriptedChecks({}), clock=Ticks())
    results = runner.inspect(chosen, subject_of(EMAIL), about=ABOUT)
    guardrail = chosen.guardrails[0]
    finding = Finding("pii", "EMAIL", 0, 5, 20)
    assert results == (GuardrailResult(guardrail, verdict, (finding,)),)
    results = runner.inspect(chosen, subject_of("hello"), about=ABOUT)
    assert results == (GuardrailResult(guardrail, Verdict.PASS, ()),)
    assert runner.inspect(chosen, subject_of("bye"), about=ABOUT) is results


async def test_beside_remote_checks_a_local_result_has_the_time_of_its_own_pass() -> None:
    """The step of all guardrails includes the wait for a server."""
    chosen = effective(policy(pii("") + hook("tone")))

    local, _ = await results_of(chosen, subject_of("hello"), ScriptedChecks({"tone": PASS}))
    assert (local.started_at, local.seconds) == (1.0, 1.0)


async def test_a_long_text_is_judged_in_turns_with_what_else_there_is_to_do() -> None:
    """Short requests do not wait for it, and its result is what it would be at once."""
    chosen = effective(policy(pii(", action: redact")))
    runner = GuardrailRunner(remote=ScriptedChecks({}), clock=Ticks())
    long = subject_of("x" * (3 * SLICE_BYTES) + EMAIL)
    later = runner.inspect(chosen, long, about=ABOUT)
    assert not isinstance(later, tuple)
    judging = asyncio.ensure_future(later)
    turns = 0
    while not judging.done():
        turns += 1
        assert isinstance(runner.inspect(chosen, subject_of(EMAIL), about=ABOUT), tuple)
        await asyncio.sleep(0)
    assert turns >= 3
    (result,) = judging.result()
    at = 3 * SLICE_BYTES
    assert (result.verdict, result.findings) == (
        Verdict.REDACT,
        (Finding("pii", "EMAIL", 0, at + 5, at + 20),),
    )


async def test_no_turn_of_a_hostile_text_is_long() -> None:
    """In CPU time, since what else the machine does is not ours; a collection of garbage is."""
    runner = GuardrailRunner(remote=ScriptedChecks({}), clock=time.monotonic)
    chosen = effective(default_policy())
    later = runner.inspect(chosen, subject_of(mixed_text(1 << 20)), about=ABOUT)
    assert not isinstance(later, tuple)
    judging = asyncio.ensure_future(later)
    holds: list[float] = []
    gc.collect()
    gc.freeze()  # as a worker does when it is ready; else other tests' objects are gone through
    try:
        while not judging.done():
            began_at = time.process_time()
            await asyncio.sleep(0)
            holds.append(time.process_time() - began_at)
    finally:
        gc.unfreeze()
    verdicts = [one.verdict for one in judging.result()]
    assert verdicts == [Verdict.BLOCK, Verdict.REDACT, Verdict.REDACT, Verdict.PASS]
    assert len(holds) > 20
    assert max(holds) < sum(holds) / 10


async def test_no_turn_of_many_short_texts_is_long() -> None:
    """Fifty thousand strings, with an accent each, held a worker for two seconds."""
    runner = GuardrailRunner(remote=ScriptedChecks({}), clock=time.monotonic)
    chosen = effective(default_policy())
    runs = (tuple(range(40_000)),)
    said = Subject(model="m", streamed=False, parts=parts_of(["é\u200b"] * 40_000), runs=runs)
    gc.collect()
    gc.disable()
    try:
        began_at = time.process_time()
        later = runner.inspect(chosen, said, about=ABOUT)
        holds = [time.process_time() - began_at]
        assert not isinstance(later, tuple)
        judging = asyncio.ensure_future(later)
        while not judging.done():
            began_at = time.process_time()
            await asyncio.sleep(0)
            holds.append(time.process_time() - began_at)
    finally:
        gc.enable()
    assert max(holds) < sum(holds) / 5


class Passes:
    """Passes of one runner that hold the loop so often; `holds` are their names in order."""

    def __init__(self) -> None:
        self._runner = GuardrailRunner(remote=ScriptedChecks({}), clock=Ticks())
        self.holds: list[str] = []

    def begin(self, name: str, holds: int, *, of: str = "") -> asyncio.Future[tuple[str]]:
        """Begin a pass *of* an organization, which ends with its last hold.

        It raises if its name says so.
        """

        def steps() -> Cooperative[tuple[str]]:
            for _ in range(holds):
                self.holds.append(name)
                yield
            if name == "raises":
                raise ValueError(name)
            return (name,)

        later = self._runner.run_cooperatively(steps())
        assert not isinstance(later, tuple)
        context = copy_context()
        context.run(ORGANIZATION.set, of)
        return context.run(asyncio.ensure_future, later)


async def hold_often(turns: int = 2 * SHORT) -> None:
    """Let passes hold the loop; one that is alone is at the second level after that."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_of_two_equal_passes_the_first_ends_before_the_other_holds_as_often() -> None:
    """If they took turns, both would end when the second does."""
    passes = Passes()
    both = [passes.begin(name, LONG) for name in ("a", "b")]
    assert await asyncio.gather(*both) == [("a",), ("b",)]
    last = len(passes.holds) - passes.holds[::-1].index("a")
    assert passes.holds[:last].count("b") == LONGER + 1


async def test_a_pass_does_not_wait_for_the_end_of_one_that_is_much_longer() -> None:
    """Such as a text that is made to be slow."""
    passes = Passes()
    slow = passes.begin("slow", 4 * LONG)
    await hold_often()
    other = passes.begin("other", LONGER)
    assert await other == ("other",)
    assert passes.holds.count("slow") < LONG
    assert await slow == ("slow",)


async def test_a_short_pass_overtakes_a_long_one_that_gets_its_share() -> None:
    passes = Passes()
    long = passes.begin("long", LONG)
    await hold_often()
    short = passes.begin("short", SHORT)
    assert await short == ("short",)
    assert not long.done()
    assert await long == ("long",)
    share = ["long", *["short"] * (STARVATION_EVERY - 1), "long"]
    assert " ".join(share) in " ".join(passes.holds)


@pytest.mark.parametrize("holds", [1, 2])
async def test_a_long_pass_ends_however_many_short_ones_come(holds: int) -> None:
    passes = Passes()
    long = passes.begin("long", LONGER)
    await hold_often()
    short: list[asyncio.Future[tuple[str]]] = []
    while not long.done() and len(short) < 2 * STARVATION_EVERY * LONGER:
        short.append(passes.begin("short", holds))
        await asyncio.sleep(0)
    assert long.done()
    counts = Counter(passes.holds[passes.holds.index("short") :])
    at_once = len(short)  # each began with a slice of its own
    assert counts["short"] <= (STARVATION_EVERY + 1) * counts["long"] + at_once
    await asyncio.gather(*short)


async def test_many_long_passes_delay_those_of_another_organization_by_a_share() -> None:
    passes = Passes()
    flood = [passes.begin("flood", LONG, of="one") for _ in range(20)]
    await hold_often()
    before = passes.holds.count("flood")
    assert await passes.begin("other", LONG, of="another") == ("other",)
    assert passes.holds.count("flood") - before <= 2 * ROUND_SLICES
    await asyncio.gather(*flood)


async def test_an_organization_that_comes_later_does_not_catch_up_on_the_others() -> None:
    """Else the others would wait for as long as they have worked."""
    passes = Passes()
    first = passes.begin("first", 16 * ROUND_SLICES, of="one")
    await hold_often(8 * ROUND_SLICES)
    assert passes.holds.count("first") >= 3 * ROUND_SLICES
    before = passes.holds.count("first")
    later = passes.begin("later", 16 * ROUND_SLICES, of="another")
    await hold_often(8 * ROUND_SLICES)
    assert passes.holds.count("later") <= passes.holds.count("first") - before + 2 * ROUND_SLICES
    await first
    await later


async def test_texts_sent_one_after_the_other_get_no_more_than_texts_sent_at_once() -> None:
    """What an organization has used counts on between two of its texts."""
    passes = Passes()
    long = passes.begin("long", 32 * ROUND_SLICES, of="one")
    while passes.holds.count("long") < 8 * ROUND_SLICES:
        await passes.begin("short", ROUND_SLICES // 2, of="another")
    counts = Counter(passes.holds)
    assert counts["short"] <= counts["long"] + 2 * ROUND_SLICES
    assert await long == ("long",)


@pytest.mark.parametrize("end", ["is cancelled in its turn", "is cancelled before it", "raises"])
async def test_a_pass_that_ends_early_lets_the_next_go_on(end: str) -> None:
    passes = Passes()
    first = passes.begin("raises" if end == "raises" else "first", 2)
    waiting = passes.begin("waiting", 2)
    third = passes.begin("third", 2)
    await asyncio.sleep(0)
    if end == "is cancelled in its turn":
        first.cancel()
    elif end == "is cancelled before it":
        waiting.cancel()
    found = await asyncio.gather(first, waiting, third, return_exceptions=True)
    assert [type(one) for one in found] == {
        "is cancelled in its turn": [asyncio.CancelledError, tuple, tuple],
        "is cancelled before it": [tuple, asyncio.CancelledError, tuple],
        "raises": [ValueError, tuple, tuple],
    }[end]


@pytest.mark.parametrize(
    ("on_error", "verdict"), [("block", Verdict.ERROR_CLOSED), ("allow", Verdict.ERROR_OPEN)]
)
async def test_a_local_guardrail_that_cannot_judge_has_its_direction(
    on_error: str, verdict: Verdict
) -> None:
    """Text the engine cannot take is an error, by `on_error`, never a pass."""
    chosen = effective(policy(pii(f", on_error: {on_error}")))
    subject = Subject("m", streamed=False, parts=(TextPart(b"\xff", (0,), "user"),))
    (result,) = await results_of(chosen, subject, ScriptedChecks({}))
    assert (result.verdict, result.failure) == (
        verdict,
        Failure(FailureKind.ERROR, "UnicodeDecodeError"),
    )


REMOTE_CASES: dict[str, tuple[str, Script, Verdict, str | None]] = {
    "pass": ("", PASS, Verdict.PASS, None),
    "flag": ("", FLAG, Verdict.FLAG, None),
    "block": ("", BLOCK, Verdict.BLOCK, None),
    "redact": ("", REDACT, Verdict.REDACT, None),
    "redact_allowed": (", action: redact", REDACT, Verdict.REDACT, None),
    "block_under_redact": (", action: redact", BLOCK, Verdict.BLOCK, None),
    "block_under_flag": (", action: flag", BLOCK, Verdict.FLAG, None),
    "redact_under_flag": (", action: flag", REDACT, Verdict.FLAG, None),
    "error": ("", raising(RemoteCheckError("status_500")), Verdict.ERROR_CLOSED, "status_500"),
    "error_open": (
        ", on_error: allow", raising(RemoteCheckError("tls")), Verdict.ERROR_OPEN, "tls",
    ),
    "caused_by_the_text": (
        ", on_error: allow", raising(RemoteCheckError("answer_too_large", RemoteFault.CONTENT)),
        Verdict.ERROR_CLOSED, "answer_too_large",
    ),
    "bug": ("", raising(KeyError("x")), Verdict.ERROR_CLOSED, "KeyError"),
    "own_timeout_is_an_error": ("", raising(TimeoutError()), Verdict.ERROR_CLOSED, "TimeoutError"),
    "cancelled_by_itself": (
        "", raising(asyncio.CancelledError()), Verdict.ERROR_CLOSED, "cancelled",
    ),
    "hangs": (", timeout: 10ms", hanging, Verdict.TIMEOUT_CLOSED, "timeout"),
    "hangs_open": (
        ", timeout: 10ms, on_error: allow", hanging, Verdict.TIMEOUT_OPEN, "timeout",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REMOTE_CASES)
async def test_a_remote_answer_or_its_lack_has_one_outcome(case: str) -> None:
    """Whatever a remote check does, the outcome is of the closed set, and only one is a pass."""
    settings, script, verdict, error_type = REMOTE_CASES[case]
    outcomes, _ = await outcomes_of(hook("h", settings), {"h": script}, "text")
    assert outcomes == [("h", verdict, error_type)]


async def test_remote_checks_run_at_the_same_time() -> None:
    """Each waits for the other to have begun; one after the other they would never end."""
    both = asyncio.Barrier(2)

    async def meet() -> RemoteAnswer:
        await both.wait()
        return RemoteAnswer("pass")

    outcomes, _ = await outcomes_of(hook("a") + hook("b"), {"a": meet, "b": meet}, "text")
    assert outcomes == [("a", Verdict.PASS, None), ("b", Verdict.PASS, None)]


@pytest.mark.parametrize(
    "deciding", [BLOCK, raising(RemoteCheckError("connection"))], ids=["block", "error"]
)
async def test_the_first_refusal_cancels_the_rest(deciding: Script) -> None:
    """Nobody waits for what cannot change the answer any more."""
    outcomes, checks = await outcomes_of(
        hook("slow") + hook("quick"), {"slow": hanging, "quick": deciding}, "text"
    )
    assert outcomes[0] == ("slow", Verdict.SKIPPED, None)
    assert outcomes[1][1] in {Verdict.BLOCK, Verdict.ERROR_CLOSED}
    assert checks.cancelled == ["slow"]


async def test_a_shadow_refusal_cancels_nothing() -> None:
    """Shadow mode judges and reports, and changes nothing."""
    outcomes, checks = await outcomes_of(
        hook("shadow", ", mode: shadow") + hook("real"), {"shadow": BLOCK, "real": FLAG}, "text"
    )
    assert outcomes == [("shadow", Verdict.BLOCK, None), ("real", Verdict.FLAG, None)]
    assert checks.cancelled == []


async def test_what_is_blocked_here_never_leaves_for_a_third_party() -> None:
    """Results stay in the policy's order, whichever kind was run first."""
    outcomes, checks = await outcomes_of(hook("h") + pii(""), {"h": PASS}, EMAIL)
    assert outcomes == [("h", Verdict.SKIPPED, None), ("pii", Verdict.BLOCK, None)]
    assert checks.asked == []


@pytest.mark.parametrize("settings", [", mode: shadow", ", action: redact", ", action: flag"])
async def test_a_local_finding_that_refuses_nothing_lets_the_remote_checks_run(
    settings: str,
) -> None:
    """Only an enforced block makes them pointless."""
    _, checks = await outcomes_of(pii(settings) + hook("h"), {"h": PASS}, EMAIL)
    assert checks.asked == ["h"]


async def test_a_request_without_text_asks_nobody() -> None:
    """There is nothing to judge, which is a pass for each guardrail."""
    outcomes, checks = await outcomes_of(pii("") + hook("h"), {"h": BLOCK})
    assert outcomes == [("pii", Verdict.PASS, None), ("h", Verdict.PASS, None)]
    assert checks.asked == []


async def test_cancelling_the_inspection_cancels_every_remote_check() -> None:
    """A client that goes away leaves nothing running."""
    both = asyncio.Barrier(3)

    async def begin_and_hang() -> RemoteAnswer:
        await both.wait()
        return await hanging()

    checks = ScriptedChecks({"a": begin_and_hang, "b": begin_and_hang})
    runner = GuardrailRunner(remote=checks, clock=Ticks())
    chosen = effective(policy(hook("a") + hook("b")))
    pending = runner.inspect(chosen, subject_of("text"), about=ABOUT)
    assert not isinstance(pending, tuple)
    task = asyncio.ensure_future(_await(pending))
    await both.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(checks.cancelled) == ["a", "b"]


async def _await(pending: Awaitable[tuple[GuardrailResult, ...]]) -> tuple[GuardrailResult, ...]:
    return await pending


async def test_what_several_guardrails_redact_is_disjoint() -> None:
    """An email inside a password's URL is replaced once, under the name of the graver find."""
    outcomes = await results_of(
        effective(
            policy(
                pii(", action: redact")
                + "  - {name: secrets, type: secrets, action: redact}\n"
                + hook("h")
            )
        ),
        subject_of("see https://bob:hunter2@example.com/x now"),
        ScriptedChecks({"h": answering(RemoteAnswer("redact", (Finding("h", "X", 0, 34, 37),)))}),
    )
    assert [(one.guardrail.name, one.verdict, one.findings) for one in outcomes] == [
        ("pii", Verdict.REDACT, ()),
        ("secrets", Verdict.REDACT, (Finding("secrets", "BASIC_AUTH_URL", 0, 16, 37),)),
        ("h", Verdict.REDACT, ()),
    ]
