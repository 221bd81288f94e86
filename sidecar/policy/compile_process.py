"""Entry point of the compiling child process: documents in, database out."""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Final

from sidecar.guardrails.matching.database import CompileError
from sidecar.policy.compilation import compile_database, packed
from sidecar.policy.parse import PolicyDocumentError, parse_policies

MAX_COMPILE_BYTES: Final = 2 * 1024**3


def main() -> None:
    """Read documents as JSON from standard input; exit with 1 or 2 where nothing comes of them.

    The arguments are the CPU time allowed, in seconds, and how far to give way to others.
    """
    cpu_seconds, niceness = (int(one) for one in sys.argv[1:])
    os.nice(niceness)
    limit(cpu_seconds)
    try:
        policies = [
            policy
            for document, version in json.load(sys.stdin.buffer)
            for policy in parse_policies(document, version=version, expressions="trust")
        ]
        sys.stdout.buffer.write(packed(policies, compile_database(policies)))
    except CompileError:
        sys.exit(1)
    except PolicyDocumentError:
        sys.exit(2)


def limit(cpu_seconds: int) -> None:
    """Let this process use no more than so much, whatever an expression explodes to."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_COMPILE_BYTES, MAX_COMPILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))


if __name__ == "__main__":
    main()
