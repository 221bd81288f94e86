"""Parses JSON strictly and within bounds: no repeated keys, no lone surrogates."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

import msgspec
import orjson

from sidecar.domain.subject import Malformed
from sidecar.jsontext.tokens import count_strings

_NO_MARKS: Final = bytes(set(range(256)) - set(b'",{['))
"""All bytes but those that count values or delimit strings."""


@dataclass(frozen=True, slots=True)
class JsonBound:
    """How many objects and arrays, and how many commas between values, are read.

    Two numbers, since a number in a list costs a fraction of an object.
    """

    containers: int
    commas: int

    def allows(self, containers: int, commas: int) -> bool:
        """Return whether so many are read."""
        return containers <= self.containers and commas <= self.commas

    def is_exceeded_by(self, text: bytes) -> bool:
        """Return whether *text* holds more. Text in strings (CSV, code) does not count.

        A quote counts if an even number of backslashes stands before it. Two quotes that are left
        side by side go, whether they begin a string or lie between two: that turns no other mark
        inside out, and most strings hold none.
        """
        # An object or array takes two bytes at least, and so do a comma and its value.
        room = len(text) // 2
        if not (
            (room > self.containers and self._has_more_containers(text))
            or (room > self.commas and self._has_more_commas(text))
        ):
            return False
        bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
        marks = bare.translate(None, _NO_MARKS).replace(b'""', b"").decode("ascii")
        strings = 2 * (self.containers + self.commas) + 1  # no more of them fit
        # As a str: joining bytes takes 80 of them for each piece.
        outside = "".join(marks.split('"', 2 * strings)[::2]).encode()
        return self._has_more_containers(outside) or self._has_more_commas(outside)

    def _has_more_containers(self, text: bytes) -> bool:
        most = self.containers + 1
        return _count(b"{", text, most) + _count(b"[", text, most) > self.containers

    def _has_more_commas(self, text: bytes) -> bool:
        return _count(b",", text, self.commas + 1) > self.commas


def most_values(text: bytes) -> tuple[int, int]:
    """Return how many containers and commas *text* holds at most: those in strings count."""
    size = len(text)
    return _count(b"{", text, size) + _count(b"[", text, size), _count(b",", text, size)


# Here and below `replace` counts a byte, as it jumps from one to the next; `bytes.count` looks at
# each byte and takes longer than the decoder (measured, 15 us for 64 KB of prose against 2).
def _count(mark: bytes, text: bytes, most: int) -> int:
    """Count a byte, up to *most* times."""
    return len(text) - len(text.replace(mark, b"", most))


MAX_DIGITS: Final = 640
"""Digits of an integer. Python reads and writes one in quadratic time: 9 MB of 4,000 digits each
took 1.5 seconds. Most parsers read numbers as doubles, which end at 309 digits."""

sys.set_int_max_str_digits(MAX_DIGITS)  # of the process, as msgspec has no bound of its own

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"

MAX_DEPTH: Final = 128
"""Levels of objects and arrays; parsers give up at differing depths, some by crashing."""

BOUND: Final = JsonBound(containers=100_000, commas=500_000)
"""A tenth to half of a second, depending on the values (measured). The largest batch of
tokens that OpenAI takes is 300,000; a conversation has three or four objects and arrays a part."""


def parse(body: bytes) -> JsonValue | Malformed:
    """Read one JSON document; objects keep the order of the text, no key stands twice in one.

    A problem names the fault in fixed words; no key, value or position of the body is in it.
    """
    if len(body) > BOUND.containers and BOUND.is_exceeded_by(body):
        return TOO_MANY_VALUES
    try:
        value: JsonValue = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _fault_of(body)
    return value if _is_whole(value, body) else _fault_of(body)


class _RefusedError(Exception):
    """Raised inside a decoder's hooks, for faults that it lets pass by itself."""


_DECODER: Final = msgspec.json.Decoder(float_hook=orjson.loads)
"""Refuses lone surrogates and NaN; ten times as fast as the standard one.

The hook bounds the time: without it `1e308` takes 30 us, and half a million of them 15 seconds.
It refuses infinity, too. `float` takes five times as long for 17 digits and an exponent.
"""


