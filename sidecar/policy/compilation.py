"""Compiles policies, and checks their expressions, in child processes with limits.

Hyperscan may take minutes and gigabytes for an expression of a few characters, and cannot be
interrupted. So it only ever compiles in a process of its own: `python -m` of this module, either
policies one by one, or an author's expressions.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import pickle
import resource
import signal
import stat
import sys
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

import hyperscan
import re2

from sidecar import __version__
from sidecar.domain.policy import Policy
from sidecar.guardrails.detectors.prompt_injection.scoring import shipped_scorer
from sidecar.guardrails.matching.database import (
    CompileError,
    compile_expressions,
    expression_problem,
)
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.registry import (
    CORE,
    core_database,
    expressions_beside_core,
    rules_in_turn,
)
from sidecar.policy.parse import (
    PlacedExpression,
    PolicyDocumentError,
    PolicyFault,
    parse_policies,
)

MAX_COMPILE_BYTES: Final = 2 * 1024**3
MAX_CPU_SECONDS: Final = 120
"""CPU time to compile one policy; a command that applies policies allows half of it, so that
policies it accepts can be compiled on a slower machine."""
COMPILE_SECONDS: Final = 600.0
"""Wall clock for one policy, for which the CPU limit is lower: the priority may be low."""
NICENESS: Final = 5
"""Of a process that compiles while requests are served, since every worker of a host does so at
the same time; but a policy must come into force on a busy host as well: this still is a third of
an equal share."""

MAX_SECONDS_EACH: Final = 3.0
"""CPU time to check one expression; a usual one takes milliseconds."""
MAX_CHECK_SECONDS: Final = 600
MAX_LOST: Final = 10
"""Processes lost to expressions before the rest goes unchecked: nothing is applied by then."""

MAX_NAMES: Final = 4_096
"""Names of files that are kept: one change among thousands of documents hashes no other anew."""

_LOCK_POLL_SECONDS: Final = 0.02
_OWN_ONLY: Final = 0o600
_DIGEST_BYTES: Final = 32
_LENGTH_BYTES: Final = 8
_UNFINISHED: Final = ".new"

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

Advance = Callable[[int], None]
"""Receives the number of expressions checked so far."""


class CheckFailedError(Exception):
    """The checking process ended for a reason of its own."""


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy, and the databases of those of its expressions that `core_database` has not."""

    policy: Policy
    databases: tuple[tuple[tuple[Expression, ...], bytes], ...] = field(default=(), repr=False)


_compile: Final = lru_cache(maxsize=64)(compile_expressions)
"""Policies with the same expressions are compiled once."""


def compile_policy(policy: Policy) -> CompiledPolicy:
    """Compile the expressions of *policy* to bytes another process can load.

    Raises:
        CompileError: one of them cannot be compiled.
    """
    try:
        for one in policy.guardrails:
            for rule in rules_in_turn(one.settings):
                _ = rule.pattern
        every = expressions_beside_core(policy.guardrails)
        return CompiledPolicy(policy, tuple((one, _compile(one)) for one in every))
    except (hyperscan.error, re2.error):
        raise CompileError("the policies' expressions cannot be compiled together") from None


async def compile_each(
    documents: Iterable[str],
    *,
    directory: Path | None = None,
    cpu_seconds: int = MAX_CPU_SECONDS,
    gives_way: bool = False,
) -> AsyncGenerator[CompiledPolicy]:
    """Yield the policy of each of *documents*, of which the next is taken when one is done.

    Blocks neither this process nor, if it *gives_way*, others. Processes that share *directory*,
    theirs alone, compile each document once.

    Raises:
        CompileError: it cannot be parsed or compiled, or not within the limits.
    """
    async with AsyncExitStack() as stack:
        process: asyncio.subprocess.Process | None = None
        for document in documents:

            async def make(document: str = document) -> bytes:
                nonlocal process
                if process is None:  # not for documents that others have compiled
                    niceness = NICENESS if gives_way else 0
                    child = _child("compile", __version__, str(cpu_seconds), str(niceness))
                    process = await stack.enter_async_context(child)
                return await _answer(process, document)

            if directory is None:
                answer = await make()
            else:
                answer = await _made_once(directory / "policies", document, make)
            yield CompiledPolicy(*pickle.loads(answer))  # noqa: S301 - of a process of our own


