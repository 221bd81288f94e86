"""How often a cache of the default size has the key, if a few keys are asked for most."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.keys.stack import SEED, bench_key
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.keys.cache import Hit, KeyCache
from sidecar.keys.ports import Loaded

ZIPF_EXPONENT: Final = 1.1
ZIPF_DRAWS: Final = 200_000


@dataclass(frozen=True, slots=True)
class InMemory:
    """A store that answers at once: the hit rate does not depend on how long one takes."""

    async def load(self, key_id: str) -> Loaded:
        """Return a key that may do everything."""
        principal = Principal(key_id, "", "", "", "")
        return Loaded(
            KeyRecord(
                principal=principal, secret_sha256=bench_key(key_id).secret_sha256,
                enabled=True, team_enabled=True, organization_enabled=True,
                not_before=None, expires_at=None, revoked_at=None,
                allowed_models=None, policies=PolicyBinding(),
            )
        )  # fmt: skip


async def hit_rate(ids: Sequence[str]) -> float:
    """Return the share of hits of a cache that is full, with time standing still."""
    drawn = random.Random(SEED)  # noqa: S311 - must be the same in every run
    weights = itertools.accumulate(rank**-ZIPF_EXPONENT for rank in range(1, len(ids) + 1))
    asked = drawn.choices(ids, cum_weights=list(weights), k=2 * ZIPF_DRAWS)
    cache, hits = KeyCache(InMemory()), 0
    for number, key_id in enumerate(asked):
        if isinstance(cache.peek(key_id, now=0.0), Hit):
            hits += number >= ZIPF_DRAWS
        else:
            await cache.load(key_id, now=lambda: 0.0)
    return hits / ZIPF_DRAWS
