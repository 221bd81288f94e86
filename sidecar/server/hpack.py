"""Decodes the header blocks of HTTP/2 (HPACK, RFC 7541); one decoder a connection.

The tables of the standard are those of the `hpack` package. Its decoder builds an object for each
field and takes three times as long, measured on the blocks that Envoy sends for each request.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

MAX_TABLE_BYTES: Final = 4096
"""HTTP/2's default size of the dynamic table, which is not raised here."""

MAX_LIST_BYTES: Final = 64 * 1024
"""Of all names and values of a block, decoded: a byte may stand for a field of 4 KB."""

ENTRY_BYTES: Final = 32
"""What an entry counts beside its name and value (RFC 7541 section 4.1)."""

Field = tuple[bytes, bytes]

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)
_DYNAMIC_START: Final = len(_STATIC)
_MAX_INTEGER_BYTES: Final = 4


class HpackError(Exception):
    """A header block that cannot be decoded; the connection's table is no longer known."""


class HpackDecoder:
    """Decodes the header blocks of one connection, in their order."""

    def __init__(self) -> None:
        self._dynamic: deque[Field] = deque()
        self._size = 0
        self._max_size = MAX_TABLE_BYTES

    def decode(self, block: bytes) -> list[Field]:
        """Return the fields of *block*, names as they were sent.

        Raises:
            HpackError: it is damaged, or too large.
        """
        fields: list[Field] = []
        total = at = 0
        try:
            while at < len(block):
                first = block[at]
                if first & 0x80:  # an indexed field (6.1)
                    index, at = _integer(block, at, 0x7F)
                    field = self._entry(index)
                elif first & 0x40:  # a literal that joins the table (6.2.1)
                    field, at = self._literal(block, at, 0x3F)
                    self._add(field)
                elif first & 0x20:  # a new size of the table (6.3)
                    size, at = _integer(block, at, 0x1F)
                    if fields or size > MAX_TABLE_BYTES:
                        raise HpackError("a size of the table that is not allowed")
                    self._max_size = size
                    self._evict(0)
                    continue
                else:  # a literal that does not (6.2.2, 6.2.3)
                    field, at = self._literal(block, at, 0x0F)
                total += len(field[0]) + len(field[1]) + ENTRY_BYTES
                if total > MAX_LIST_BYTES:
                    raise HpackError("too many header bytes")
                fields.append(field)
        except IndexError:
            raise HpackError("a header block that is cut short") from None
        return fields

    def _entry(self, index: int) -> Field:
        if 0 < index < _DYNAMIC_START:
            return _STATIC[index]
        if index >= _DYNAMIC_START and index - _DYNAMIC_START < len(self._dynamic):
            return self._dynamic[index - _DYNAMIC_START]
        raise HpackError("an index that is not in the table")

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index, at = _integer(block, at, mask)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _add(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + ENTRY_BYTES
        self._evict(size)
        if size <= self._max_size:  # one that is larger than the table only empties it (4.4)
            self._dynamic.appendleft(field)
            self._size += size

    def _evict(self, room: int) -> None:
        while self._dynamic and self._size + room > self._max_size:
            name, value = self._dynamic.pop()
            self._size -= len(name) + len(value) + ENTRY_BYTES


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return the integer in the bits of *mask*, and the place behind it (5.1)."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte
            return value, at
    raise HpackError("an integer that is too large")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    is_coded = block[at] & 0x80
    length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HpackError("a string that is cut short")
    raw = block[at:end]
    return (_huffman(raw) if is_coded else raw), end


_END: Final = 256
"""The symbol that ends a string; it is never sent (5.2)."""
_MAX_PADDING_BITS: Final = 7


_NODES: Final[list[list[int]]] = [[0, 0]]
"""The code as nodes of two branches: another node, or `~symbol`."""

for _symbol, (_code, _length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
    _node = 0
    for _bit in range(_length - 1, 0, -1):
        _branch = _code >> _bit & 1
        if not _NODES[_node][_branch]:
            _NODES.append([0, 0])
            _NODES[_node][_branch] = len(_NODES) - 1
        _node = _NODES[_node][_branch]
    _NODES[_node][_code & 1] = ~_symbol

_PADDING: Final = {
    functools.reduce(lambda node, _: _NODES[node][1], range(bits), 0)
    for bits in range(_MAX_PADDING_BITS + 1)
}
"""Nodes that the first bits of the end symbol lead to: only these may end a string."""
_STEPS: Final[dict[int, tuple[int, bytes]]] = {}
"""By node and byte: the next node, and the text that is complete. Filled as bytes are met."""


def _step(node: int, byte: int) -> tuple[int, bytes]:
    text = bytearray()
    now = node
    for bit in range(7, -1, -1):
        now = _NODES[now][byte >> bit & 1]
        if now < 0:
            if ~now == _END:
                raise HpackError("the end of a string within it")
            text.append(~now)
            now = 0
    step = _STEPS[node << 8 | byte] = now, bytes(text)
    return step


def _huffman(raw: bytes) -> bytes:
    node = 0
    pieces: list[bytes] = []
    steps = _STEPS
    for byte in raw:
        step = steps.get(node << 8 | byte)
        node, text = _step(node, byte) if step is None else step
        pieces.append(text)
    if node not in _PADDING:
        raise HpackError("a string with a damaged end")
    return b"".join(pieces)
