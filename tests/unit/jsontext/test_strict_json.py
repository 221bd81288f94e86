from __future__ import annotations

from functools import partial

import pytest

from sidecar.domain.subject import Malformed
from sidecar.jsontext.strict import MAX_DEPTH, digits_of, parse
from tests.support.cpu_time import least_seconds, python_calls

NOT_JSON = "The body is not valid JSON."
TWICE = "The body has the same key twice in one object."
TOO_DEEP = "The body is nested deeper than 128 levels."
SURROGATE = "The body has an unpaired surrogate escape."
RANGE = "The body has a number that is out of range."
NAN = "The body has NaN or Infinity, which JSON does not know."
AFTER = "The body goes on after the end of its JSON document."


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        pytest.param(b"", "The body is empty.", id="empty"),
        pytest.param(b" \r\n\t", "The body is empty.", id="blank"),
        pytest.param(b'{"a":1,"a":2}', TWICE, id="duplicate key"),
        pytest.param(b'[{"x":{"a":1,"\\u0061":2}}]', TWICE, id="duplicate key, deep, escaped"),
        pytest.param(b'{"a":1,"a":"\\u0022\\u0022"}', TWICE, id="as many quotes without it"),
        pytest.param(b'{"a":"\\"\\"","a":[]}', TWICE, id="first member with quotes"),
        pytest.param(b'{"a" : 18446744073709551617, "a" : 1}', TWICE, id="wide integer, twice"),
        pytest.param(b'[18446744073709551617,{"b":1,"b":2}]', TWICE, id="beside a wide integer"),
        pytest.param(b'{"a":"\xff"}', "The body is not valid UTF-8.", id="bad byte"),
        pytest.param(b'"\xed\xa0\x80"', "The body is not valid UTF-8.", id="raw surrogate"),
        pytest.param(b'"\xc0\xaf"', "The body is not valid UTF-8.", id="overlong"),
        pytest.param('{"a":1}'.encode("utf-16-le"), NOT_JSON, id="utf-16"),
        pytest.param(b"\xef\xbb\xbf{}", "The body starts with a byte order mark.", id="BOM"),
        pytest.param(b'"\\ud800"', SURROGATE, id="lone high surrogate"),
        pytest.param(b'{"\\uDC00":1}', SURROGATE, id="lone low surrogate in a key"),
        pytest.param(b'"\\ud83d\\ud83d\\ude00"', SURROGATE, id="high, then a pair"),
        pytest.param(b"{} {}", AFTER, id="second document"),
        pytest.param(b"{}\x00", AFTER, id="trailing NUL"),
        pytest.param(b"[NaN]", NAN, id="NaN"),
        pytest.param(b"[-Infinity]", NAN, id="infinity"),
        pytest.param(b"[1e999]", RANGE, id="float overflow"),
        pytest.param(b"9" * 641, RANGE, id="huge integer"),
        pytest.param(b"[-" + b"9" * 641 + b"]", RANGE, id="huge negative integer"),
        pytest.param(b"[" * 129 + b"]" * 129, TOO_DEEP, id="129 levels"),
        pytest.param(b'{"a":' * 200 + b"1" + b"}" * 200, TOO_DEEP, id="200 levels"),
        pytest.param(b"[" * 100_000, TOO_DEEP, id="100,000 levels"),
        pytest.param(b'{"a":1,}', NOT_JSON, id="trailing comma"),
        pytest.param(b"{'a':1}", NOT_JSON, id="single quotes"),
        pytest.param(b"{", NOT_JSON, id="cut off"),
        pytest.param(b'"a\nb"', NOT_JSON, id="raw control character"),
        pytest.param(b'"\\x41"', NOT_JSON, id="unknown escape"),
        pytest.param(b'"\\u00_1"', NOT_JSON, id="bad hex"),
        pytest.param(b"[01]", NOT_JSON, id="leading zero"),
        pytest.param(b"\x0c{}", NOT_JSON, id="form feed"),
        pytest.param("\u00a0{}".encode(), NOT_JSON, id="no-break space"),
    ],
)
def test_ambiguous_bodies_are_refused(body: bytes, problem: str) -> None:
    """Each way in which two parsers could differ has its own refusal."""
    assert parse(body) == Malformed(problem)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param(b' {"b":1,"a":[true,null,-0.5e2]}\r\n', {"b": 1, "a": [True, None, -50.0]}),
        pytest.param(b'{"a":{"a":1}}', {"a": {"a": 1}}, id="same key at two levels"),
        pytest.param(b'"\\ud83d\\ude00"', "\U0001f600", id="surrogate pair"),
        pytest.param(b'"\\\\ud800"', "\\ud800", id="escaped backslash before ud800"),
        pytest.param(b"18446744073709551617", 2**64 + 1, id="integer past 64 bits"),
        pytest.param(b"-" + b"9" * 640, 1 - 10**640, id="longest integer"),
        pytest.param(b'{"\\u0022":"\\"","\\\\u0022":1}', {'"': '"', "\\u0022": 1}, id="quotes"),
        pytest.param(b'"[[[["', "[[[[", id="brackets in a string"),
    ],
)
def test_plain_bodies_are_read(body: bytes, value: object) -> None:
    """What RFC 8259 makes plain is read as it stands."""
    assert parse(body) == value


def test_the_deepest_document_is_read() -> None:
    """128 levels pass, also when many brackets stand side by side."""
    body = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert not isinstance(parse(body), Malformed)
    assert not isinstance(parse(b"[" + b"[[1]]," * 500 + b'"["]'), Malformed)


@pytest.mark.parametrize(
    "body",
    [b'{"sk-secret":1,"sk-secret":2}', b'{"sk-secret', b'["\\ud800sk-secret"]', b"[sk-secret"],
)
def test_a_problem_repeats_nothing_of_the_body(body: bytes) -> None:
    """Keys and values of a refused body stay out of the answer."""
    malformed = parse(body)
    assert isinstance(malformed, Malformed)
    assert "secret" not in malformed.problem


@pytest.mark.parametrize("number", [b"1e308", b"1.7976931348623157e308", b"5e-324", b"0.5"])
def test_numbers_are_read_in_time(number: bytes) -> None:
    """A decoder that rounds exactly may take 30 us for one: a megabyte held a worker for 5 s."""
    body, short = (b"[" + b",".join([one] * 50_000) + b"]" for one in (number, b"0.25"))
    assert parse(body) == [float(number)] * 50_000
    assert least_seconds(partial(parse, body)) < 16 * least_seconds(partial(parse, short))


def test_numbers_are_read_without_a_call_of_python_each() -> None:
    """Ten megabytes of them held a worker for half a second, and longer behind a fault."""
    assert python_calls(partial(parse, b"[" + b"1.5e-300," * 1_000 + b"0]")) < 100
    assert python_calls(partial(parse, b"[" + b"1.5e-300," * 1_000 + b"]")) < 100


@pytest.mark.parametrize(
    ("number", "digits"),
    [
        (4111111111111111.0, b"4111111111111111"),
        (-123456789, b"-123456789"),
        (10**41, b"1" + b"0" * 41),
        (1e300, b"1e+300"),
    ],
)
def test_a_long_number_is_text_of_its_digits(number: float, digits: bytes) -> None:
    """An exponent is left as it is: written out, a short body would be a long text."""
    assert digits_of(number) == digits
