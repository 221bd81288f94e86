"""Compiles policies in a child process, and checks their expressions."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import hyperscan

from sidecar.domain.policy import Policy
from sidecar.guardrails.matching.database import CompileError, compile_expressions
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.registry import expressions_of
from sidecar.policy.parse import DEFAULT_POLICY_NAME, default_policy

MAX_CPU_SECONDS: Final = 120
"""CPU time of the compiling process; a command that applies policies allows half of it, so that
what was applied can be compiled on a slower machine."""

COMPILE_SECONDS: Final = 600.0
"""Wall clock for the compiling process, whose CPU limit is lower; it may give way to others."""

NICENESS: Final = 5
"""Of a process that compiles while requests are served, since every worker of a host does so at
the same time; but a policy must come into force on a busy host as well: this still is a third of
an equal share."""

VersionedDocument = tuple[str, int]
"""The text of one policy that was checked when it was applied, and its version."""


@dataclass(frozen=True, slots=True)
class CompiledPolicies:
    """Policies, and the database of their expressions for `PolicySnapshot`."""

    policies: tuple[Policy, ...]
    database: bytes = field(repr=False)


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
        raise CompileError("the policies' expressions cannot be compiled together") from None


async def compile_in_subprocess(
    documents: Sequence[VersionedDocument],
    *,
    cpu_seconds: int = MAX_CPU_SECONDS,
    gives_way: bool = False,
) -> CompiledPolicies:
    """Read and compile *documents* without holding up this process, or others if it *gives_way*.

    A fresh interpreter, not a fork: gRPC's threads do not survive one.

    Raises:
        CompileError: they cannot be read or compiled, or not within the limits.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sidecar.policy.compile_process",
        str(cpu_seconds),
        str(NICENESS if gives_way else 0),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(COMPILE_SECONDS):
            answer, _ = await process.communicate(json.dumps(documents).encode())
    except TimeoutError:
        raise CompileError(f"not compiled within {COMPILE_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CompileError(failure_reason(process.returncode))
    return unpacked(answer)


def packed(policies: Sequence[Policy], database: bytes) -> bytes:
    """Return what the compiling process answers."""
    return pickle.dumps(tuple(policies)) + database


def unpacked(answer: bytes) -> CompiledPolicies:
    """Read what `packed` made; only ever from a process that this one has started."""
    stream = io.BytesIO(answer)
    policies: tuple[Policy, ...] = pickle.load(stream)  # noqa: S301 - our own process, over a pipe
    return CompiledPolicies(policies, stream.read())


def failure_reason(code: int | None) -> str:
    """Say why the compiling process ended with *code*."""
    match code:
        case _ if code == -signal.SIGXCPU:
            return "the policies' expressions take more CPU time to compile than is allowed"
        case 1:
            return "the policies' expressions cannot be compiled together"
        case 2:
            return "the policies cannot be read"
        case _:
            return "the policies' expressions take more memory to compile than is allowed"
