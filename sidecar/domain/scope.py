"""Which requests a guardrail is for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from sidecar.domain.subject import Operation

EVERYONE: Final = 10_000
"""All keys, in hundredths of a percent."""


class ExemptLevel(enum.Enum):
    """Who an exception is for."""

    KEY = "key"
    TEAM = "team"


@dataclass(frozen=True, slots=True)
class Exemption:
    """One key or team that a guardrail does not hold for, up to and with a day, and why.

    `name` is a key's public id, or a team's path `ORGANIZATION/TEAM`.
    """

    level: ExemptLevel
    name: str
    until: date
    reason: str

    @property
    def ends_at(self) -> float:
        """Seconds since the epoch from which the guardrail holds again: midnight, UTC."""
        last = datetime.combine(self.until, time(), tzinfo=UTC)
        return (last + timedelta(days=1)).timestamp()


@dataclass(frozen=True, slots=True)
class Scope:
    """The requests a guardrail holds for; all of them where nothing is set.

    `routes` are operations, `models` globs that match in any case. `rollout` is the share of
    keys, in hundredths of a percent.
    """

    routes: tuple[Operation, ...] | None = None
    models: tuple[str, ...] | None = None
    rollout: int = EVERYONE
    exceptions: tuple[Exemption, ...] = ()

    @property
    def depends_on_key(self) -> bool:
        """Tell whether two keys may differ in it."""
        return self.rollout < EVERYONE or bool(self.exceptions)

    @property
    def depends_on_headers(self) -> bool:
        """Tell whether it takes the key or the path, which are known before a body."""
        return self.depends_on_key or self.routes is not None


EVERYWHERE: Final = Scope()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Who asks for what, and when, as the headers tell.

    `operation` is None where the path is not known. `team` is `ORGANIZATION/TEAM`; `at` is in
    seconds since the epoch.
    """

    operation: Operation | None
    key_id: str
    team: str
    at: float
