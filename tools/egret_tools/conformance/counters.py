"""What Envoy counted: of the ext_proc filter of a listener, and of the server's cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp

from egret_tools.conformance.envoy_setup import FILTER_PREFIX, SERVER_CLUSTER

OPEN_STREAMS: Final = "upstream_rq_active"
"""Of the cluster: streams that nobody has ended yet."""
SERVER_RESETS: Final = "upstream_rq_rx_reset"
"""Of the cluster: streams that the server reset, where it should have ended them."""

Counters = Mapping[str, int]


async def read_counters(client: aiohttp.ClientSession, admin_url: str, *, mode: str) -> Counters:
    """Return the filter's counters by name, and those of the cluster."""
    filter_prefix = f"http.{mode}.ext_proc.{FILTER_PREFIX}."
    cluster_prefix = f"cluster.{SERVER_CLUSTER}."
    wanted = f"^http.{mode}.ext_proc|^cluster.{SERVER_CLUSTER}.upstream_rq_(active|rx_reset)$"
    async with client.get(f"{admin_url}/stats", params={"filter": wanted}) as answer:
        lines = (await answer.text()).splitlines()
    pairs = (line.rpartition(": ") for line in lines)
    return {
        name.removeprefix(filter_prefix).removeprefix(cluster_prefix): int(value)
        for name, _, value in pairs
        if value.isdigit()
    }


def since(before: Counters, now: Counters) -> Counters:
    """Return what was counted in between; of the open streams, how many there are."""
    return {
        name: value if name == OPEN_STREAMS else value - before.get(name, 0)
        for name, value in now.items()
    }
