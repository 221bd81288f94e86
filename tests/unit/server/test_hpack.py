from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server.hpack import HpackDecoder, HpackError

names = st.sampled_from([b":path", b"te", b"content-type", b"x-egret-stream", b"a", b"cookie"])
fields = st.lists(st.tuples(names, st.binary(max_size=300)), max_size=8)


def read_by_the_package(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    """Return the fields as the `hpack` package reads them, None if it refuses the block."""
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except (hpack.HPACKError, IndexError):
        return None


@given(st.lists(st.tuples(fields, st.booleans(), st.booleans()), max_size=6))
def test_blocks_of_one_connection_are_read_as_another_decoder_reads_them(
    blocks: list[tuple[list[tuple[bytes, bytes]], bool, bool]],
) -> None:
    """Literals, indexed fields and Huffman codes, over a table that fills and is emptied."""
    encoder, decoder = hpack.Encoder(), HpackDecoder()
    for wanted, is_coded, never_joins in blocks:
        encoder.header_table_size = 4096 if is_coded else 128
        sent: list[tuple[bytes, bytes]] = (
            [hpack.NeverIndexedHeaderTuple(*field) for field in wanted] if never_joins else wanted
        )
        assert decoder.decode(encoder.encode(sent, huffman=is_coded)) == wanted


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_are_read_or_refused_as_another_decoder_does(blocks: list[bytes]) -> None:
    """The same fields, or an error of our own and no other."""
    reference, decoder = hpack.Decoder(), HpackDecoder()
    for block in blocks:
        wanted = read_by_the_package(reference, block)
        if wanted is None:
            with pytest.raises(HpackError):
                decoder.decode(block)
            return
        assert decoder.decode(block) == wanted


def test_a_few_bytes_do_not_become_megabytes() -> None:
    """A field of four kilobytes in the table, and thousands of references to it."""
    decoder = HpackDecoder()
    large = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"v" * 4000
    decoder.decode(large)
    assert len(set(map(id, decoder.decode(b"\xbe" * 16_000)))) == 1


@pytest.mark.parametrize(
    "block",
    [b"\x80", b"\xff\xff\xff\xff\xff\x7f", b"\x3f\xe2\x1f", b"\x88\x20", b"\x00\x7f", b"\x40"],
    ids=["index 0", "a huge index", "a larger table", "a late size", "cut length", "cut name"],
)
def test_a_damaged_block_is_refused(block: bytes) -> None:
    """The connection ends then: later blocks could mean anything."""
    with pytest.raises(HpackError):
        HpackDecoder().decode(block)
