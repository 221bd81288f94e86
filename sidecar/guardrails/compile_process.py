"""The compiling process: `python -m` this module, expressions in, database out."""

from __future__ import annotations

import json
import resource
import sys
from typing import Final

import hyperscan

from sidecar.guardrails.database import compile_expressions
from sidecar.guardrails.rules.rule import Expression

MAX_COMPILE_SECONDS: Final = 60
MAX_COMPILE_BYTES: Final = 2 * 1024**3


def main() -> None:
    """Read expressions as JSON from standard input, write the database to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_COMPILE_BYTES, MAX_COMPILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_COMPILE_SECONDS, MAX_COMPILE_SECONDS))
    expressions = tuple(
        Expression(regex, unicode=unicode, counted=counted)
        for regex, unicode, counted in json.load(sys.stdin.buffer)
    )
    try:
        sys.stdout.buffer.write(compile_expressions(expressions))
    except hyperscan.error:
        sys.exit(1)


if __name__ == "__main__":
    main()
