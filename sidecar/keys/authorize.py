"""Decides whether a key may make a request: expiry, status, network, operation, model."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord, Network
from sidecar.domain.subject import Operation
from sidecar.domain.validation import compile_glob
from sidecar.keys.credentials import ApiKey

_NO_DIGEST = bytes(32)
"""Compared with if there is no record, so that both cases take the same time."""


@dataclass(frozen=True, slots=True)
class Authorized:
    """The key is good now; the request acts for the record's principal."""

    record: KeyRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """The key is refused for this reason."""

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
    """Decide by *record* whether *key* is good at *now*, in seconds since the epoch.

    *source* is the client's address and *operation* the requested one; no list allows None.

    The secret comes first: only its holder learns that a key is revoked, expired or disabled.
    To everyone else an id that exists and one that does not look the same.
    """
    stored = _NO_DIGEST if record is None else record.secret_sha256
    is_holder = hmac.compare_digest(stored, key.secret_sha256)
    if record is None or not is_holder:
        return Refused(ErrorKind.INVALID_API_KEY)
    # A revocation counts whatever its time says: clocks differ, and it was meant.
    if record.revoked_at is not None:
        return Refused(ErrorKind.REVOKED_API_KEY)
    if record.expires_at is not None and now >= record.expires_at:
        return Refused(ErrorKind.EXPIRED_API_KEY)
    is_early = record.not_before is not None and now < record.not_before
    if is_early or not (record.enabled and record.team_enabled and record.organization_enabled):
        return Refused(ErrorKind.DISABLED_API_KEY)
    sources, operations = record.allowed_sources, record.allowed_operations
    if sources is not None and not is_source_allowed(source, sources):
        return Refused(ErrorKind.SOURCE_NOT_ALLOWED)
    if operations is not None and not is_operation_allowed(operation, operations):
        return Refused(ErrorKind.OPERATION_NOT_ALLOWED)
    return Authorized(record)


def is_model_allowed(model: str | None, patterns: Iterable[str] | None) -> bool:
    """Return whether a glob of *patterns* matches all of *model*; None allows every model.

    `*` is any run of characters, `?` exactly one; all else stands for itself, in its own case.
    No list allows a request that names no model.
    """
    if patterns is None:
        return True
    if model is None:
        return False
    return any(compile_glob(pattern).match(model) is not None for pattern in patterns)


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


MAX_TAGS: Final = 20
_TAG: Final = re.compile(r"[a-z0-9][a-z0-9._:/=-]{0,62}")


class ScopeError(ValueError):
    """The text is no operation, network or tag; the message describes a valid one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scopes:
    """Allowed operations, networks and first time of a key, None for no bound; and its tags."""

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
    networks: dict[Network, None] = {}
    for text in texts:
        try:
            network = ip_network(text)
        except ValueError:
            network = None
        # After % stands an interface of one machine, which has no meaning on another.
        if network is None or "%" in text:
            raise ScopeError(
                f"{text!r} is no network, write for example 192.0.2.0/24 or 2001:db8::/32"
            )
        networks[network] = None
    return tuple(networks)


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
