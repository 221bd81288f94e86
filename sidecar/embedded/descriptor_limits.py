"""Limits that Envoy keeps by itself, on what Egret tells of a request."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

METADATA_NAMESPACE: Final = "egret"


class Hits(enum.Enum):
    """What a request takes of a limit that Envoy keeps."""

    REQUESTS = "requests"
    ESTIMATED_TOKENS = "estimated_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorLimit:
    """A limit that each Envoy keeps by itself, on what Egret tells of a request.

    `by` are names in Egret's dynamic metadata; each combination of their values has `amount` in
    `seconds`. A request that lacks one of them is not counted.
    """

    by: tuple[str, ...]
    amount: int
    seconds: int
    hits: Hits = Hits.REQUESTS

    @property
    def as_rate_limit(self) -> dict[str, object]:
        """Where its descriptor is from, as Envoy writes it."""
        actions = [
            {
                "metadata": {
                    "descriptor_key": name,
                    "metadata_key": {"key": METADATA_NAMESPACE, "path": [{"key": name}]},
                    "source": "DYNAMIC",
                }
            }
            for name in self.by
        ]
        if self.hits is Hits.REQUESTS:
            return {"actions": actions}
        source = f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:{self.hits.value})%"
        return {"actions": actions, "hits_addend": {"format": source}}

    @property
    def as_descriptor(self) -> dict[str, object]:
        """How much it lets through for each descriptor, as Envoy writes it."""
        return {
            "entries": [{"key": name} for name in self.by],
            "token_bucket": {
                "max_tokens": self.amount,
                "tokens_per_fill": self.amount,
                "fill_interval": f"{self.seconds}s",
            },
        }
