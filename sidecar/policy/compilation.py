"""Compiles policies, and checks their expressions, in child processes with limits.

Hyperscan may take minutes and gigabytes for an expression of a few characters, and cannot be
interrupted. So it only ever compiles in a process of its own: `python -m` of this module, either
all policies of a worker into one database, or an author's expressions one by one.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import json
import os
import pickle
import resource
import signal
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import hyperscan

from sidecar import __version__
from sidecar.domain.policy import Policy
from sidecar.guardrails.detectors.prompt_injection.scoring import shipped_scorer
from sidecar.guardrails.matching.database import (
    CompileError,
    compile_expressions,
    expression_problem,
)
from sidecar.guardrails.registry import expressions_of
from sidecar.policy.parse import (
    DEFAULT_POLICY_NAME,
    PlacedExpression,
    PolicyDocumentError,
    PolicyFault,
    default_policy,
    parse_policies,
)

MAX_COMPILE_BYTES: Final = 2 * 1024**3
MAX_CPU_SECONDS: Final = 120
"""CPU time of the compiling process; a command that applies policies allows half of it, so that
policies it accepts can be compiled on a slower machine."""
COMPILE_SECONDS: Final = 600.0
"""Wall clock for the compiling process, whose CPU limit is lower: its priority may be low."""
NICENESS: Final = 5
"""Of a process that compiles while requests are served, since every worker of a host does so at
the same time; but a policy must come into force on a busy host as well: this still is a third of
an equal share."""

MAX_SECONDS_EACH: Final = 3.0
"""CPU time to check one expression; a usual one takes milliseconds."""
MAX_CHECK_SECONDS: Final = 600
MAX_LOST: Final = 10
"""Processes lost to expressions before the rest goes unchecked: nothing is applied by then."""

_LOCK_POLL_SECONDS: Final = 0.02
_OWN_ONLY: Final = 0o600
_DIGEST_BYTES: Final = 32

_FAILED: Final = 1
"""Python's own exit code for an error that nothing caught, such as a package that is missing."""
_CANNOT_READ: Final = 2
_CANNOT_COMPILE: Final = 3
_OTHER_VERSION: Final = 4
_NO_MEMORY: Final = 5
_TOO_COSTLY: Final = (
    f"takes more than {MAX_SECONDS_EACH:g} s of CPU time or {MAX_COMPILE_BYTES >> 30} GiB of "
    "memory to compile"
)
_COSTLY_HINT: Final = (
    "make its repeats shorter: bounded ones in each other, or of wide classes, multiply"
)

VersionedDocument = tuple[str, int]
"""The text of one policy that was checked when it was applied, and its version."""
Advance = Callable[[int], None]
"""Receives the number of expressions checked so far."""


class CheckFailedError(Exception):
    """The checking process ended for a reason of its own."""


@dataclass(frozen=True, slots=True)
class CompiledPolicies:
    """Policies, and the database of their expressions for `PolicySnapshot`."""

    policies: tuple[Policy, ...]
    database: bytes = field(repr=False)


def policies_with_default(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """Return *policies*, and the built-in default if none of them has its name."""
    if any(policy.name == DEFAULT_POLICY_NAME for policy in policies):
        return tuple(policies)
    return (*policies, default_policy())


def compile_database(policies: Sequence[Policy]) -> bytes:
    """Compile the expressions of *policies* to bytes another process can load.

    Raises:
        CompileError: an expression cannot be compiled.
    """
    try:
        return compile_expressions(expressions_of(policies_with_default(policies)))
    except hyperscan.error:
        raise CompileError("the policies' expressions cannot be compiled together") from None


async def compile_in_subprocess(
    documents: Sequence[VersionedDocument],
    *,
    cpu_seconds: int = MAX_CPU_SECONDS,
    gives_way: bool = False,
) -> CompiledPolicies:
    """Parse and compile *documents* without blocking this process, or others if it *gives_way*.

    Raises:
        CompileError: they cannot be parsed or compiled, or not within the limits.
    """
    return _unpacked(await _compile(documents, cpu_seconds, gives_way=gives_way))


async def compile_shared(
    directory: Path, documents: Sequence[VersionedDocument], *, gives_way: bool = False
) -> CompiledPolicies:
    """Compile *documents* once for all processes that share *directory*, theirs alone.

    Raises:
        CompileError: as `compile_in_subprocess` does.
    """

    async def make() -> bytes:
        return await _compile(documents, MAX_CPU_SECONDS, gives_way=gives_way)

    return _unpacked(await _made_once(directory / "policies", documents, make))


async def compile_terms_shared(directory: Path) -> None:
    """Have the terms of `prompt_injection` ready; one of those that share *directory* compiles."""

    async def make() -> bytes:
        # Hyperscan compiles without the interpreter's lock.
        return (await asyncio.to_thread(shipped_scorer)).search.dump()

    shipped_scorer(await _made_once(directory / "terms", (), make))


async def _made_once(
    directory: Path, content: object, make: Callable[[], Awaitable[bytes]]
) -> bytes:
    """Return what one process of those that share *directory* makes of *content*.

    The first one takes a lock; the others wait for its file. The kernel releases the lock of a
    process that dies. Where no file can be written or locked, each makes its own.
    """
    name = hashlib.sha256(json.dumps([__version__, content]).encode()).hexdigest()
    file = directory / name
    try:
        await asyncio.to_thread(directory.mkdir, 0o700, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWN_ONLY)
    except OSError:
        return await make()
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_SECONDS)
                continue
            except OSError:  # a file system without locks
                return await make()
            answer = await asyncio.to_thread(_read_shared, file)
            if answer is None:
                answer = await make()
                with suppress(OSError):
                    await asyncio.to_thread(_write_shared, file, answer)
            return answer
    finally:
        os.close(lock)


