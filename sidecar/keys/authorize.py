"""Decides whether a key may make a request: expiry, status, network, operation, model."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord, Network
from sidecar.domain.subject import Operation
from sidecar.domain.validation import compile_glob
from sidecar.keys.credentials import ApiKey

_NO_DIGEST = bytes(32)
"""Compared with where there is no record, so that both cases do the same work."""


@dataclass(frozen=True, slots=True)
class Authorized:
    """The key is good now; the request acts for the record's principal."""

    record: KeyRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """The key is not good, for this reason."""

    kind: ErrorKind


Authorization = Authorized | Refused


def authorize(
    record: KeyRecord | None,
    key: ApiKey,
    *,
    now: float,
    source: str | None = None,
    operation: Operation | None = None,
) -> Authorization:
    """Judge *key* by *record* at *now*, in seconds since the epoch.

    *source* is the client's address and *operation* what it asks for; None where nobody can tell,
    which no list allows.

    The secret comes first: only its holder learns that a key is revoked, expired or disabled;
    to everyone else an id that exists and one that does not look the same.
    """
    stored = _NO_DIGEST if record is None else record.secret_sha256
    is_holder = hmac.compare_digest(stored, key.secret_sha256)
    if record is None or not is_holder:
        return Refused(ErrorKind.INVALID_API_KEY)
    fault = _fault_of(record, now=now)
    if fault is not None:
        return Refused(fault)
    if not is_source_allowed(source, record.allowed_sources):
        return Refused(ErrorKind.SOURCE_NOT_ALLOWED)
    if not is_operation_allowed(operation, record.allowed_operations):
        return Refused(ErrorKind.OPERATION_NOT_ALLOWED)
    return Authorized(record)


def _fault_of(record: KeyRecord, *, now: float) -> ErrorKind | None:
    """Return why the key is good for nothing now."""
    # A revocation counts whatever its time says: clocks differ, and it was meant.
    if record.revoked_at is not None:
        return ErrorKind.REVOKED_API_KEY
    if record.expires_at is not None and now >= record.expires_at:
        return ErrorKind.EXPIRED_API_KEY
    if record.not_before is not None and now < record.not_before:
        return ErrorKind.DISABLED_API_KEY
    if not (record.enabled and record.team_enabled and record.organization_enabled):
        return ErrorKind.DISABLED_API_KEY
    return None


def is_model_allowed(model: str | None, patterns: Iterable[str] | None) -> bool:
    """Tell whether any glob of *patterns* matches the whole of *model*; None allows every model.

    `*` is any run of characters, `?` exactly one; all else stands for itself, in its own case.
    A request that names no model is not one that a list allows.
    """
    if patterns is None:
        return True
    if model is None:
        return False
    return any(compile_glob(pattern).match(model) is not None for pattern in patterns)


def is_operation_allowed(operation: Operation | None, names: Iterable[str] | None) -> bool:
    """Tell whether *operation* is among *names*; None allows all, unknown ones included."""
    return names is None or (operation is not None and operation.value in names)


def is_source_allowed(source: str | None, networks: Iterable[Network] | None) -> bool:
    """Tell whether the address *source* is in any of *networks*; None allows every address.

    An address that is not known, or none at all, is in no network.
    """
    if networks is None:
        return True
    address = _address(source)
    return address is not None and any(address in network for network in networks)


def _address(text: str | None) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address("" if text is None else text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # A socket for both families shows 192.0.2.1 as ::ffff:192.0.2.1 (RFC 4291, 2.5.5.2).
        return address.ipv4_mapped or address
    return address


MAX_TAGS: Final = 20
_TAG: Final = re.compile(r"[a-z0-9][a-z0-9._:/=-]{0,62}")


class ScopeError(ValueError):
    """Not an operation, a network or a tag; the message says what would be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scopes:
    """What a key may be used for, from where and from when, None for no bound; and its tags."""

    operations: tuple[str, ...] | None = None
    sources: tuple[Network, ...] | None = None
    not_before: datetime | None = None
    tags: tuple[str, ...] = ()


def parse_operations(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of operations, each once, in order.

    Raises:
        ScopeError: there is no such operation.
    """
    known = {operation.value for operation in Operation}
    for name in names:
        if name not in known:
            raise ScopeError(
                f"there is no operation {name!r}; there are {', '.join(sorted(known))}"
            )
    return tuple(sorted(set(names)))


def parse_sources(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return networks; an address alone is a network of one.

    Raises:
        ScopeError: not a network, or an address within one.
    """
    return tuple(dict.fromkeys(_network(text) for text in texts))


def parse_tags(texts: Sequence[str]) -> tuple[str, ...]:
    """Return tags, each once, in order.

    Raises:
        ScopeError: no tag, or too many.
    """
    for text in texts:
        if not _TAG.fullmatch(text):
            raise ScopeError(
                f"{text!r} is no tag: lower case letters, digits and . _ : / = -, at most 63"
            )
    tags = tuple(sorted(set(texts)))
    if len(tags) > MAX_TAGS:
        raise ScopeError(f"a key has at most {MAX_TAGS} tags")
    return tags


def _network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError:
        network = None
    # After % stands an interface of one machine, which no other one can know.
    if network is None or "%" in text:
        raise ScopeError(
            f"{text!r} is no network, write for example 192.0.2.0/24 or 2001:db8::/32"
        )
    return network
