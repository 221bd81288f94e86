"""How much structure JSON text may have: what is not text costs time to read as well.

Ten megabytes of brackets, or of zeros, are millions of values, and keep a worker busy for
seconds; as many bytes of prose or of base64 are a few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NO_MARKS: Final = bytes(set(range(256)) - set(b'",{['))
"""All but what tells how many values there are, and whether it stands in a string."""


@dataclass(frozen=True, slots=True)
class JsonBound:
    """How many objects and arrays, and how many commas between values, are read.

    Two numbers, as a number in a list costs a fraction of what an object does.
    """

    containers: int
    commas: int

    def is_exceeded_by(self, text: bytes) -> bool:
        """Tell whether *text* holds more. What stands in strings does not count: CSV, code."""
        if len(text) <= min(self.containers, self.commas) or not self._is_exceeded_by_marks(text):
            return False
        strings = 2 * (self.containers + self.commas) + 1  # no more of them fit
        return self._is_exceeded_by_marks(_outside_strings(text, limit=strings))

    def _is_exceeded_by_marks(self, marks: bytes) -> bool:
        containers = marks.count(b"{") + marks.count(b"[")
        return containers > self.containers or marks.count(b",") > self.commas


def _outside_strings(text: bytes, *, limit: int) -> bytes:
    """Return the marks of *text* outside of strings, and all that follow the *limit*-th string.

    A quote counts if an even number of backslashes stands before it. Two quotes that are left
    side by side go, whether they begin a string or lie between two: that turns no other mark
    inside out, and most strings hold none.
    """
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = bare.translate(None, _NO_MARKS).replace(b'""', b"").decode("ascii")
    # As a str: joining bytes takes 80 of them for each piece.
    return "".join(marks.split('"', 2 * limit)[::2]).encode()
