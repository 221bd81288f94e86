"""Compiles expressions one by one in a child process with limits."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.policy.check_process import MAX_SECONDS_EACH
from sidecar.policy.compile_process import MAX_COMPILE_BYTES
from sidecar.policy.parse import PlacedExpression, PolicyFault

MAX_LOST: Final = 10
"""Processes lost to expressions before the rest goes unchecked: nothing is applied by then."""

_TOO_COSTLY: Final = (
    f"takes more than {MAX_SECONDS_EACH:g} s of CPU time or {MAX_COMPILE_BYTES >> 30} GiB of "
    "memory to compile"
)
_HINT: Final = "make its repeats shorter: bounded ones in each other, or of wide classes, multiply"

Advance = Callable[[int], None]
"""Is told how many were checked."""


class CheckFailedError(Exception):
    """The checking process ended for a reason of its own."""


async def expression_faults(
    placed: Sequence[PlacedExpression], *, advance: Advance
) -> tuple[PolicyFault, ...]:
    """Return what is wrong with the expressions, each with its place.

    Raises:
        CheckFailedError: nothing can be said.
    """
    faults: list[PolicyFault] = []
    done, lost = 0, 0
    while done < len(placed) and lost < MAX_LOST:
        rest = placed[done:]
        answers = await _answers(rest, advance=advance, done=done)
        for one, problem in zip(rest, answers, strict=False):
            if problem is not None:
                faults.append(_fault(one, problem, None))
        done += len(answers)
        if done < len(placed):
            faults.append(_fault(placed[done], _TOO_COSTLY, _HINT))
            done, lost = done + 1, lost + 1
    return tuple(faults)


async def _answers(
    placed: Sequence[PlacedExpression], *, advance: Advance, done: int
) -> list[str | None]:
    """Return the answers for as many as the process lived to check, after *done* others."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sidecar.policy.check_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None  # noqa: S101 - both were asked for
    assert process.stdout is not None  # noqa: S101
    answers: list[str | None] = []
    try:
        process.stdin.write(json.dumps([one.regex for one in placed]).encode())
        process.stdin.close()
        async for line in process.stdout:
            answers.append(json.loads(line))
            advance(done + len(answers))
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code > 0 or (code == 0 and len(answers) < len(placed)):
        raise CheckFailedError("the process that checks expressions failed")
    return answers


def _fault(placed: PlacedExpression, problem: str, hint: str | None) -> PolicyFault:
    return PolicyFault(placed.line, placed.column, placed.path, problem, hint)
