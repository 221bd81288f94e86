"""Entry point of the checking child process: expressions in, problems out."""

from __future__ import annotations

import json
import signal
import sys
from typing import Final

from sidecar.guardrails.matching.database import expression_problem
from sidecar.policy.compile_process import limit

MAX_SECONDS_EACH: Final = 3.0
"""CPU time for one expression; a usual one takes milliseconds."""
MAX_SECONDS: Final = 600


def main() -> None:
    """Read a JSON array of expressions; write what is wrong with each, or null."""
    limit(MAX_SECONDS)
    for regex in json.load(sys.stdin.buffer):
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS_EACH)
        answer = json.dumps(expression_problem(regex))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
