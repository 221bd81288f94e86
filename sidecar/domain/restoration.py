"""What the placeholders of one exchange stand for, so that its answer can name the values again.

A map is made from one request and lives as long as its exchange: nobody can be shown what
another request held. It is never logged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

HASH_DIGITS: Final = 16
"""64 bits in hexadecimal: among a billion values two are alike with a chance of 3 %."""

MAX_PLACEHOLDER_BYTES: Final = 1 + 40 + len("_h_") + HASH_DIGITS + 1
"""A type has 40 characters at most; a card number with its separators is shorter."""

PLACEHOLDER: Final = re.compile(
    rb"\[[A-Z][A-Z0-9_]{0,39}_(?:[1-9][0-9]{0,8}|h_[0-9a-f]{%d})\]"
    rb"|[0-9](?:[ -]?[0-9])*+" % HASH_DIGITS
)
"""Whatever may stand for a value: `[EMAIL_1]`, `[EMAIL_h_…]`, or a whole run of digits."""

_UNFINISHED: Final = re.compile(rb"(?:\[[A-Za-z0-9_]*+|[0-9][0-9 -]*+)\Z")


@dataclass(frozen=True, slots=True)
class Restoration:
    """Placeholder → value, both as UTF-8. `repr` shows neither."""

    originals: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes], repr=False)

    def restore(self, text: bytes) -> bytes:
        """Return *text* with every placeholder turned back.

        In one pass: what is put in is not looked at again, so that a value that reads like a
        placeholder cannot call up another one.
        """
        return PLACEHOLDER.sub(self._original, text)

    def _original(self, found: re.Match[bytes]) -> bytes:
        placeholder = found.group()
        return self.originals.get(placeholder, placeholder)


def unfinished_from(text: bytes) -> int:
    """Return where the end of *text* could still become a placeholder; its length if nowhere.

    What comes before can be restored and sent, the rest waits for what comes next; never more
    than `MAX_PLACEHOLDER_BYTES`.
    """
    start = max(len(text) - MAX_PLACEHOLDER_BYTES, 0)
    found = _UNFINISHED.search(text, start)
    return len(text) if found is None else found.start()


NOTHING_REDACTED: Final = Restoration()
