"""Checks that documents and commands share: times, operations, globs of models, addresses.

Also the plain sentences for the faults that pydantic finds in documents, settings and options.
"""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidecar.domain.subject import Operation

if TYPE_CHECKING:  # the domain needs no pydantic
    from pydantic_core import ErrorDetails

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""PostgreSQL keeps times that are beyond Python's dates, or are so in some time zone."""

ACCEPTED_TIMES: Final = "between 1970 and 9998"


def is_text(text: str) -> bool:
    """Return whether PostgreSQL can hold *text*: no NUL, and no lone surrogate.

    Python makes the latter of bytes of a command line that are not UTF-8.
    """
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def is_accepted(moment: datetime) -> bool:
    """Return whether every part of Egret, and PostgreSQL, can hold *moment* in any time zone."""
    return _EARLIEST <= moment < _END


def accepted(moment: datetime) -> datetime:
    """Return *moment*, in UTC if it has no time zone.

    Raises:
        ValueError: it is not accepted; the message is to stand after the name of its field.
    """
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if not is_accepted(moment):
        raise ValueError(f"not {ACCEPTED_TIMES}")
    return moment


_MACHINES: Final = frozenset({"localtime", "Factory", "posixrules"})
"""Files of a machine beside the zones: `localtime` differs from one to another."""


def is_time_zone(name: str, *, was_stored: bool = False) -> bool:
    """Return whether *name* is a time zone, the same on every machine.

    Former versions stored those of a machine: they are still read.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # the name of a folder, or too long
        return False
    return was_stored or name not in _MACHINES


_OPERATIONS: Final = sorted(operation.value for operation in Operation)
_MODEL_GLOB: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")


def fault_of_operations(names: Iterable[str]) -> str | None:
    """Return the fault of the first name that is no operation, None if all are operations."""
    for name in names:
        if name not in _OPERATIONS:
            return f"there is no operation {name!r}; there are {', '.join(_OPERATIONS)}"
    return None


def fault_of_models(globs: Iterable[str]) -> str | None:
    """Return the fault of the first glob that can be no model's, None if all are globs."""
    for glob in globs:
        if not _MODEL_GLOB.fullmatch(glob):
            return (
                f"{glob[:60]!r} is no model: write a name or a glob, such as gpt-*,"
                " of 1 to 200 characters without control characters"
            )
    return None


@functools.lru_cache(maxsize=4096)
def compile_glob(glob: str) -> re.Pattern[str]:
    """Return a pattern for whole names; every character but `*` and `?` stands for itself.

    ASCII letters match in any case, others in their own: `k` is no Kelvin sign. fnmatch builds
    atomic groups: a long name cannot make a glob of many stars backtrack. A bracket would open a
    character class; within one it stands for itself.
    """
    return re.compile(fnmatch.translate(glob.replace("[", "[[]")), re.IGNORECASE | re.ASCII)


def is_model_of(globs: Iterable[str], model: str) -> bool:
    """Return whether one of *globs* matches all of *model*."""
    return any(compile_glob(glob).match(model) is not None for glob in globs)


_PLAIN_MODEL: Final = re.compile(r"[A-Za-z0-9._:/@+-]{1,200}")
"""Names that no server trims, folds or unescapes into another, but for their case."""


def may_be_model(model: str, globs: Iterable[str]) -> bool:
    """Return whether a server could read *model* as a name that one of *globs* matches.

    Any name that is not plain is one: a client must not escape by its spelling.
    """
    return _PLAIN_MODEL.fullmatch(model) is None or is_model_of(globs, model)


def is_glob_within(glob: str, globs: Iterable[str]) -> bool:
    """Return whether one of *globs* surely matches every name that *glob* matches.

    It has to match the names with nothing in place of each `*`, and with a text that is longer
    than any `?` of a glob could take; no glob has the character of that text.
    """
    shortest, longest = glob.replace("*", ""), glob.replace("*", "\0" * 1000)
    return any(
        pattern.match(shortest) is not None and pattern.match(longest) is not None
        for pattern in map(compile_glob, globs)
    )


