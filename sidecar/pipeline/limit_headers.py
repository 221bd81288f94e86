"""Writes the state of limits into the headers that client libraries read.

OpenAI's are described in its guide on rate limits (`x-ratelimit-*`, resets as `1m30s`),
Anthropic's in its page on rate limits (`anthropic-ratelimit-*`, resets as RFC 3339 times).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, assert_never

from sidecar.domain.http import Headers
from sidecar.domain.limits import LimitStatus, Measure
from sidecar.domain.subject import Dialect

_OURS: Final = re.compile(r"(?:x-ratelimit|anthropic-ratelimit|x-egret)-[a-z0-9-]+")
"""As Envoy's `mutation_rules` allow: to remove another name would fail the answer."""


def foreign_headers(answer: Headers) -> tuple[str, ...]:
    """Return the names in a provider's *answer* that are ours to write, to be removed.

    A provider counts for the account that all our clients share: its remainder shows the use of
    others, and a client could not distinguish its numbers from ours.
    """
    return tuple(dict.fromkeys(name for name, _ in answer.fields if _OURS.fullmatch(name)))


def limit_headers(
    dialect: Dialect, standings: Iterable[LimitStatus], *, now: float
) -> list[tuple[str, str]]:
    """Return the headers of *dialect*; of several limits on one measure, the tightest.

    *now* is in seconds since the epoch. Dialects without such headers get none.
    """
    match dialect:
        case Dialect.OPENAI | Dialect.AZURE_OPENAI:
            return _of_openai(_tightest(standings, _openai_name))
        case Dialect.ANTHROPIC:
            return _of_anthropic(_tightest(standings, _anthropic_name), now=now)
        case Dialect.GEMINI | Dialect.BEDROCK:
            return []
        case _:
            assert_never(dialect)


def _of_openai(tightest: Mapping[str, LimitStatus]) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for name, one in tightest.items():
        headers += (
            (f"x-ratelimit-limit-{name}", str(one.limit.amount)),
            (f"x-ratelimit-remaining-{name}", str(one.remaining)),
            (f"x-ratelimit-reset-{name}", _duration(one.reset_seconds)),
        )
    return headers


def _of_anthropic(tightest: Mapping[str, LimitStatus], *, now: float) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for name, one in tightest.items():
        headers += (
            (f"anthropic-ratelimit-{name}-limit", str(one.limit.amount)),
            (f"anthropic-ratelimit-{name}-remaining", str(one.remaining)),
            (f"anthropic-ratelimit-{name}-reset", _moment(now + one.reset_seconds)),
        )
    return headers


def _openai_name(measure: Measure) -> str | None:
    match measure:
        case Measure.REQUESTS:
            return "requests"
        case Measure.TOKENS | Measure.INPUT_TOKENS | Measure.OUTPUT_TOKENS:
            return "tokens"
        case _:
            return None


def _anthropic_name(measure: Measure) -> str | None:
    match measure:
        case Measure.REQUESTS:
            return "requests"
        case Measure.TOKENS:
            return "tokens"
        case Measure.INPUT_TOKENS:
            return "input-tokens"
        case Measure.OUTPUT_TOKENS:
            return "output-tokens"
        case _:
            return None


def _tightest(
    standings: Iterable[LimitStatus], name_of: Callable[[Measure], str | None]
) -> dict[str, LimitStatus]:
    found: dict[str, LimitStatus] = {}
    for standing in standings:
        name = name_of(standing.limit.measure)
        if name is not None and (name not in found or standing.remaining < found[name].remaining):
            found[name] = standing
    return found


def _duration(seconds: float) -> str:
    """Write a duration as Go and OpenAI do: `250ms`, `1s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(math.ceil(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