_DEEP: Final = MAX_DEPTH + 1

_ENCODER_DEPTH: Final = 254
"""Levels of objects and arrays that orjson encodes."""


def _is_whole(value: JsonValue, body: bytes) -> bool:
    r"""Return whether *value* is not too deep, and has all strings of *body*.

    A repeated key has lost its first member. Encoded again, a string has as many quotes as before,
    unless one was written as \\u0022. In lists around it, a value that is too deep is refused.
    """
    nested = value
    rest = len(body.replace(b"[", b"", _DEEP)) + len(body.replace(b"{", b"", _DEEP))
    if 2 * len(body) - rest >= _DEEP:
        for _ in range(_ENCODER_DEPTH - MAX_DEPTH):
            nested = [nested]
    try:
        encoded = orjson.dumps(nested)
    except TypeError:  # also for an integer of more than 64 bits
        if not is_shallow(value):
            return False
        encoded = msgspec.json.encode(value)
    if b"\\" in body and b"u0022" in body:
        return count_strings(encoded) == count_strings(body)
    rest = len(encoded.replace(b'"', b"")) - len(body.replace(b'"', b""))
    return rest == len(encoded) - len(body)


def _fault_of(body: bytes) -> Malformed:  # noqa: PLR0911 - one return a fault
    """Name the fault of a refused body, as the standard decoder finds it."""
    try:
        text = body.decode("utf-8")
        if text.startswith("\ufeff"):
            return Malformed("The body starts with a byte order mark.")
        if not text or text.isspace():
            return Malformed("The body is empty.")
        value: JsonValue = _NAMING_DECODER.decode(text)
    except UnicodeDecodeError:
        return Malformed("The body is not valid UTF-8.")
    except _RefusedError as refused:
        return Malformed(str(refused))
    except RecursionError:
        return TOO_DEEP
    except orjson.JSONDecodeError:
        return _OUT_OF_RANGE
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return Malformed("The body goes on after the end of its JSON document.")
        return _NO_JSON
    except ValueError:
        return _OUT_OF_RANGE  # an integer of more than MAX_DIGITS
    if not is_shallow(value):
        return TOO_DEEP
    if _SURROGATE_ESCAPE.search(body):
        return Malformed("The body has an unpaired surrogate escape.")
    return _NO_JSON


TOO_DEEP: Final = Malformed(f"The body is nested deeper than {MAX_DEPTH} levels.")

TOO_MANY_VALUES: Final = Malformed(
    f"The body holds more than {BOUND.containers} objects and arrays,"
    f" or {BOUND.commas} commas between values."
)

_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _RefusedError("The body has the same key twice in one object.")
    return value


def _constant(_: str) -> NoReturn:
    raise _RefusedError("The body has NaN or Infinity, which JSON does not know.")


_NAMING_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=orjson.loads, parse_constant=_constant
)

_NO_JSON: Final = Malformed("The body is not valid JSON.")
_OUT_OF_RANGE: Final = Malformed("The body has a number that is out of range.")


def is_shallow(value: JsonValue, *, levels: int = MAX_DEPTH) -> bool:
    """Return whether objects and arrays nest at most *levels* deep."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return True
    return False


_LONGEST_NUMBER: Final = 1e40
"""No number that is found has more digits. Written out, `1e308` would be sixty times as long."""


def digits_of(number: float) -> bytes:
    """Return the digits of a long number; one with too large an exponent as it is written."""
    if type(number) is int or -_LONGEST_NUMBER < number < _LONGEST_NUMBER:
        return b"%d" % int(number)
    return repr(number).encode()


_MAX_INDEX_DIGITS: Final = 9


def index_of(value: JsonValue) -> int | None:
    """Return the number that a client reads: to JavaScript `0`, `0.0` and `"0"` are one place."""
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal():  # of no other script
        return int(value) if len(value) <= _MAX_INDEX_DIGITS else None
    return None
