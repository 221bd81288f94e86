"""Which records of the shared cache a worker may believe.

The shared cache may hold anything that was ever written to it: a write can be late by minutes (a
server that was stopped), a replica that takes over can bring back what was deleted, and whoever
can write to it can put an old value back. So nothing here relies on what is in it being recent.
A worker remembers what it heard of, and believes only a record that was provably read later. Of
what happened before it listened, the database tells it the last change.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from sidecar.authorization.ports import Fence, SharedRecord
from sidecar.domain.principal import KeyRecord

ANY_KEY: Final = "*"
"""The scope of a change that may have met any key."""
MAX_FLOORS: Final = 10_000


class Belief(enum.Enum):
    """What a shared record is good for."""

    CURRENT = "current"
    """No change to it can have been missed."""
    UNCERTAIN = "uncertain"
    """A change may have been missed: better than nothing, while the database is away."""
    OUTDATED = "outdated"
    """A change was heard of, and the record may be from before it."""


@dataclass(slots=True)
class _Floor:
    """Records from before `fence` are too old; without a fence yet, all are."""

    noted_as: int
    fence: Fence | None = None

    def is_below(self, shared: SharedRecord) -> bool:
        return self.fence is not None and shared.has_seen(self.fence)

    def has_no_change_after(self, shared: SharedRecord) -> bool:
        return self.fence is not None and shared.has_seen_last_change(self.fence)


class Fences:
    """Changes this worker heard of, and whether it would hear of one now.

    A note is without a fence first; `resolve` gives one that was asked for after the note.
    The oldest notes beyond `max_floors` become one for all keys: too much is forgotten, never
    too little. Reads no clock. Belongs to one event loop.
    """

    def __init__(self, *, max_floors: int = MAX_FLOORS) -> None:
        self._max_floors = max_floors
        self._floors: OrderedDict[str, _Floor] = OrderedDict()
        self._under_all: _Floor | None = None
        self._heard_since = _Floor(noted_as=0)
        self._is_listening = False
        self._notes = 0
        self._resolved_notes = 0

    @property
    def notes(self) -> int:
        """How many notes were taken: the number of the latest."""
        return self._notes

    @property
    def wants_fence(self) -> bool:
        """Whether any note is without a fence."""
        return self._resolved_notes < self._notes

    @property
    def timeline(self) -> int | None:
        """The database's timeline since this worker listens; None while it does not."""
        fence = self._heard_since.fence
        return fence.timeline if self._is_listening and fence is not None else None

    def note_change(self, scope: str) -> None:
        """Keep that *scope* has changed: a key's id, `team:…`, `organization:…` or `ANY_KEY`."""
        if scope == ANY_KEY:
            self._floors.clear()
            self._under_all = self._note()
            return
        self._floors[scope] = self._note()
        self._floors.move_to_end(scope)
        if len(self._floors) > self._max_floors:
            _, self._under_all = self._floors.popitem(last=False)

    def listening_began(self) -> None:
        """From here on every change is heard of; whatever came before may have been missed."""
        self._is_listening = True
        self._heard_since = self._note()

    def listening_ended(self) -> None:
        """From here on changes may be missed."""
        self._is_listening = False

    def resolve(self, *, notes: int, fence: Fence) -> None:
        """Give *fence* to the notes up to number *notes*, which were taken before it was made."""
        self._resolved_notes = max(self._resolved_notes, notes)
        for floor in (self._heard_since, self._under_all):
            if floor is not None and floor.fence is None and floor.noted_as <= notes:
                floor.fence = fence
        for floor in reversed(self._floors.values()):
            if floor.fence is not None:
                break  # as is every older one
            if floor.noted_as <= notes:
                floor.fence = fence

    def belief(self, shared: SharedRecord) -> Belief:
        """Say what *shared* is good for."""
        if any(not floor.is_below(shared) for floor in self._floors_of(shared.record)):
            return Belief.OUTDATED
        since = self._heard_since
        if self._is_listening and (since.is_below(shared) or since.has_no_change_after(shared)):
            return Belief.CURRENT
        return Belief.UNCERTAIN

    def has_changed_since(self, notes: int, record: KeyRecord) -> bool:
        """Tell whether a change to *record* was noted, or may have been missed, since *notes*."""
        if not self._is_listening or self._heard_since.noted_as > notes:
            return True
        return any(floor.noted_as > notes for floor in self._floors_of(record))

    def _floors_of(self, record: KeyRecord) -> list[_Floor]:
        floors = [] if self._under_all is None else [self._under_all]
        if self._floors:
            owner = record.principal
            scopes = (
                owner.key_id,
                f"team:{owner.team_id}",
                f"organization:{owner.organization_id}",
            )
            floors += [self._floors[scope] for scope in scopes if scope in self._floors]
        return floors

    def _note(self) -> _Floor:
        self._notes += 1
        return _Floor(noted_as=self._notes)
