"""Decodes the header blocks of HTTP/2 (HPACK, RFC 7541); one decoder a connection.

The decoder of the `hpack` package builds an object for each field, and a request's block has about
ten. A test compares both, and the tables.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

MAX_TABLE_BYTES: Final = 4096
"""HTTP/2's default size of the dynamic table, which is not raised here."""

ENTRY_BYTES: Final = 32
"""The size of an entry exceeds those of its name and value by so many (RFC 7541 section 4.1)."""

Field = tuple[bytes, bytes]

_STATIC_WORDS: Final = """
:authority :method=GET :method=POST :path=/ :path=/index.html :scheme=http :scheme=https
:status=200 :status=204 :status=206 :status=304 :status=400 :status=404 :status=500
accept-charset accept-encoding=gzip,_deflate accept-language accept-ranges accept
access-control-allow-origin age allow authorization cache-control content-disposition
content-encoding content-language content-length content-location content-range content-type
cookie date etag expect expires from host if-match if-modified-since if-none-match if-range
if-unmodified-since last-modified link location max-forwards proxy-authenticate
proxy-authorization range referer refresh retry-after server set-cookie
strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""
"""The fields of RFC 7541 appendix A in their order, each as `name` or `name=value`."""
STATIC: Final[tuple[Field, ...]] = (
    (b"", b""),
    *(
        (name, value.replace(b"_", b" "))
        for name, _, value in (word.partition(b"=") for word in _STATIC_WORDS.encode().split())
    ),
)
_DYNAMIC_START: Final = len(STATIC)
_MAX_INTEGER_BYTES: Final = 4


class HpackError(Exception):
    """A header block that cannot be decoded; the connection's table is no longer known."""


class HpackDecoder:
    """Decodes the header blocks of one connection, in their order."""

    def __init__(self) -> None:
        self._dynamic: deque[Field] = deque()
        self._size = 0
        self._max_size = MAX_TABLE_BYTES
        self._last_block: bytes | None = None
        self._last_fields: list[Field] = []

    def decode(self, block: bytes) -> list[Field]:
        """Return the fields of *block*, names as they were sent.

        Many references to a large field take no memory: they are one object. A block that comes
        again gives the same list, if the table is as it was and each of its fields may be kept.

        Raises:
            HpackError: it is damaged.
        """
        if block == self._last_block:
            return self._last_fields
        self._last_block, may_repeat = None, True
        fields: list[Field] = []
        dynamic = self._dynamic
        at = 0
        try:
            while at < len(block):
                first = block[at]
                if first & 0x80:  # an indexed field (6.1)
                    index, at = first & 0x7F, at + 1
                    if index == 0x7F:  # noqa: PLR2004 - seven bits
                        index, at = _integer(block, at - 1, 0x7F)
                    if 0 < index < _DYNAMIC_START:
                        fields.append(STATIC[index])
                    else:
                        # Index 0 is none.
                        fields.append(dynamic[index - _DYNAMIC_START if index else len(dynamic)])
                elif first & 0x40:  # a literal that joins the table (6.2.1)
                    field, at = self._literal(block, at, 0x3F, _coded_text)
                    fields.append(field)
                    may_repeat = False
                    size = len(field[0]) + len(field[1]) + ENTRY_BYTES
                    self._evict(size)
                    if size <= self._max_size:  # a larger one only empties the table (4.4)
                        dynamic.appendleft(field)
                        self._size += size
                elif first & 0x20:  # a new size of the table (6.3)
                    self._max_size, at = _integer(block, at, 0x1F)
                    if fields or self._max_size > MAX_TABLE_BYTES:
                        raise HpackError("a size of the table that is not allowed")
                    self._evict(0)
                    may_repeat = False
                else:  # a literal that does not: as Envoy sends each path, or never may (6.2.3)
                    may_repeat = may_repeat and not first & 0x10  # never kept: a credential
                    decode = _coded_text if first & 0x10 else _remembered_text
                    field, at = self._literal(block, at, 0x0F, decode)
                    fields.append(field)
        except IndexError:
            raise HpackError("a cut header block, or an index that is not in the table") from None
        if may_repeat:
            self._last_block, self._last_fields = block, fields
        return fields

    def _literal(
        self, block: bytes, at: int, mask: int, decode: Callable[[bytes], bytes]
    ) -> tuple[Field, int]:
        index, at = _integer(block, at, mask)
        if not index:
            name, at = _string(block, at, decode)
        elif index < _DYNAMIC_START:
            name = STATIC[index][0]
        else:
            name = self._dynamic[index - _DYNAMIC_START][0]
        value, at = _string(block, at, decode)
        return (name, value), at

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


