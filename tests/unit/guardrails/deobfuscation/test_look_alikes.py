from __future__ import annotations

import sys
import unicodedata

from sidecar.guardrails.deobfuscation.look_alikes import LAST_LETTERS


def test_every_digit_of_unicode_is_looked_at() -> None:
    """There is none beyond the last code point that the table is made from."""
    beyond = range(LAST_LETTERS, sys.maxunicode + 1)

    assert not [code for code in beyond if unicodedata.category(chr(code)) == "Nd"]
