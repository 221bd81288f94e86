"""The wire format of the access log: values of each record, as Envoy writes them."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from loadtest.access_log import entry, export
from sidecar._generated.opentelemetry.proto.collector.logs.v1 import (
    logs_service_pb2 as service,
)
from sidecar.domain.usage import LOG_FORMAT, MAX_COUNT, LogEntry
from sidecar.usage.access_log import count_of, decode_access_log, values_of
from tests.support.usage import ended, judged

LINES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=50)


@given(st.lists(LINES, min_size=22, max_size=22), st.text(max_size=300))
def test_values_come_back_as_envoy_wrote_them(lines: list[str], model: str) -> None:
    """The last one may hold anything: line feeds, tabs, quotes, a whole second entry."""
    written = LogEntry._make([*lines, model])

    assert [LogEntry._make(values) for values in values_of(export(written))] == [written]


@pytest.mark.parametrize("size", [100, 127, 128, 20_000, 2_200_000])
def test_a_text_of_any_length_is_read(size: int) -> None:
    """Its length has one to four bytes before it."""
    (values,) = values_of(export(entry(judged(), model="x" * size)))

    assert values[-1] == "x" * size


@pytest.mark.parametrize(
    "model",
    ["gpt\n-\n-", "\n".join(entry(judged(2))), "\n", "a\r\nb", "a\tb", '"', "\u2028", "\x00"],
)
def test_the_model_of_a_provider_changes_no_other_value(model: str) -> None:
    """It is text of a JSON document, in which a line feed can stand."""
    (found,) = decode_access_log(export(entry(judged(1), model=model))).ended

    assert found.request == judged(1)
    assert (found.tokens, found.status) == (ended(1).tokens, 200)


@pytest.mark.parametrize("body", ["", "-", "1", "\n" * 22, LOG_FORMAT.removeprefix("1")])
def test_a_body_in_another_form_is_unreadable(body: str) -> None:
    """Too few lines, or lines in an order that this release does not have."""
    request = service.ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.body.string_value = body

    assert decode_access_log(request.SerializeToString()).unreadable == (
        ("form",) if body else ("egret",)
    )


@given(st.text(max_size=20) | st.from_regex(r"[0-9]{1,18}", fullmatch=True))
def test_digits_are_a_number_and_nothing_else_is(text: str) -> None:
    """Of sixteen digits at most, and never more than fits."""
    is_number = text.isascii() and text.isdigit() and len(text) <= 16
    assert count_of(text) == (min(int(text), MAX_COUNT) if is_number else 0)


def test_attributes_of_an_earlier_release_are_read() -> None:
    """By name, in any order; the last of a name counts, and a number is no text."""
    request = service.ExportLogsServiceRequest()
    for number in range(1, 4):
        scope = request.resource_logs.add().scope_logs.add()
        record = scope.log_records.add(severity_text="ignored", trace_id=b"\x01" * 16)
        record.attributes.add(key="egret").value.string_value = "old"
        for name, text in reversed(entry(judged(number))._asdict().items()):
            if name != "form":
                record.attributes.add(key=name).value.string_value = text
        record.attributes.add(key="answer_bytes").value.int_value = 7

    found = decode_access_log(request.SerializeToString())
    assert found.ended == (ended(1), ended(2), ended(3))


def test_each_record_of_a_message_is_read() -> None:
    """Each has values of its own."""
    message = export(*(entry(judged(number)) for number in range(3)))

    assert decode_access_log(message).ended == (ended(0), ended(1), ended(2))


def test_bytes_that_are_no_message_raise() -> None:
    """As of any other message."""
    with pytest.raises(DecodeError):
        list(values_of(b"\xff\xff"))
