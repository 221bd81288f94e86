"""Parses API keys, finds the credential of a request, and decides whether its key is good."""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import unquote_plus

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import (
    ANSWER_FORMS,
    CREDENTIAL_HEADERS,
    CREDENTIAL_PARAMETERS,
    OPTIONAL_PARAMETER_SIGIL,
    OVERRIDING_PARAMETERS,
    HeaderName,
    Headers,
)
from sidecar.domain.principal import KeyRecord, Network
from sidecar.domain.subject import Operation
from sidecar.domain.validation import is_model_of

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
    rf"(egk_([0-9A-Za-z]{{{KEY_ID_LENGTH}}})_([0-9A-Za-z]{{{SECRET_LENGTH}}}))"
    rf"([0-9A-Za-z]{{{CHECK_LENGTH}}})"
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A well-formed key, which need not exist.

    `key_id` is public and may be logged; the secret shows in neither `repr` nor `str`.
    """

    key_id: str
    secret: str = field(repr=False)

    @property
    def secret_sha256(self) -> bytes:
        """Digest of the 43 ASCII characters of the secret, the only form that is stored."""
        return hashlib.sha256(self.secret.encode("ascii")).digest()

    def reveal(self) -> str:
        """Return the whole key as its owner uses it, to be shown once."""
        checked = f"{PREFIX}{self.key_id}_{self.secret}"
        return checked + _checksum(checked.encode("ascii"))


def parse(text: bytes | str) -> ApiKey | None:
    """Return the key that *text* is, or None for anything else. Raises for no input."""
    match = _SHAPE.fullmatch(text if isinstance(text, str) else text.decode("latin-1"))
    if match is None:
        return None
    checked, key_id, secret, check = match.groups()
    return ApiKey(key_id, secret) if check == _checksum(checked.encode("ascii")) else None


def generate(entropy: Callable[[int], bytes]) -> ApiKey:
    """Make a new key; `entropy(n)` returns n unguessable bytes."""
    key_id = int.from_bytes(entropy(_KEY_ID_BYTES), "big") % len(_ALPHABET) ** KEY_ID_LENGTH
    secret = int.from_bytes(entropy(_SECRET_BYTES), "big")
    return ApiKey(
        key_id=_base62(key_id, length=KEY_ID_LENGTH), secret=_base62(secret, length=SECRET_LENGTH)
    )


_TWO_DIGITS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)


def _checksum(checked: bytes) -> str:
    """Return the CRC-32 of *checked* as six digits, two at a time: each request needs it."""
    rest, last = divmod(zlib.crc32(checked), len(_TWO_DIGITS))
    first, middle = divmod(rest, len(_TWO_DIGITS))
    return _TWO_DIGITS[first] + _TWO_DIGITS[middle] + _TWO_DIGITS[last]


def _base62(number: int, *, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


_BLANK = b" \t"

_PARAMETER: Final = re.compile("[&;]")
"""Some servers still take a semicolon between parameters (HTML 4.01 appendix B.2.2)."""

MAX_PARAMETERS: Final = 64
MAX_NAMES_LENGTH: Final = 2048
"""Far more than any API has. This runs before a key is checked: Envoy accepts 60 KB of headers,
and decoding as many names would cost a worker twenty milliseconds."""


def presented_key(headers: Headers) -> ApiKey | ErrorKind:
    """Return the key that *headers* present, or the reason why none could be looked up.

    A client may send the same key in two headers (some do, to suit two APIs at once). Any text
    that two parsers could read differently presents no key: two keys, a header that comes twice,
    or one that a proxy may have joined with a comma (RFC 9110 section 5.3). A credential in the
    query is refused, whatever the headers say: the provider would receive it, and any log of
    paths would keep it. A query with too many parameters counts as one with a credential. A key
    is also refused with a query that overrides headers: the provider would read another request
    than Egret.
    """
    path = headers.by_name.get(HeaderName.PATH, b"")
    if b"?" in path and (fault := _fault_of_query(path.decode("latin-1").partition("?")[2])):
        return fault
    credentials: set[bytes | None] = set()
    for name in headers.by_name.keys() & CREDENTIAL_HEADERS:
        value = headers.by_name[name]
        if len(headers.all(name)) > 1 or b"," in value:
            return ErrorKind.CONFLICTING_CREDENTIALS
        credential: bytes | None = value.strip(_BLANK)
        if name == HeaderName.AUTHORIZATION and credential:
            scheme, _, rest = credential.partition(b" ")
            # RFC 9110 section 11.1: the scheme's case means nothing.
            credential = rest.strip(_BLANK) if scheme.lower() == b"bearer" else None
        credentials.add(credential)
    if len(credentials) > 1:
        return ErrorKind.CONFLICTING_CREDENTIALS
    credential = credentials.pop() if credentials else b""
    if credential is None:
        return ErrorKind.INVALID_API_KEY
    if not credential:
        # `Bearer ` without a key comes from a client whose environment variable was not set.
        return ErrorKind.MISSING_API_KEY
    return parse(credential) or ErrorKind.INVALID_API_KEY


def _fault_of_query(query: str) -> ErrorKind | None:
    parameters = _PARAMETER.split(query, MAX_PARAMETERS)
    raw = [parameter.partition("=") for parameter in parameters]
    if len(raw) > MAX_PARAMETERS or sum(len(name) for name, _, _ in raw) > MAX_NAMES_LENGTH:
        return ErrorKind.CREDENTIAL_IN_QUERY  # any of the rest may be one
    named = [
        (unquote_plus(name).strip().casefold().removeprefix(OPTIONAL_PARAMETER_SIGIL), value)
        for name, _, value in raw
    ]
    names = {name for name, _ in named}
    if not names.isdisjoint(CREDENTIAL_PARAMETERS):
        return ErrorKind.CREDENTIAL_IN_QUERY
    forms = {value for name, value in named if name == "alt"}
    if not (names.isdisjoint(OVERRIDING_PARAMETERS) and forms <= ANSWER_FORMS):
        return ErrorKind.UNSCANNED_CONTENT
    return None


_NO_DIGEST = bytes(32)
"""Compared with if there is no record, so that both cases take the same time."""


def authorize(
    record: KeyRecord | None,
    key: ApiKey,
    *,
    now: float,
    source: str | None = None,
    operation: Operation | None = None,
) -> KeyRecord | ErrorKind:
    """Return *record* if *key* is good at *now*, in seconds since the epoch, or why it is not.

    *source* is the client's address and *operation* the requested one; no list allows None.

    The secret comes first: only its holder learns that a key is revoked, expired or disabled.
    To everyone else an id that exists and one that does not look the same.
    """
    stored = _NO_DIGEST if record is None else record.secret_sha256
    is_holder = hmac.compare_digest(stored, key.secret_sha256)
    if record is None or not is_holder:
        return ErrorKind.INVALID_API_KEY
    # A revocation counts whatever its time says: clocks differ, and it was meant.
    if record.revoked_at is not None:
        return ErrorKind.REVOKED_API_KEY
    if record.expires_at is not None and now >= record.expires_at:
        return ErrorKind.EXPIRED_API_KEY
    is_early = record.not_before is not None and now < record.not_before
    if is_early or not (record.enabled and record.team_enabled and record.organization_enabled):
        return ErrorKind.DISABLED_API_KEY
    sources, operations = record.allowed_sources, record.allowed_operations
    if sources is not None and not is_source_allowed(source, sources):
        return ErrorKind.SOURCE_NOT_ALLOWED
    if operations is not None and not is_operation_allowed(operation, operations):
        return ErrorKind.OPERATION_NOT_ALLOWED
    return record


def is_model_allowed(model: str | None, patterns: Iterable[str] | None) -> bool:
    """Return whether a glob of *patterns* matches all of *model*; None allows every model.

    No list allows a request that names no model.
    """
    return patterns is None or (model is not None and is_model_of(patterns, model))


def is_operation_allowed(operation: Operation | None, names: Iterable[str] | None) -> bool:
    """Return whether *operation* is among *names*; None allows all, unknown ones included."""
    return names is None or (operation is not None and operation.value in names)


def is_source_allowed(source: str | None, networks: Iterable[Network] | None) -> bool:
    """Return whether the address *source* is in any of *networks*; None allows every address.

    No network holds an unknown or malformed address.
    """
    if networks is None:
        return True
    try:
        address = ip_address(source or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # A socket for both families shows 192.0.2.1 as ::ffff:192.0.2.1 (RFC 4291, 2.5.5.2).
        address = address.ipv4_mapped
    return any(address in network for network in networks)
