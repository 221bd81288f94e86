"""Parses JSON strictly and within bounds: no repeated keys, no lone surrogates."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from sidecar.domain.subject import Malformed

_NO_MARKS: Final = bytes(set(range(256)) - set(b'",{['))
"""All bytes but those that count values or delimit strings."""


@dataclass(frozen=True, slots=True)
class JsonBound:
    """How many objects and arrays, and how many commas between values, are read.

    Two numbers, since a number in a list costs a fraction of an object.
    """

    containers: int
    commas: int

    def is_exceeded_by(self, text: bytes) -> bool:
        """Return whether *text* holds more. Text in strings (CSV, code) does not count.

        A quote counts if an even number of backslashes stands before it. Two quotes that are left
        side by side go, whether they begin a string or lie between two: that turns no other mark
        inside out, and most strings hold none.
        """
        if len(text) <= min(self.containers, self.commas) or not self._is_exceeded_by_marks(text):
            return False
        bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
        marks = bare.translate(None, _NO_MARKS).replace(b'""', b"").decode("ascii")
        strings = 2 * (self.containers + self.commas) + 1  # no more of them fit
        # As a str: joining bytes takes 80 of them for each piece.
        outside = "".join(marks.split('"', 2 * strings)[::2]).encode()
        return self._is_exceeded_by_marks(outside)

    def _is_exceeded_by_marks(self, marks: bytes) -> bool:
        containers = marks.count(b"{") + marks.count(b"[")
        return containers > self.containers or marks.count(b",") > self.commas


JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"

MAX_DEPTH: Final = 128
"""Levels of objects and arrays; parsers give up at differing depths, some by crashing."""

BOUND: Final = JsonBound(containers=100_000, commas=500_000)
"""A tenth to half of a second, depending on the values (measured). The largest batch of
tokens that OpenAI takes is 300,000; a conversation has three or four objects and arrays a part."""


def parse(body: bytes) -> JsonValue | Malformed:  # noqa: C901, PLR0911 - one return a fault
    """Read one JSON document; objects keep the order of the text, no key stands twice in one.

    A problem names the fault in fixed words; no key, value or position of the body is in it.
    """
    if len(body) > BOUND.containers and BOUND.is_exceeded_by(body):
        return TOO_MANY_VALUES
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return Malformed("The body is not valid UTF-8.")
    if text.startswith("\ufeff"):
        return Malformed("The body starts with a byte order mark.")
    if not text or text.isspace():
        return Malformed("The body is empty.")
    end = len(text)
    value: JsonValue
    try:
        if text[0] == "{" and text[-1] == "}":  # without white space around it, as mostly
            value, end = _DECODER.raw_decode(text)
        else:
            value = _DECODER.decode(text)
    except _RefusedError as refused:
        return Malformed(str(refused))
    except RecursionError:
        return TOO_DEEP
    except json.JSONDecodeError as error:
        return _TWO_DOCUMENTS if error.msg == "Extra data" else _NO_JSON
    except ValueError:
        # An integer past sys.get_int_max_str_digits(): conversion takes quadratic time.
        return Malformed("The body has a number that is out of range.")
    if end != len(text):
        return _TWO_DOCUMENTS
    # Faults that the decoder accepts; a cheap test of the bytes mostly suffices.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and not is_shallow(value):
        return TOO_DEEP
    if b"\\u" in body and _SURROGATE_ESCAPE.search(body):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return Malformed("The body has an unpaired surrogate escape.")
    return value


TOO_DEEP: Final = Malformed(f"The body is nested deeper than {MAX_DEPTH} levels.")

TOO_MANY_VALUES: Final = Malformed(
    f"The body holds more than {BOUND.containers} objects and arrays,"
    f" or {BOUND.commas} commas between values."
)

_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class _RefusedError(Exception):
    """Raised inside the decoder's hooks, for faults that it lets pass by itself."""


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _RefusedError("The body has the same key twice in one object.")
    return value


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _RefusedError("The body has a number that is out of range.")
    return number


def _constant(_: str) -> NoReturn:
    raise _RefusedError("The body has NaN or Infinity, which JSON does not know.")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_constant=_constant
)


_NO_JSON: Final = Malformed("The body is not valid JSON.")
_TWO_DOCUMENTS: Final = Malformed("The body goes on after the end of its JSON document.")


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
