from __future__ import annotations

import hpack
import pytest
from hpack import huffman_constants
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server.hpack import STATIC, HpackDecoder, HpackError, huffman_codes, never_indexed

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


@given(
    st.lists(
        st.sampled_from(
            [
                b"\xbe",
                b"\xbe\xbf",
                b"\x40\x01a\x01b",
                b"\x40\x01c\x01d",
                b"\x20",
                b"\x3f\x21",
                b"\x10\x01e\x01f",
                b"\x00\x01e\x01f\xbe",
                b"\x86",
                b"",
            ]
        ),
        max_size=12,
    )
)
def test_a_block_that_comes_again_is_read_by_the_table_as_it_then_is(blocks: list[bytes]) -> None:
    """The reference reads each of them anew; ours keeps one that changes nothing."""
    reference, decoder = hpack.Decoder(), HpackDecoder()
    for block in blocks:
        for _ in range(2):
            wanted = read_by_the_package(reference, block)
            if wanted is None:
                with pytest.raises(HpackError):
                    decoder.decode(block)
                return
            assert decoder.decode(block) == wanted


def test_only_a_block_without_a_field_never_indexed_is_kept() -> None:
    decoder = HpackDecoder()
    kept, secret = b"\x00\x01e\x01f", b"\x10\x01e\x01f"
    assert decoder.decode(kept) is decoder.decode(kept)
    assert decoder.decode(secret) is not decoder.decode(secret)


def test_the_tables_are_those_of_the_standard_as_another_package_has_them() -> None:
    codes = zip(
        huffman_constants.REQUEST_CODES, huffman_constants.REQUEST_CODES_LENGTH, strict=True
    )
    assert STATIC[1:] == HeaderTable.STATIC_TABLE
    assert huffman_codes() == dict(enumerate(codes))


@given(fields)
def test_fields_that_are_sent_are_read_by_another_decoder(
    sent: list[tuple[bytes, bytes]],
) -> None:
    """And none of them is kept in a table."""
    decoder = hpack.Decoder()
    assert read_by_the_package(decoder, never_indexed(sent)) == sent
    assert not decoder.header_table.dynamic_entries


def test_a_few_bytes_do_not_become_megabytes() -> None:
    """A field of four kilobytes in the table, and thousands of references to it."""
    decoder = HpackDecoder()
    large = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"v" * 4000
    decoder.decode(large)
    assert len(set(map(id, decoder.decode(b"\xbe" * 16_000)))) == 1


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xff\xff\xff\xff\xff\x7f", id="a huge index"),
        pytest.param(b"\x3f\xe2\x1f", id="a larger table"),
        pytest.param(b"\x88\x20", id="a late size"),
        pytest.param(b"\x00\x7f", id="cut length"),
        pytest.param(b"\x40", id="cut name"),
        pytest.param(b"\x00\x81\x00\x00", id="padding of zeros"),
        pytest.param(b"\x00\x82\xff\xff\x00", id="padding of a byte"),
        pytest.param(b"\x00\x84\xff\xff\xff\xff\x00", id="the end symbol"),
    ],
)
def test_a_damaged_block_is_refused(block: bytes) -> None:
    """The connection ends then: later blocks could mean anything."""
    with pytest.raises(HpackError):
        HpackDecoder().decode(block)


DATE = b"Mon, 21 Oct 2013 20:13:2%d GMT"
LOCATION = (b"location", b"https://www.example.com")
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
RESPONSES = [
    (
        (
            "48826402 5885aec3771a4b 6196d07abe941054d444a8200595040b8166e082a62d1bff"
            "6e919d29ad171863c78f0b97c8e9ae82ae43d3"
        ),
        [(b":status", b"302"), (b"cache-control", b"private"), (b"date", DATE % 1), LOCATION],
    ),
    (
        "4883640effc1c0bf",
        [(b":status", b"307"), (b"cache-control", b"private"), (b"date", DATE % 1), LOCATION],
    ),
    (
        (
            "88c1 6196d07abe941054d444a8200595040b8166e084a62d1bff c0 5a839bd9ab"
            "77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
        ),
        [
            (b":status", b"200"),
            (b"cache-control", b"private"),
            (b"date", DATE % 2),
            LOCATION,
            (b"content-encoding", b"gzip"),
            (b"set-cookie", COOKIE),
        ],
    ),
]
"""RFC 7541 appendix C.6: Huffman codes, and a table of 256 bytes that drops its oldest fields."""


def test_the_table_drops_its_oldest_fields_as_the_standard_does() -> None:
    """Else an index would name another field than Envoy has sent."""
    decoder = HpackDecoder()
    assert decoder.decode(b"\x3f\xe1\x01") == []
    for block, expected in RESPONSES:
        assert decoder.decode(bytes.fromhex(block)) == expected


FIELD, LARGE, NEWEST = b"\x40\x01a\x01b", b"\x40\x01c\x1f" + b"d" * 31, b"\xbe"


@pytest.mark.parametrize("change", [LARGE, b"\x20"], ids=["a field larger than it", "size 0"])
def test_the_table_is_emptied_by_what_does_not_fit(change: bytes) -> None:
    """A field that fits to the byte stays."""
    decoder = HpackDecoder()
    decoder.decode(b"\x3f\x03" + FIELD)  # a table of 34 bytes
    assert decoder.decode(NEWEST) == [(b"a", b"b")]
    decoder.decode(change)
    with pytest.raises(HpackError):
        decoder.decode(NEWEST)


def test_a_long_field_takes_the_room_of_several() -> None:
    """The oldest go first, as many as it takes."""
    decoder = HpackDecoder()
    decoder.decode(b"\x3f\x31" + FIELD * 2)  # a table of 80 bytes
    decoder.decode(LARGE)
    with pytest.raises(HpackError):
        decoder.decode(b"\xbf")
    assert decoder.decode(FIELD + b"\xbe") == [(b"a", b"b")] * 2


def test_an_index_is_read_to_its_last_byte() -> None:
    """127 and nothing more, in two bytes; index 0 is none, however many fields there are."""
    decoder = HpackDecoder()
    decoder.decode(b"".join(b"\x40\x01%c\x01b" % number for number in range(100)))
    assert decoder.decode(b"\xff\x80\x00") == [(bytes([99 - (127 - 62)]), b"b")]
    with pytest.raises(HpackError):
        decoder.decode(b"\x80")
