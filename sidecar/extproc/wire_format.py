"""The wire format of Protocol Buffers (its page "Encoding"), for messages without its parser.

Bytes that repeat from request to request are encoded once.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

DOUBLE: Final = struct.Struct("<d")
STRUCT_VALUE: Final = b"\x2a"
"""The tag of `Value.struct_value`."""


def entry_key(name: str) -> bytes:
    """Return the key of an entry of `Struct.fields`, and the tag of its value."""
    key = name.encode()
    return b"\x0a" + bytes((len(key),)) + key + b"\x12"


@lru_cache(maxsize=4096)
def before_value(name: str, length: int | None) -> bytes:
    """Return the start of an entry of `Struct.fields`: a text of *length* bytes, or a number."""
    entry = entry_key(name)
    if length is None:
        entry += b"\x09\x11"
        return b"\x0a" + bytes((len(entry) + DOUBLE.size,)) + entry
    return around((b"\x1a", entry, b"\x0a"), length)


@lru_cache(maxsize=4096)
def around(tags: tuple[bytes, ...], length: int) -> bytes:
    """Return the bytes before a field of *length* bytes within the messages of *tags*.

    They are from the inside; before each tag and after it stands a length. To copy a body once is
    cheaper than to build four messages around it.
    """
    before = b""
    for tag in tags:
        varint, rest = b"", length + len(before)
        while rest > 0x7F:  # noqa: PLR2004 - seven bits a byte
            varint += bytes((rest & 0x7F | 0x80,))
            rest >>= 7
        before = tag + varint + bytes((rest,)) + before
    return before


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the length at this place, and the place behind it."""
    value, shift, byte = 0, 0, 0x80
    while byte & 0x80:
        if shift > 28:  # noqa: PLR2004 - five bytes
            raise ValueError("longer than any message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift  # seven bits a byte
        shift += 7
    return value, at
