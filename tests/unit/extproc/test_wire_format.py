from __future__ import annotations

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from sidecar.extproc.wire_format import DOUBLE, around, before_value, read_varint


@given(length=st.integers(0, (1 << 31) - 1), before=st.binary(max_size=3))
def test_a_length_is_read_as_it_was_written(length: int, before: bytes) -> None:
    written = before + around((b"\x0a",), length)
    assert read_varint(written, len(before) + 1) == (length, len(written))


def test_a_length_of_more_than_five_bytes_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer than any message"):
        read_varint(b"\xff" * 6, 0)


@given(text=st.text(max_size=200), number=st.floats(allow_nan=False))
def test_entries_of_a_struct_are_read_by_protocol_buffers(text: str, number: float) -> None:
    encoded = text.encode()
    fields = before_value("text", len(encoded)) + encoded
    fields += before_value("number", None) + DOUBLE.pack(number)
    read = struct_pb2.Struct.FromString(fields)
    assert dict(read.items()) == {"text": text, "number": number}
