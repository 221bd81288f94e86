"""What every exchange of a worker shares; built once, passed down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.authorization.key_cache import KeyCache
from sidecar.checks.ledger import Clocks
from sidecar.guardrails.inspect import Inspector
from sidecar.guardrails.snapshot import PolicySnapshot
from sidecar.settings import Timing
from sidecar.telemetry.recorder import Recorder
from sidecar.usage.ports import UsageNotes


class PolicySource(Protocol):
    """Where the policies in force come from."""

    @property
    def snapshot(self) -> PolicySnapshot | None:
        """The policies in force now; None while none could be loaded yet."""
        ...


class KeyUses(Protocol):
    """Where it is noted that a key was used."""

    def note(self, key_id: str, *, refused: bool, at: float) -> None:
        """Note one use at *at*, seconds since the epoch. Must not wait and does not raise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The shared parts of a worker. `redaction_key` is what hashes of values are made with."""

    keys: KeyCache
    uses: KeyUses
    usage: UsageNotes
    policies: PolicySource
    inspector: Inspector
    recorder: Recorder
    clocks: Clocks
    new_request_id: Callable[[], str]
    timing: Timing
    redaction_key: bytes | None = field(default=None, repr=False)
