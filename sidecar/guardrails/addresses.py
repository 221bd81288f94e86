"""Where a remote check may not lead: addresses that answer with a machine's own credentials."""

from __future__ import annotations

import ipaddress
from typing import Final

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

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


_ENDS_IN_IPV4: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64 (RFC 6052)
        "64:ff9b:1::/48",  # NAT64 within a network (RFC 8215), with a prefix of 96 bits
        "::/96",  # IPv4-compatible (RFC 4291 2.5.5.1); :: and ::1 are in it as well
    )
)


def is_refused_address(text: str) -> bool:
    """Tell whether *text* is an address no remote check may have; names are not judged.

    Loopback and private networks are allowed: in a cluster, that is where their servers live.
    """
    try:
        address: _Address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # The same host, written as IPv4-mapped or -compatible, 6to4, NAT64 or Teredo.
        address = _embedded_ipv4(address) or address
    return any(
        address.version == network.version and address in network for network in _REFUSED_NETWORKS
    )


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.is_loopback:
        return None
    if any(address in network for network in _ENDS_IN_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