async def _answer(process: asyncio.subprocess.Process, document: str) -> bytes:
    """Have the child *process* compile a document."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    try:
        async with asyncio.timeout(COMPILE_SECONDS):
            with suppress(ConnectionError):  # it has ended, and its exit code says why
                process.stdin.write(json.dumps(document).encode() + b"\n")
                await process.stdin.drain()
            length = int.from_bytes(await process.stdout.readexactly(_LENGTH_BYTES))
            return await process.stdout.readexactly(length)
    except TimeoutError:
        raise CompileError(f"not compiled within {COMPILE_SECONDS:.0f} s") from None
    except asyncio.IncompleteReadError:
        pass
    match await process.wait():
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


async def compile_in_subprocess(
    documents: Iterable[str], *, cpu_seconds: int = MAX_CPU_SECONDS
) -> tuple[CompiledPolicy, ...]:
    """Compile all of *documents*, as `compile_each` does."""
    async with aclosing(compile_each(documents, cpu_seconds=cpu_seconds)) as every:
        return tuple([one async for one in every])


async def compile_shipped(directory: Path) -> None:
    """Load the databases that all policies share; one process of *directory* compiles them.

    These are `core_database` and the terms of `prompt_injection`.
    """

    async def make_core() -> bytes:
        # Hyperscan compiles without the interpreter's lock.
        return await asyncio.to_thread(compile_expressions, tuple(CORE))

    async def make_terms() -> bytes:
        return (await asyncio.to_thread(shipped_scorer)).search.dump()

    core_database(await _made_once(directory / "core", (), make_core))
    shipped_scorer(await _made_once(directory / "terms", (), make_terms))


async def _made_once(
    directory: Path, content: Hashable, make: Callable[[], Awaitable[bytes]]
) -> bytes:
    """Return the answer of *make* for *content*; one process of *directory* runs it for all.

    The first one takes a lock; the others wait for its file. The kernel releases the lock of a
    process that dies. Where no file can be written or locked, each makes its own.
    """
    file = directory / _file_name(content)
    try:
        await asyncio.to_thread(directory.mkdir, 0o700, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWN_ONLY)
    except OSError:
        return await make()
    try:
        is_locked = False
        while True:
            answer = await asyncio.to_thread(_read_shared, file)
            if answer is not None:
                return answer
            if is_locked:
                answer = await make()
                with suppress(OSError):
                    await asyncio.to_thread(_write_shared, file, answer)
                return answer
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_locked = True  # others may have written the file before
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_SECONDS)
            except OSError:  # a file system without locks
                return await make()
    finally:
        os.close(lock)


@lru_cache(maxsize=MAX_NAMES)
def _file_name(content: Hashable) -> str:
    return hashlib.sha256(json.dumps([__version__, content]).encode()).hexdigest()


def keep_compiled(directory: Path, documents: Iterable[str]) -> None:
    """Remove the files of *directory* of all but these documents."""
    kept = {"lock", *map(_file_name, documents)}
    with suppress(OSError):
        for file in (directory / "policies").iterdir():
            if file.name not in kept and file.suffix != _UNFINISHED:
                file.unlink()


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
    """Write *answer* and its digest to *file*, in place of one that could not be read."""
    written = file.with_suffix(_UNFINISHED)
    written.unlink(missing_ok=True)  # of a process that was killed
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWN_ONLY), "wb") as out:
        out.write(hashlib.sha256(answer).digest() + answer)
    written.replace(file)


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
        async with _child("check") as process:
            assert process.stdin is not None  # noqa: S101 - both are pipes
            assert process.stdout is not None  # noqa: S101
            process.stdin.write(json.dumps([one.regex for one in placed[done:]]).encode())
            process.stdin.close()
            async for line in process.stdout:
                if (problem := json.loads(line)) is not None:
                    one = placed[done]
                    faults.append(PolicyFault(one.line, one.column, one.path, problem))
                done += 1
                advance(done)
            code = await process.wait()
        if code > 0 or (code == 0 and done < len(placed)):
            raise CheckFailedError("the process that checks expressions failed")
        if done < len(placed):  # the process was killed over this one
            one = placed[done]
            faults.append(PolicyFault(one.line, one.column, one.path, _TOO_COSTLY, _COSTLY_HINT))
            done, lost = done + 1, lost + 1
    return tuple(faults)


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
        assert process.stdin is not None  # noqa: S101 - a pipe
        process.stdin.close()
        await process.communicate()  # up to the ends of its pipes


def main() -> None:
    """Run in the child: `compile VERSION CPU_SECONDS NICENESS` or `check`, with JSON as input.

    To compile, each line is a document; each answer comes behind its length.
    """
    match sys.argv[1:]:
        case ["compile", caller, cpu_seconds, niceness]:
            if caller != __version__:  # which could not read the answer
                sys.exit(_OTHER_VERSION)
            os.nice(int(niceness))
            for line in sys.stdin.buffer:
                _limit(int(cpu_seconds))
                try:
                    policy = parse_policies(json.loads(line), expressions="trust")[0]
                    compiled = compile_policy(policy)
                    answer = pickle.dumps((compiled.policy, compiled.databases))
                except CompileError:
                    sys.exit(_CANNOT_COMPILE)
                except PolicyDocumentError:
                    sys.exit(_CANNOT_READ)
                except MemoryError:
                    sys.exit(_NO_MEMORY)
                sys.stdout.buffer.write(len(answer).to_bytes(_LENGTH_BYTES) + answer)
                sys.stdout.flush()
        case ["check"]:
            _limit(MAX_CHECK_SECONDS)
            for regex in json.load(sys.stdin.buffer):
                signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS_EACH)
                problem = json.dumps(expression_problem(regex))
                signal.setitimer(signal.ITIMER_PROF, 0)
                sys.stdout.write(f"{problem}\n")
                sys.stdout.flush()
        case _:
            sys.exit("usage: compile VERSION CPU_SECONDS NICENESS | check")


def _limit(cpu_seconds: int) -> None:
    """Bound this process from now on, however much an expression expands."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_COMPILE_BYTES, MAX_COMPILE_BYTES))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(time.process_time()) + cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until if most < 0 else min(until, most), most))


if __name__ == "__main__":
    main()
