"""A further Envoy beside the stack's own: same providers, other configuration or other judges."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from egret_tools.devstack.envoy import EnvoyRun, running_envoy
from egret_tools.devstack.processes import Children

from tests.support.stack import Stack

Config = dict[str, Any]
Adapt = Callable[[Config], None]


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where a further Envoy listens."""

    url: str
    https_url: str
    https_port: int
    admin_url: str


def ext_proc_filters(config: Config) -> list[Config]:
    """Return the settings of the ext_proc filter of every listener, to be changed in place."""
    return [
        http_filter["typed_config"]
        for manager in connection_managers(config)
        for http_filter in manager["http_filters"]
        if http_filter["name"] == "envoy.filters.http.ext_proc"
    ]


def connection_managers(config: Config) -> list[Config]:
    """Return the settings of every HTTP connection manager, to be changed in place."""
    return [
        network_filter["typed_config"]
        for listener in config["static_resources"]["listeners"]
        for chain in listener["filter_chains"]
        for network_filter in chain["filters"]
    ]


def processing_mode(**modes: str) -> Adapt:
    """Change these fields of the processing mode."""

    def adapt(config: Config) -> None:
        for settings in ext_proc_filters(config):
            settings["processing_mode"].update(modes)

    return adapt


def judged_by(*sockets: Path) -> Adapt:
    """Ask these sockets instead of the stack's workers."""

    def adapt(config: Config) -> None:
        for cluster in config["static_resources"]["clusters"]:
            if cluster["name"] == "egret":
                cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
                    {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
                    for socket in sockets
                ]

    return adapt


def beside_processor(socket: Path, *, before: bool, **modes: str) -> Adapt:
    """Put a second processor next to Egret, in every listener that asks Egret."""
    trailers = {"request_trailer_mode": "SEND", "response_trailer_mode": "SEND"}
    settings = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "second"}},
        "message_timeout": "10s",
        "processing_mode": trailers | {"response_header_mode": "SKIP"} | modes,
    }

    def adapt(config: Config) -> None:
        clusters = config["static_resources"]["clusters"]
        egret = next(one for one in clusters if one["name"] == "egret")
        second = copy.deepcopy(egret) | {"name": "second"}
        address = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
        second["load_assignment"] = {
            "cluster_name": "second",
            "endpoints": [{"lb_endpoints": [address]}],
        }
        clusters.append(second)
        for manager in connection_managers(config):
            filters = manager["http_filters"]
            for index, one in enumerate(filters):
                if one["name"] == "envoy.filters.http.ext_proc":
                    place = index if before else index + 1
                    filters.insert(place, {"name": "second", "typed_config": settings})
                    break

    return adapt


@asynccontextmanager
async def second_gateway(stack: Stack, *changes: Adapt) -> AsyncIterator[Gateway]:
    """Run an Envoy with the stack's configuration, changed so, on ports of its own."""
    config: Config = yaml.safe_load((stack.run.path / "envoy.yaml").read_text())
    _without_logs(config)
    for change in changes:
        change(config)
    with tempfile.TemporaryDirectory(prefix="egret-gw-") as place:
        run = EnvoyRun(Path(place), Path(place), threads=1)
        text = yaml.safe_dump(config, sort_keys=False)
        async with running_envoy(Children(), run=run, config=text) as address:
            yield Gateway(
                url=f"http://127.0.0.1:{address.http_port}",
                https_url=f"https://localhost:{address.https_port}",
                https_port=address.https_port,
                admin_url=address.admin_url,
            )


def _without_logs(config: Config) -> None:
    """Leave the stack's access log to the stack's Envoy."""
    for manager in connection_managers(config):
        del manager["access_log"]
