"""From policies to the bytes of their database, here or in a process of its own.

A compile takes hundreds of milliseconds, and an author's expression may take far longer or far
too much memory; in a worker either would stall every exchange.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Final

import hyperscan

from sidecar.domain.policy import Policy
from sidecar.guardrails.database import CompileError, compile_expressions
from sidecar.guardrails.policy_document import DEFAULT_POLICY_NAME, default_policy
from sidecar.guardrails.rules.catalogue import expressions_of
from sidecar.guardrails.rules.rule import Expression

COMPILE_SECONDS: Final = 90.0
"""Wall clock for the compiling process, whose own CPU limit is lower."""

_FAILED: Final = "the policies' expressions cannot be compiled together"


def policies_with_default(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """Return *policies*, and the built-in default where none of them is named so."""
    if any(policy.name == DEFAULT_POLICY_NAME for policy in policies):
        return tuple(policies)
    return (*policies, default_policy())


def expressions_with_default(policies: Sequence[Policy]) -> tuple[Expression, ...]:
    """Return what the database of *policies* is compiled from."""
    return expressions_of(policies_with_default(policies))


def compile_database(policies: Sequence[Policy]) -> bytes:
    """Compile the expressions of *policies* to bytes another process can load.

    Raises:
        CompileError: an expression cannot be compiled.
    """
    try:
        return compile_expressions(expressions_with_default(policies))
    except hyperscan.error:
        raise CompileError(_FAILED) from None


async def compile_in_subprocess(policies: Sequence[Policy]) -> bytes:
    """Return what `compile_database` returns, without holding up this process.

    A fresh interpreter, not a fork: gRPC's threads do not survive one.

    Raises:
        CompileError: an expression cannot be compiled, or not within the limits.
    """
    request = json.dumps(
        [
            (expression.regex, expression.unicode, expression.counted)
            for expression in expressions_with_default(policies)
        ]
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sidecar.guardrails.compile_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(COMPILE_SECONDS):
            database, _ = await process.communicate(request.encode())
    except TimeoutError:
        raise CompileError(f"not compiled within {COMPILE_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CompileError(_FAILED)
    return database
