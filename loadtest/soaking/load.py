"""The soak's mix of requests, sent by k6, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.k6 import run_k6
from loadtest.load import Load, LoadError
from loadtest.soaking.stack import SoakStack

SCRIPT: Final = Path(__file__).with_name("soak.js")
OUTCOMES: Final = ("answered", "refused", "aborted", "bad")
STRANGERS: Final = "unknown_key"
"""The kind of requests whose key nobody knows, and of which no usage is recorded."""
SECRET_TEXT: Final = f"sk-ant-api03-{'A1b2' * 23}AA-xyzxyzAA"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many requests of each kind came to what, and how long they took.

    `dropped` are those of an open loop for which no connection was free.
    """

    by_kind: Mapping[str, Mapping[str, int]]
    dropped: int
    seconds: float
    p50_ms: float
    p99_ms: float

    def total(self, *outcomes: str, strangers: bool = True) -> int:
        """Return how many came to one of *outcomes*."""
        return sum(
            counts[outcome]
            for kind, counts in self.by_kind.items()
            for outcome in outcomes
            if strangers or kind != STRANGERS
        )

    @property
    def requests(self) -> int:
        """All that were sent."""
        return self.total(*OUTCOMES)

    @property
    def rps(self) -> float:
        """Requests a second that came to what they should."""
        return (self.requests - self.total("bad")) / self.seconds


async def put_mix(
    load: Load, stack: SoakStack, *, body: Path, seconds: float, scratch: Path
) -> Outcome:
    """Send the mix for so long.

    Raises:
        LoadError: k6 failed, or made no request.
    """
    environment = {
        "URL": stack.facts.url,
        "KEYS": json.dumps(dict(stack.keys)),
        "BODY_FILE": str(body),
        "SECRET_TEXT": SECRET_TEXT,
    }
    summary = await run_k6(SCRIPT, load, environment, seconds=seconds, scratch=scratch)
    return read_outcome(summary, seconds=seconds)


def read_outcome(summary: Mapping[str, Any], *, seconds: float) -> Outcome:
    """Read the object k6 hands to `handleSummary`. A counter that never came up is not in it.

    Raises:
        LoadError: not one request was made.
    """
    metrics = summary["metrics"]
    by_kind: dict[str, dict[str, int]] = {}
    for name, metric in metrics.items():
        kind, _, outcome = name.rpartition("_")
        if kind and outcome in OUTCOMES:
            counts = by_kind.setdefault(kind, dict.fromkeys(OUTCOMES, 0))
            counts[outcome] = int(metric["values"]["count"])
    if not by_kind:
        raise LoadError("k6 made no request")
    latency = metrics["http_req_duration"]["values"]
    dropped = metrics.get("dropped_iterations", {"values": {"count": 0}})
    return Outcome(
        by_kind=dict(sorted(by_kind.items())),
        dropped=int(dropped["values"]["count"]),
        seconds=seconds,
        p50_ms=latency["med"],
        p99_ms=latency["p(99)"],
    )
