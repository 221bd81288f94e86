"""Reads the scopes of a key as people write them: operations, networks, first time, tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Final

from sidecar.domain.principal import Network
from sidecar.domain.validation import fault_of_operations

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
    if fault := fault_of_operations(names):
        raise ScopeError(fault)
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
