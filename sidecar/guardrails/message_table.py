"""The findings in messages that were judged before, by a keyed digest of their text.

The table keeps the facts and findings of fragments (see `apis.fragments`), and none of the text. A
fragment is known only to the guardrails that have searched it, byte for byte, in the same field.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from blake3 import blake3

from sidecar.apis.fragments import KnownFragment
from sidecar.domain.finding import Finding
from sidecar.domain.subject import Route
from sidecar.guardrails.local_scan import LocalScan

SECRET_BYTES: Final = 32

MAX_KEYS: Final = 4_096
"""Keys of digests that are kept; any other is derived anew."""
MAX_TAILS: Final = 16_384
TAIL_BYTES: Final = 256
"""The end of a list by which its next turn is recognised, before the whole of it is hashed."""

_ENTRY_BYTES: Final = 640
_FINDING_BYTES: Final = 160
"""Rather too much than too little; a test measures both."""


class Entry(KnownFragment, frozen=True, gc=False):
    """A known fragment with the findings and the value of each local guardrail, or of none.

    Findings count parts from the fragment's first. A value is that of `GuardrailResult`: the
    highest of the parts', or their sum for a guardrail that counts.
    """

    findings: tuple[tuple[Finding, ...], ...] = ()
    values: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Return the bytes that the entry takes, roughly."""
        return _ENTRY_BYTES + _FINDING_BYTES * sum(map(len, self.findings))


class SharedEntries(Protocol):
    """Entries that the workers of one version of Egret share."""

    async def last_of(self, digests: Sequence[bytes]) -> tuple[int, Entry] | None:
        """Return the number and entry of the last digest that has one which can be trusted."""
        ...

    def put(self, digest: bytes, entry: Entry) -> None:
        """Share an entry, soon; nothing relies on it."""
        ...


class MessageTable:
    """Entries by digest; above `max_bytes` the least recently used are dropped.

    No change of policies makes an entry wrong: `key` has the guardrails that found it, whole.

    `hits`, `misses` and `evictions` count fragments; `saved_bytes` are those of hits. `mark` is
    the only member of a stand-in. `tails` are the hashes of ends of lists that were kept: only to
    save time, since texts with the same hash are compared by their digests. `shared` has the
    beginnings of conversations that other workers have judged as well.
    """

    def __init__(
        self, *, max_bytes: int, secret: bytes, shared: SharedEntries | None = None
    ) -> None:
        """*secret* has `SECRET_BYTES`: without it a digest says nothing about a text.

        It is random, or one that all workers have with which entries are shared.
        """
        self._max_bytes = max_bytes
        self._secret = secret
        self.shared = shared
        self.mark = secrets.token_hex(16)  # no client can guess it, and write a stand-in
        # Plain dictionaries pass over all that was dropped to find their first key.
        self._entries = OrderedDict[bytes, Entry]()
        self._keys: dict[tuple[str, bytes, str, str, str], bytes] = {}
        self.tails = OrderedDict[int, None]()
        self.bytes = self.hits = self.misses = self.evictions = self.saved_bytes = 0

    def key(self, owner: str, scan: LocalScan, route: Route, field: str) -> bytes:
        """Return the key of digests: of one secret, owner, set of guardrails, and field.

        Else a request that is judged faster would show what another owner has sent.
        """
        scope = (owner, scan.digest, route.dialect._value_, route.form._value_, field)
        key = self._keys.get(scope)
        if key is None:
            if len(self._keys) >= MAX_KEYS:
                self._keys.clear()
            key = self._keys[scope] = blake3(repr(scope).encode(), key=self._secret).digest()
        return key

    def get(self, digest: bytes) -> Entry | None:
        """Return an entry, which becomes the last to be dropped."""
        entry = self._entries.get(digest)
        if entry is not None:
            self._entries.move_to_end(digest)
        return entry

    def put(self, digest: bytes, entry: Entry) -> None:
        """Keep an entry; others are dropped if there is no room."""
        before = self._entries.pop(digest, None)
        self.bytes += entry.size - (0 if before is None else before.size)
        self._entries[digest] = entry
        while self.bytes > self._max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1].size
            self.evictions += 1

    def put_beginning(self, digest: bytes, entry: Entry, tail: int) -> None:
        """Keep the entry of a list, whose next turn is recognised by the hash of its end."""
        self.put(digest, entry)
        self.tails[tail] = None
        self.tails.move_to_end(tail)
        if len(self.tails) > MAX_TAILS:
            self.tails.popitem(last=False)


def tail_of(key: bytes, text: bytes, start: int, end: int) -> int:
    """Return the entry of `MessageTable.tails` for the list in *text* from *start* to *end*."""
    return hash(key + text[max(start, end - TAIL_BYTES) : end])
