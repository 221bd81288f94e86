"""Assigns a placeholder to each redacted value of one request."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from typing import assert_never

from sidecar.domain.finding import HASH_DIGITS
from sidecar.domain.policy import RedactionStyle
from sidecar.redaction.card_numbers import CARD_TYPE, stand_in


class Placeholders:
    """Gives the same value the same placeholder, and two values different ones.

    Numbers run per type in order of first use, so that a model can still distinguish two people
    and the answer can refer to them. A number is skipped if the client's own text has it already,
    by `taken`.
    """

    def __init__(self, *, hash_key: bytes | None, taken: frozenset[bytes]) -> None:
        self._hash_key = hash_key
        self._taken = taken
        self._made: dict[tuple[RedactionStyle, str, bytes], bytes] = {}
        self._counts: Counter[str] = Counter()

    def of(self, value: bytes, *, type_: str, style: RedactionStyle) -> bytes:
        """Return the placeholder of *value*."""
        key = (style, type_, value)
        made = self._made.get(key)
        if made is not None:
            return made
        match style:
            case RedactionStyle.HASH if self._hash_key is not None:
                message = b"%s\x00%s" % (type_.encode(), value)
                digest = hmac.new(self._hash_key, message, hashlib.sha256).hexdigest()
                made = f"[{type_}_h_{digest[:HASH_DIGITS]}]".encode()
            case RedactionStyle.FORMAT_PRESERVING if type_ == CARD_TYPE:
                made = self._numbered(type_, value.decode())
            case (
                RedactionStyle.PLACEHOLDER | RedactionStyle.HASH | RedactionStyle.FORMAT_PRESERVING
            ):
                made = self._numbered(type_, None)
            case _:
                assert_never(style)
        self._made[key] = made
        return made

    def _numbered(self, type_: str, card: str | None) -> bytes:
        while True:
            self._counts[type_] += 1
            number = self._counts[type_]
            made = None if card is None else stand_in(card, number)
            made = made or f"[{type_}_{number}]".encode()
            if made not in self._taken:
                return made
