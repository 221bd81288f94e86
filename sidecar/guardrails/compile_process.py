"""Compiling in a process of its own: `python -m` this module, expressions in, database out.

A compile takes hundreds of milliseconds, and an author's expression may take far longer or far
too much memory. In a worker either would stall every exchange.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Sequence
from typing import Final

import hyperscan

from sidecar.domain.policy import Policy
from sidecar.guardrails.database import CompileError, compile_expressions, expressions_with_default
from sidecar.guardrails.rules.rule import Expression

MAX_COMPILE_SECONDS: Final = 60
MAX_COMPILE_BYTES: Final = 2 * 1024**3


async def compile_in_subprocess(policies: Sequence[Policy]) -> bytes:
    """Return what `compile_database` returns, without holding up this process.

    Raises:
        CompileError: an expression cannot be compiled, or not within the limits.
    """
    request = json.dumps(
        [
            [expression.regex, expression.unicode]
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
        async with asyncio.timeout(MAX_COMPILE_SECONDS):
            database, _ = await process.communicate(request.encode())
    except TimeoutError:
        raise CompileError(f"not compiled within {MAX_COMPILE_SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CompileError("the policies' expressions cannot be compiled together")
    return database


def main() -> None:
    """Read expressions as JSON from standard input, write the database to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_COMPILE_BYTES, MAX_COMPILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_COMPILE_SECONDS, MAX_COMPILE_SECONDS))
    expressions = tuple(
        Expression(regex, unicode=unicode) for regex, unicode in json.load(sys.stdin.buffer)
    )
    try:
        sys.stdout.buffer.write(compile_expressions(expressions))
    except hyperscan.error:
        sys.exit(1)


if __name__ == "__main__":
    main()