def _read_shared(file: Path) -> bytes | None:
    """Return the answer of another process, None if there is none, or none of this user's own."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
            found = os.fstat(stream.fileno())
            held = stream.read()
    except OSError:
        return None
    is_own = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == _OWN_ONLY
    digest, answer = held[:_DIGEST_BYTES], held[_DIGEST_BYTES:]
    return answer if is_own and hashlib.sha256(answer).digest() == digest else None


def _write_shared(file: Path, answer: bytes) -> None:
    """Replace the files that were made earlier by one with *answer* and its digest."""
    for earlier in file.parent.iterdir():
        if earlier.name != "lock":
            earlier.unlink()
    written = file.with_suffix(".new")
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWN_ONLY), "wb") as out:
        out.write(hashlib.sha256(answer).digest() + answer)
    written.replace(file)


def _unpacked(answer: bytes) -> CompiledPolicies:
    stream = io.BytesIO(answer)
    policies: tuple[Policy, ...] = pickle.load(stream)  # noqa: S301 - of a process of our own
    return CompiledPolicies(policies, stream.read())


async def _compile(
    documents: Sequence[VersionedDocument], cpu_seconds: int, *, gives_way: bool
) -> bytes:
    niceness = NICENESS if gives_way else 0
    async with _child("compile", __version__, str(cpu_seconds), str(niceness)) as process:
        try:
            async with asyncio.timeout(COMPILE_SECONDS):
                answer, _ = await process.communicate(json.dumps(documents).encode())
        except TimeoutError:
            raise CompileError(f"not compiled within {COMPILE_SECONDS:.0f} s") from None
    match process.returncode:
        case 0:
            return answer
        case code if code == -signal.SIGXCPU:
            problem = "take more CPU time to compile than is allowed"
        case code if code == _CANNOT_COMPILE:
            problem = "cannot be compiled together"
        case code if code == _CANNOT_READ:
            raise CompileError("the policies cannot be read")
        case code if code in {_FAILED, _OTHER_VERSION}:
            raise CompileError(
                "the process that compiles policies failed; if Egret was upgraded beneath this"
                " process, restart it"
            )
        case _:
            problem = "take more memory to compile than is allowed"
    raise CompileError(f"the policies' expressions {problem}")


async def expression_faults(
    placed: Sequence[PlacedExpression], *, advance: Advance
) -> tuple[PolicyFault, ...]:
    """Return the faults of expressions, each with its place.

    Raises:
        CheckFailedError: the checking process failed, so their faults are unknown.
    """
    faults: list[PolicyFault] = []
    done, lost = 0, 0
    while done < len(placed) and lost < MAX_LOST:
        async with aclosing(_problems(placed[done:])) as problems:
            async for problem in problems:
                if problem is not None:
                    one = placed[done]
                    faults.append(PolicyFault(one.line, one.column, one.path, problem))
                done += 1
                advance(done)
        if done < len(placed):  # the process was killed over this one
            one = placed[done]
            faults.append(PolicyFault(one.line, one.column, one.path, _TOO_COSTLY, _COSTLY_HINT))
            done, lost = done + 1, lost + 1
    return tuple(faults)


async def _problems(placed: Sequence[PlacedExpression]) -> AsyncGenerator[str | None]:
    """Yield the problem of each expression, up to the one that ends the process."""
    checked = 0
    async with _child("check") as process:
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(json.dumps([one.regex for one in placed]).encode())
        process.stdin.close()
        async for line in process.stdout:
            checked += 1
            yield json.loads(line)
        code = await process.wait()
    if code > 0 or (code == 0 and checked < len(placed)):
        raise CheckFailedError("the process that checks expressions failed")


@asynccontextmanager
async def _child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a fresh interpreter (gRPC's threads do not survive a fork); kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sidecar.policy.compilation",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main() -> None:
    """Run in the child: `compile VERSION CPU_SECONDS NICENESS` or `check`, with JSON as input."""
    match sys.argv[1:]:
        case ["compile", caller, cpu_seconds, niceness]:
            if caller != __version__:  # which could not read the answer
                sys.exit(_OTHER_VERSION)
            os.nice(int(niceness))
            _limit(int(cpu_seconds))
            try:
                policies = [
                    policy
                    for document, version in json.load(sys.stdin.buffer)
                    for policy in parse_policies(document, version=version, expressions="trust")
                ]
                database = compile_database(policies)
            except CompileError:
                sys.exit(_CANNOT_COMPILE)
            except PolicyDocumentError:
                sys.exit(_CANNOT_READ)
            except MemoryError:
                sys.exit(_NO_MEMORY)
            sys.stdout.buffer.write(pickle.dumps(tuple(policies)) + database)
        case ["check"]:
            _limit(MAX_CHECK_SECONDS)
            for regex in json.load(sys.stdin.buffer):
                signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS_EACH)
                answer = json.dumps(expression_problem(regex))
                signal.setitimer(signal.ITIMER_PROF, 0)
                sys.stdout.write(f"{answer}\n")
                sys.stdout.flush()
        case _:
            sys.exit("usage: compile VERSION CPU_SECONDS NICENESS | check")


def _limit(cpu_seconds: int) -> None:
    """Bound this process, however much an expression expands."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_COMPILE_BYTES, MAX_COMPILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))


if __name__ == "__main__":
    main()
