"""A load on an address, and its result, whichever program makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr

OPEN_LOOP_CONNECTIONS: Final = 200
"""Requests an open loop may have under way at once; more are dropped, and counted."""

PERCENTILES: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
"""Of latencies, for who draws how they are spread."""


class LoadError(Exception):
    """The program that makes the load failed; nothing was measured."""


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of `connections`, or `rate` requests a second whatever the answers do."""

    name: str
    connections: int
    rate: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes."""

    url: str
    key: SecretStr
    body: Path
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """Result of a load.

    Latencies in milliseconds, from request sent to answer received, without connecting. `dropped`
    are requests of an open loop for which no connection was free. `refused` are those of the
    errors that were turned away with a time to come back; `admitted_p99_ms` is of the answers.
    `quantiles_ms` are latencies by percent, as many as were asked for.
    """

    requests: int
    seconds: float
    errors: int
    dropped: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    refused: int = 0
    admitted_p99_ms: float = 0.0
    quantiles_ms: Mapping[float, float] = field(default_factory=dict)

    @property
    def rps(self) -> float:
        """Answered requests a second."""
        return (self.requests - self.errors) / self.seconds
