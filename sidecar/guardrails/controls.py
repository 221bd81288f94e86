"""Whether a text holds control characters, which nobody sees and few texts have."""

from __future__ import annotations

import threading
from typing import Final

import hyperscan

CONTROLS: Final = bytes((*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F))
"""All of ASCII's but for tab, line feed and carriage return."""

_BUT_NUL: Final = CONTROLS[1:]
_EXPRESSION: Final = rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]"

_SHORT_BYTES: Final = 512
"""Up to here one look through a table is faster; of 100 KB it takes 50 µs, Hyperscan 6.

In the database of all expressions it would make the pass over a long text seven times slower.
"""


class _Local(threading.local):
    """A database and its scratch space, which is one thread's."""

    def __init__(self) -> None:
        self.database: hyperscan.Database | None = None


_LOCAL: Final = _Local()


def has_controls(content: bytes) -> bool:
    """Tell whether there is one other than NUL, which stands between texts as well."""
    if len(content) <= _SHORT_BYTES:
        return content.translate(None, _BUT_NUL) != content
    if _LOCAL.database is None:
        _LOCAL.database = _compiled()
    found: list[int] = []
    _LOCAL.database.scan(content, match_event_handler=_note, context=found)
    return bool(found)


def _compiled() -> hyperscan.Database:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=[_EXPRESSION], ids=[0], elements=1, flags=[hyperscan.HS_FLAG_SINGLEMATCH]
    )
    return database


def _note(_id: int, _start: int, end: int, _flags: int, found: object) -> None:
    found.append(end)  # type: ignore[attr-defined]  # the stub has `object`; it is our list
