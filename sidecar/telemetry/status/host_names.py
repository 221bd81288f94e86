"""By which names the metrics port may be asked: against DNS rebinding.

A web page that a browser here has open may point its own name at 127.0.0.1 and then read what
answers there as if it were its own. The name in Host stays that of the page.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence
from typing import Final

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]{1,5})?")


def is_known(hosts: Sequence[str], names: Collection[str]) -> bool:
    """Return whether a request with these Host headers may be answered.

    An address is no name and cannot be pointed anywhere; without Host no browser has asked.
    """
    if not hosts:
        return True
    match = _HOST.fullmatch(hosts[0])
    if match is None or len(hosts) > 1:
        return False
    name = match[1].lower().removesuffix(".")
    return name == "localhost" or name in names or is_address(name.strip("[]"))


def is_address(text: str) -> bool:
    """Return whether *text* is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
