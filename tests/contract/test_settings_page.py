"""The table of settings in docs/deploy.md has every setting with its default."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from pydantic import BaseModel, SecretStr

from deploy.chart_envoy import METRICS_PORT
from sidecar.settings.process import ENV_PREFIX, FORMER_SETTINGS, Settings

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "deploy.md"
ROW: Final = re.compile(r"^\| (`EGRET_[^|]+) \| ([^|]+) \|", re.MULTILINE)


def _of_code() -> Iterator[tuple[str, object]]:
    for section, value in Settings.model_construct():
        assert isinstance(value, BaseModel)
        for name, default in type(value)():
            variable = f"{ENV_PREFIX}{section}__{name}".upper()
            if variable not in FORMER_SETTINGS:
                yield variable, default


def _of_page() -> Iterator[tuple[str, str]]:
    for names, defaults in ROW.findall(PAGE.read_text(encoding="utf-8")):
        variables = re.findall(r"`(\w+)`", names)
        told = defaults.split(", ") if ", " in defaults else [defaults] * len(variables)
        yield from zip(variables, told, strict=True)


def _as_told(default: object) -> str:
    match default:
        case None | "" | ():
            return "none"
        case enum.Enum():
            return str(default.value)
        case SecretStr():
            return default.get_secret_value()
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case _:
            return str(default)


CODE: Final = dict(_of_code())
TOLD: Final = dict(_of_page())
SOCKETS: Final = str(CODE["EGRET_SERVER__SOCKET_DIRECTORY"])


def test_every_setting_has_a_row_and_every_row_is_a_setting() -> None:
    """The page says that these are all."""
    assert sorted(TOLD) == sorted(CODE)


@pytest.mark.parametrize("name", sorted(CODE))
def test_the_default_is_the_one_that_holds(name: str) -> None:
    """In the words of the page: what comes after it in brackets is for readers."""
    told = re.sub(r" \(.*\)$", "", TOLD.get(name, "")).strip("`")
    if re.fullmatch("0[0-7]{3}", told):  # octal, as the program reads it too
        told = str(int(told, 8))

    assert told in {_as_told(CODE[name]), "the system's"}


@pytest.mark.parametrize(
    ("named", "place"),
    [
        (r"[\w./-]+(?=/worker-[^/\s]*\.sock)", SOCKETS),
        (r"EGRET_SERVER__SOCKET_DIRECTORY\W+(?:value\W+)?(/[\w/]+)", SOCKETS),
        (r"[\w./-]+admin\.sock", "/run/envoy/admin.sock"),
        (r"(?<=127\.0\.0\.1:)\d+(?=/(?:api|login))", str(CODE["EGRET_ADMIN__PORT"])),
    ],
    ids=["sockets", "their folder", "Envoy's admin", "egret admin"],
)
def test_examples_and_deployments_name_the_same_places(named: str, place: str) -> None:
    """So a configuration from one page fits the workers that another page starts."""
    found = {
        (match, path)
        for folder in ("deploy", "docs", "sidecar/cli", "tools/egret_tools/cli")
        for path in (ROOT / "Dockerfile", *(ROOT / folder).rglob("*"))
        if path.suffix in {"", ".md", ".json", ".py", ".tpl", ".yaml"} and path.is_file()
        for match in re.findall(named, path.read_text(encoding="utf-8"))
    }

    assert found
    assert {(match, path) for match, path in found if match != place} == set()


def test_what_listens_on_one_machine_has_ports_of_its_own() -> None:
    """Workers, the Envoy of the shipped configurations and `egret admin` by default."""
    ports = (CODE["EGRET_TELEMETRY__METRICS_PORT"], CODE["EGRET_ADMIN__PORT"], METRICS_PORT)

    assert len(set(ports)) == 3
