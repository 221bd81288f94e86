"""What a worker does when it hears of a change: the one place that both caches hear of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.authorization.fences import ANY_KEY
from sidecar.authorization.key_cache import KeyCache
from sidecar.authorization.two_tier import TwoTierKeys

_OWNERS = ("team:", "organization:")


@dataclass(slots=True)
class KeyChanges:
    """Tells the cache of the process and the use of the shared one.

    `channels` are the names of those that changes come by. Changes count as heard while all of
    them are up: each may carry what the others do not.
    """

    cache: KeyCache
    tiers: TwoTierKeys
    channels: frozenset[str]
    _listening: set[str] = field(default_factory=set[str])

    @property
    def is_listening(self) -> bool:
        """Whether every channel is up."""
        return self._listening >= self.channels

    def key_changed(self, key_id: str) -> None:
        """A key was made, changed, revoked or deleted."""
        # First of all nobody may believe the shared record, then nobody may hold one.
        self.tiers.note_change(key_id)
        self.cache.drop(key_id)
        self.tiers.forget_shared(key_id)

    def scope_changed(self, scope: str) -> None:
        """A team or an organization, as `team:<id>`, or with `*` any number of keys changed."""
        if scope.startswith(_OWNERS):
            self.tiers.note_change(scope)
            self.cache.drop_owned(scope.partition(":")[2])
        else:
            self.tiers.note_change(ANY_KEY)
            self.cache.flush()

    def listening_began(self, channel: str) -> None:
        """*channel* is up; what it carried before was missed."""
        self._listening.add(channel)
        if self.is_listening:
            self.tiers.listening_began()
        self.cache.suspect()
        self.cache.store_is_back()

    def listening_ended(self, channel: str) -> None:
        """*channel* was lost."""
        if channel in self._listening:
            self._listening.remove(channel)
            self.tiers.listening_ended()
            self.cache.suspect()
