"""Beginnings of conversations that workers have judged, shared through Valkey.

A record is an entry of the table of known messages (`guardrails.message_table`): counts, findings
by type and place, scores, and no text. Its name is the entry's digest, which is keyed; it begins
with a tag, without which nothing in it is believed. Both keys come from the secret of the fleet
and from the code of this version, so that another version finds nothing.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from blake3 import blake3
from redis.asyncio import Redis

from sidecar.guardrails.message_table import Entry
from sidecar.storage.valkey import Client, SharedTimes, ValkeyCalls
from sidecar.telemetry.key_metrics import SharedOutcome

MESSAGE_PREFIX: Final = "egret:message:v1:"
MAX_RECORD_BYTES: Final = 16 * 1024
"""Some hundred findings; an entry with more is not shared."""
GATHER_SECONDS: Final = 0.02
"""Records are written together, as a client needs longer for its next turn."""
MAX_WAITING: Final = 1_024
"""Records that wait to be written; more are left out."""

_TAG_BYTES: Final = blake3.digest_size
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Entry)


def derived_keys(secret: str, code: bytes) -> tuple[bytes, bytes]:
    """Return the keys of digests and of tags, from a fleet's *secret* and a digest of its code."""
    material = secret.encode() + b"\0" + code
    digests = blake3(material, derive_key_context="egret known messages: digests")
    tags = blake3(material, derive_key_context="egret known messages: tags")
    return digests.digest(), tags.digest()


class ValkeyMessages:
    """Implements `SharedEntries`. *tag_key* authenticates; `count` receives each outcome."""

    def __init__(
        self,
        client: Client,
        tag_key: bytes,
        *,
        times: SharedTimes,
        count: Callable[[SharedOutcome], None],
    ) -> None:
        self._client = client
        self._tag_key = tag_key
        self._keep_ms = max(1, int(times.keep_seconds * 1000))
        self._count = count
        self._calls = ValkeyCalls(times, count)
        self._waiting: dict[str, bytes] = {}
        self._writing: asyncio.Task[None] | None = None

    async def last_of(self, digests: Sequence[bytes]) -> tuple[int, Entry] | None:
        """Return the number and entry of the last digest that has one which can be trusted."""
        values = await self._calls.run(
            functools.partial(_values, self._client, [_name(one) for one in digests])
        )
        if isinstance(values, SharedOutcome):
            return None
        for number in range(len(digests) - 1, -1, -1):
            value = values[number]
            entry = None if value is None else self._read(digests[number], value)
            if entry is not None:
                self._count(SharedOutcome.HIT)
                return number, entry
        self._count(SharedOutcome.MISS)
        return None

    def put(self, digest: bytes, entry: Entry) -> None:
        """Share an entry, soon; nothing relies on it."""
        payload = _encoder.encode(entry)
        if len(payload) + _TAG_BYTES > MAX_RECORD_BYTES or len(self._waiting) >= MAX_WAITING:
            return
        self._waiting[_name(digest)] = self._tag(digest, payload) + payload
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def aclose(self) -> None:
        """Give up records that wait."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write(self) -> None:
        """Write the records that come together, until none waits."""
        try:
            while self._waiting:
                await asyncio.sleep(GATHER_SECONDS)
                records, self._waiting = self._waiting, {}
                written = await self._calls.run(functools.partial(self._set, records))
                for _ in () if isinstance(written, SharedOutcome) else records:
                    self._count(SharedOutcome.WRITTEN)
        finally:
            self._writing = None

    async def _set(self, records: Mapping[str, bytes]) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for name, value in records.items():
                pipeline.set(name, value, px=self._keep_ms)
            await pipeline.execute()

    def _read(self, digest: bytes, value: object) -> Entry | None:
        """Return the entry in *value*, or, counted, None. Raises for no value."""
        if not isinstance(value, bytes) or len(value) > MAX_RECORD_BYTES:
            self._count(SharedOutcome.UNAUTHENTIC)
            return None
        tag, payload = value[:_TAG_BYTES], value[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(digest, payload)):
            self._count(SharedOutcome.UNAUTHENTIC)
            return None
        try:
            return _decoder.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self._count(SharedOutcome.UNREADABLE)
            return None

    def _tag(self, digest: bytes, payload: bytes) -> bytes:
        return blake3(digest + payload, key=self._tag_key).digest()  # a digest has one length


def _name(digest: bytes) -> str:
    return MESSAGE_PREFIX + digest.hex()


async def _values(client: Client, names: Sequence[str]) -> Sequence[object]:
    # Names of one conversation may be on any of a cluster's nodes.
    get = client.mget if isinstance(client, Redis) else client.mget_nonatomic
    values: Sequence[object] = await get(names)
    if len(values) != len(names):
        raise ValueError("not a value for each name")
    return values