_REFUSED_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local; 169.254.169.254 is the metadata server of most clouds
        "fe80::/10",  # link-local
        "fd00:ec2::254/128",  # AWS metadata over IPv6
        "fd20:ce::254/128",  # Google metadata over IPv6
        "100.100.100.200/32",  # Alibaba metadata
        "168.63.129.16/32",  # Azure wire server
        "192.0.0.192/32",  # Oracle metadata
        "0.0.0.0/8",
        "::/128",
        "224.0.0.0/4",
        "ff00::/8",
        "255.255.255.255/32",
    )
)

_REFUSED_NAMES: Final = frozenset(
    {
        *("metadata", "metadata.google.internal", "metadata.goog"),
        *("instance-data", "instance-data.ec2.internal"),
        *("metadata.azure.internal", "metadata.azure.com"),
    }
)
"""Metadata servers of clouds, by name."""

_ENDS_IN_IPV4: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64 (RFC 6052)
        "64:ff9b:1::/48",  # NAT64 within a network (RFC 8215), with a prefix of 96 bits
        "::/96",  # IPv4-compatible (RFC 4291 2.5.5.1); :: and ::1 are in it as well
    )
)


IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_refused_address(text: str) -> bool:
    """Return whether *text* is an address no remote check may have, or a name of one.

    Other names are False: their addresses are checked once they are resolved. Loopback and
    private networks are allowed: in a cluster, the servers live there.
    """
    address = _host_address(text)
    if address is None:
        # `2852039166` is no address here, but the resolver of the C library takes it for one.
        is_number = text.replace(".", "").isdigit()
        return is_number or text.lower().removesuffix(".") in _REFUSED_NAMES
    return _is_in(address, _REFUSED_NETWORKS)


def is_private_address(text: str, *, allowed: Collection[IpNetwork] = ()) -> bool:
    """Return whether *text* is an address that is not public, and in no *allowed* network.

    Names are False: their addresses are checked once they are resolved.
    """
    address = _host_address(text)
    return address is not None and not address.is_global and not _is_in(address, allowed)


def _host_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address, by its IPv4 form if it has one; None if *text* is a name.

    One host may be written as NAT64, IPv4-compatible, IPv4-mapped, 6to4 or Teredo.
    """
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return address
    if any(address in network for network in _ENDS_IN_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def _is_in(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Collection[IpNetwork]
) -> bool:
    return any(address.version == network.version and address in network for network in networks)


_TYPES: Final = {
    "extra_forbidden": "is not a known field",
    "missing": "is required",
    **dict.fromkeys(("tuple_type", "list_type", "set_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "dataclass_type", "mapping_type"), "must be a mapping"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "must be a mapping"),
    "string_type": "must be text",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "decimal_parsing"), "must be a number"),
}
"""Sentences by pydantic's type of fault; its own name Python's types."""

_PYTHON: Final = (
    (re.compile(r"^(Value error|Assertion failed), "), ""),
    (re.compile(r"^\w+ should "), "must "),
    (re.compile(r"greater than or equal to"), "at least"),
    (re.compile(r"less than or equal to"), "at most"),
)
_QUOTED: Final = re.compile(r"'([^']*)'")


def plain_fault(detail: ErrorDetails) -> str:
    """Return a fault in plain words, to stand after the name of its field."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in {"enum", "literal_error"}:
        return f"must be one of {', '.join(_QUOTED.findall(context['expected']))}"
    if kind in {"too_short", "too_long"}:
        # A secret is a value to pydantic, not a text.
        unit = "character" if context["field_type"] == "Value" else "item"
        side, count = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        return f"must have at {side} {context[count]} {unit}{'s' * (context[count] != 1)}"
    words = detail["msg"]
    for pattern, plain in _PYTHON:
        words = pattern.sub(plain, words)
    return words