def _string(block: bytes, at: int, decode: Callable[[bytes], bytes]) -> tuple[bytes, int]:
    """Return a text, decoded if it is in Huffman code, and the place behind it (5.2)."""
    is_coded = block[at] & 0x80
    length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HpackError("a string that is cut short")
    text = block[at:end]
    return decode(text) if is_coded else text, end


def _coded_text(coded: bytes) -> bytes:
    steps, text = _STEPS[0], list[bytes]()
    for byte in coded:
        steps, more = steps[byte]
        text.append(more)
    if steps.node not in _PADDING:
        raise HpackError("a string with a damaged end")
    return b"".join(text)


_remembered_text = functools.lru_cache(maxsize=64)(_coded_text)
"""For fields that the peer keeps out of the table, although most are the same in each block.

Not for those that it marks as never to be kept, which may be credentials.
"""


def never_indexed(fields: Iterable[Field]) -> bytes:
    """Return a block of *fields* as literals that join no table (6.2.3)."""
    return b"".join(b"\x10" + _sized(name) + _sized(value) for name, value in fields)


def _sized(text: bytes) -> bytes:
    """Return *text* behind its length, without Huffman code (5.2)."""
    length = len(text)
    if length < 0x7F:  # noqa: PLR2004 - seven bits
        return bytes((length,)) + text
    length, size = length - 0x7F, bytearray(b"\x7f")
    while length >= 0x80:  # noqa: PLR2004 - seven bits of each byte
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(size) + bytes((length,)) + text


_CODE_LENGTHS: Final = (
    "dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad"
    "67777777777777777777777878djde6f56565666577666567655677777fbedskm"
    "kkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmnqqk"
    "jmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu"
)
"""Bits of each symbol's Huffman code (RFC 7541 appendix B) as a digit of base 36. The codes follow
from them: they ascend with the length, and among those of one length with the symbol."""


def huffman_codes() -> dict[int, tuple[int, int]]:
    """Return the code and its length in bits of each symbol."""
    lengths = [int(digit, 36) for digit in _CODE_LENGTHS]
    codes: dict[int, tuple[int, int]] = {}
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths)):
        code <<= length - before
        codes[symbol] = code, length
        code, before = code + 1, length
    return codes


_END: Final = 256
"""The symbol that ends a string; it is never sent (5.2)."""
_MAX_PADDING_BITS: Final = 7


_NODES: Final[list[list[int]]] = [[0, 0]]
"""The code as nodes of two branches: another node, or `~symbol`."""

for _symbol, (_code, _length) in huffman_codes().items():
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


class _Steps(dict[int, tuple["_Steps", bytes]]):
    """The steps from one node by the next byte: those of the node it leads to, and whole symbols.

    Filled as bytes are met: most of the 65,536 never are.
    """

    def __init__(self, node: int) -> None:
        super().__init__()
        self.node = node

    def __missing__(self, byte: int) -> tuple[_Steps, bytes]:
        text = bytearray()
        node = self.node
        for bit in range(7, -1, -1):
            node = _NODES[node][byte >> bit & 1]
            if node < 0:
                if ~node == _END:
                    raise HpackError("the end of a string within it")
                text.append(~node)
                node = 0
        self[byte] = step = _STEPS[node], bytes(text)
        return step


_STEPS: Final = tuple(map(_Steps, range(len(_NODES))))
