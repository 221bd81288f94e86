from __future__ import annotations

from sidecar.domain.http import Headers

HEADERS = Headers((("x-a", b"1"), ("x-b", b"J\xf6rg\xff"), ("x-a", b"2"), ("x-empty", b"")))


def test_a_repeated_header_keeps_its_values_apart_and_in_order() -> None:
    """Folding them into one would hide that a credential was sent twice."""
    assert HEADERS.all("x-a") == (b"1", b"2")
    assert HEADERS.by_name["x-a"] == b"1"


def test_an_absent_header_is_not_an_empty_one() -> None:
    """Both are told apart by value, and both read as empty text."""
    assert (HEADERS.by_name.get("x-c"), HEADERS.by_name.get("x-empty")) == (None, b"")
    assert (HEADERS.all("x-c"), HEADERS.all("x-empty")) == ((), (b"",))
    assert (HEADERS.text("x-c"), HEADERS.text("x-empty")) == ("", "")


def test_any_byte_of_a_value_reads_as_text() -> None:
    """Latin-1 loses nothing and never raises (RFC 9110 section 5.5)."""
    assert HEADERS.text("x-b") == "Jörg\xff"
