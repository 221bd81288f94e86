"""How limits stand, in the headers that client libraries read.

OpenAI's are described in its guide on rate limits (`x-ratelimit-*`, resets as `1m30s`),
Anthropic's in its page on rate limits (`anthropic-ratelimit-*`, resets as RFC 3339 times).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from sidecar.domain.http import Headers
from sidecar.domain.limits import Measure, Standing
from sidecar.domain.subject import Dialect

_OPENAI: Final = {
    Measure.REQUESTS: "requests",
    Measure.TOKENS: "tokens",
    Measure.INPUT_TOKENS: "tokens",
    Measure.OUTPUT_TOKENS: "tokens",
}
_ANTHROPIC: Final = {
    Measure.REQUESTS: "requests",
    Measure.TOKENS: "tokens",
    Measure.INPUT_TOKENS: "input-tokens",
    Measure.OUTPUT_TOKENS: "output-tokens",
}

_OURS: Final = re.compile(r"(?:x-ratelimit|anthropic-ratelimit|x-egret)-[a-z0-9-]+")
"""As Envoy's `mutation_rules` allow: to remove another name would fail the answer."""


def foreign_headers(answer: Headers) -> tuple[str, ...]:
    """Return the names in a provider's *answer* that are ours to write, to be removed.

    A provider counts for the account that all our clients share: what is left of it says what
    others use, and beside our own numbers a client could not tell which are whose.
    """
    return tuple(dict.fromkeys(name for name, _ in answer.fields if _OURS.fullmatch(name)))


def limit_headers(
    dialect: Dialect, standings: Iterable[Standing], *, now: float
) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of *dialect*; of several limits on one measure, the tightest.

    *now* is in seconds since the epoch. Dialects without such headers get none.
    """
    match dialect:
        case Dialect.OPENAI | Dialect.AZURE_OPENAI:
            return tuple(
                header
                for name, standing in _tightest(standings, _OPENAI).items()
                for header in (
                    (f"x-ratelimit-limit-{name}", _number(standing.limit.amount)),
                    (f"x-ratelimit-remaining-{name}", _number(standing.remaining)),
                    (f"x-ratelimit-reset-{name}", _duration(standing.reset_seconds)),
                )
            )
        case Dialect.ANTHROPIC:
            return tuple(
                header
                for name, standing in _tightest(standings, _ANTHROPIC).items()
                for header in (
                    (f"anthropic-ratelimit-{name}-limit", _number(standing.limit.amount)),
                    (f"anthropic-ratelimit-{name}-remaining", _number(standing.remaining)),
                    (f"anthropic-ratelimit-{name}-reset", _moment(now + standing.reset_seconds)),
                )
            )
        case _:
            return ()


def _tightest(standings: Iterable[Standing], names: dict[Measure, str]) -> dict[str, Standing]:
    found: dict[str, Standing] = {}
    for standing in standings:
        name = names.get(standing.limit.measure)
        if name is not None and (name not in found or standing.remaining < found[name].remaining):
            found[name] = standing
    return found


def _number(value: int) -> bytes:
    return str(value).encode()


def _duration(seconds: float) -> bytes:
    """Write as Go does, which is what OpenAI sends: `250ms`, `1s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms".encode()
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s".encode()
    return (f"{minutes}m{rest}s" if minutes else f"{rest}s").encode()


def _moment(at: float) -> bytes:
    return datetime.fromtimestamp(math.ceil(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
