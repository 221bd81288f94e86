"""Brings a configuration for production to this machine: other addresses and files, no more."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.second_gateway import Config

LOOPBACK: Final = "127.0.0.1"
NAMED: Final = "localhost"
"""The name in the certificates of our providers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What there is on this machine of that which a configuration names."""

    sds: Path
    """Every file of secrets by its own name, whichever folder a configuration has it in."""
    provider_ca: Path
    providers: Mapping[str, int]
    """Ports by cluster."""
    worker_socket: Path
    worker_port: int
    """The same worker over mutual TLS."""
    collector_port: int


def at_home(config: Config, home: Home) -> Config:
    """Return it with this machine's addresses and files."""
    moved = copy.deepcopy(config)
    moved["admin"]["address"] = _address(0)
    for listener in moved["static_resources"]["listeners"]:
        listener["address"] = _address(0)
    for cluster in moved["static_resources"]["clusters"]:
        _move(cluster, home)
    for each in _objects(moved):
        _move_files(each, home)
    return moved


def _address(port: int) -> Config:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def _move(cluster: Config, home: Home) -> None:
    (group,) = cluster["load_assignment"]["endpoints"]
    match cluster["name"]:
        case "egret" if "pipe" in group["lb_endpoints"][0]["endpoint"]["address"]:
            address: Config = {"pipe": {"path": str(home.worker_socket)}}
        case "egret":
            address = _address(home.worker_port)
        case "otlp":
            address = _address(home.collector_port)
        case "admin":
            # Its socket became a port that is not known yet; nobody asks for metrics here.
            address = _address(0)
        case provider:
            address = _address(home.providers[provider])
            _trust(cluster["transport_socket"]["typed_config"], home)
    group["lb_endpoints"] = [{"endpoint": {"address": address}}]


def _trust(tls: Config, home: Home) -> None:
    """Have Envoy look for what is in our providers' certificates."""
    tls["sni"] = NAMED
    validation = tls["common_tls_context"]["validation_context"]
    validation["trusted_ca"] = {"filename": str(home.provider_ca)}
    (name,) = validation["match_typed_subject_alt_names"]
    name["san_type"], name["matcher"] = "DNS", {"exact": NAMED}


def _objects(value: Any) -> Iterator[Config]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)


def _move_files(value: Config, home: Home) -> None:
    source = value.get("path_config_source")
    if source:
        source["path"] = str(home.sds / Path(source["path"]).name)
        source["watched_directory"] = {"path": str(home.sds)}
