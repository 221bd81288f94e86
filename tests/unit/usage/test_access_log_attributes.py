"""What OpenTelemetry's own messages say is what ours read."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from loadtest.access_log import export
from sidecar._generated.opentelemetry.proto.collector.logs.v1 import (
    logs_service_pb2 as service,
)
from sidecar.usage.access_log import MAX_COUNT, attribute_value, attributes_of, count_of, text_of


def value_of(text: str) -> bytes:
    """Return the value of an attribute that is *text*, as it comes."""
    (attributes,) = attributes_of(export({"it": text}))
    return attributes["it"]


@given(st.text(max_size=300) | st.integers(100, 2_200_000).map(lambda size: "x" * size))
def test_a_text_of_any_length_is_read(text: str) -> None:
    """`-` is what Envoy says for nothing."""
    assert text_of(value_of(text)) == (b"" if text == "-" else text.encode())


@given(st.text(max_size=20) | st.from_regex(r"[0-9]{1,18}", fullmatch=True))
def test_digits_are_a_number_and_nothing_else_is(text: str) -> None:
    """Of sixteen digits at most, and never more than fits."""
    is_number = text.isascii() and text.isdigit() and len(text) <= 16
    assert count_of(value_of(text)) == (min(int(text), MAX_COUNT) if is_number else None)


@pytest.mark.parametrize("text", ["1", "POST", "-"])
def test_a_value_to_compare_with_is_what_comes(text: str) -> None:
    """Byte for byte."""
    assert attribute_value(text) == value_of(text)


def test_each_record_has_its_own_attributes_and_the_last_of_a_name_counts() -> None:
    """Whatever their order is, and in whichever part of the message they stand."""
    request = service.ExportLogsServiceRequest()
    for number in range(3):
        scope = request.resource_logs.add().scope_logs.add()
        record = scope.log_records.add(severity_text="ignored", trace_id=b"\x01" * 16)
        for name, text in (("a", "old"), ("b", "b"), ("a", str(number))):
            record.attributes.add(key=name).value.string_value = text

    found = list(attributes_of(request.SerializeToString()))
    assert [(text_of(one["a"]), text_of(one["b"]), text_of(one["c"])) for one in found] == [
        (b"0", b"b", b""),
        (b"1", b"b", b""),
        (b"2", b"b", b""),
    ]


@pytest.mark.parametrize(
    "value", [b"", b"\x0a", b"\x0a\x00", b"\x10\x01", b"\x0a\x05abc", b"\x0a" + b"\xff" * 9]
)
def test_what_is_no_text_is_nothing(value: bytes) -> None:
    """A number, an empty value, one that says it is longer than it is."""
    assert (text_of(value), count_of(value)) == (b"", None)


def test_bytes_that_are_no_message_raise() -> None:
    """As of any other message."""
    with pytest.raises(DecodeError):
        list(attributes_of(b"\xff\xff"))
