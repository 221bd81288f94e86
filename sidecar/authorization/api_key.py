"""The shape of an Egret API key, and how one is made and read.

A key is `egk_<id>_<secret><check>`: a public id of 12 base62 characters, a secret of 43 (256
random bits, zero-padded), and 6 more for the CRC-32 (ISO-HDLC, as zlib has it) of the ASCII bytes
of everything before the check, prefix and underscores included. So a typo, a cut or a made-up key
is known for what it is without a look-up, by us and by scanners that search code for secrets.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "egk_"
KEY_ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 43
"""Base62 characters that hold 256 bits: 62 ** 43 is just above 2 ** 256."""
CHECK_LENGTH: Final = 6
"""Base62 characters that hold 32 bits."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_BYTES: Final = 32
_KEY_ID_BYTES: Final = 16
"""Far more than 12 characters hold, so that the remainder's bias is below 2 ** -56."""
_SHAPE: Final = re.compile(
    rb"(egk_([0-9A-Za-z]{%d})_([0-9A-Za-z]{%d}))([0-9A-Za-z]{%d})"
    % (KEY_ID_LENGTH, SECRET_LENGTH, CHECK_LENGTH)
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A well-formed key. Whether it is known or good is for others to say.

    `key_id` is public and may be logged; the secret shows in neither `repr` nor `str`.
    """

    key_id: str
    secret: str = field(repr=False)

    @property
    def secret_sha256(self) -> bytes:
        """Digest of the secret's 43 ASCII characters: all that is ever stored of it."""
        return hashlib.sha256(self.secret.encode("ascii")).digest()

    def reveal(self) -> str:
        """Return the whole key as its owner uses it. For the one time it is shown."""
        checked = f"{PREFIX}{self.key_id}_{self.secret}"
        return checked + _check(checked.encode("ascii"))


def parse(text: bytes | str) -> ApiKey | None:
    """Return the key that *text* is, or None for anything else. Raises for no input."""
    if isinstance(text, str):
        if not text.isascii():
            return None
        text = text.encode("ascii")
    match = _SHAPE.fullmatch(text)
    if match is None:
        return None
    checked, key_id, secret, check = match.groups()
    if check.decode("ascii") != _check(checked):
        return None
    return ApiKey(key_id=key_id.decode("ascii"), secret=secret.decode("ascii"))


def generate(entropy: Callable[[int], bytes]) -> ApiKey:
    """Make a new key; `entropy(n)` returns n bytes that nobody can guess."""
    key_id = int.from_bytes(entropy(_KEY_ID_BYTES), "big") % len(_ALPHABET) ** KEY_ID_LENGTH
    secret = int.from_bytes(entropy(_SECRET_BYTES), "big")
    return ApiKey(
        key_id=_base62(key_id, length=KEY_ID_LENGTH), secret=_base62(secret, length=SECRET_LENGTH)
    )


def _check(checked: bytes) -> str:
    return _base62(zlib.crc32(checked), length=CHECK_LENGTH)


def _base62(number: int, *, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
