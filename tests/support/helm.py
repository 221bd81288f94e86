"""Renders the chart with the real Helm, 3 and 4."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from sidecar.policy.yaml_positions import LOADER

CHART: Final = Path(__file__).parents[2] / "deploy" / "helm" / "egret"
HELMS: Final = ("helm3", "helm4")
CASES: Final = tuple(
    path.name.removesuffix("-values.yaml") for path in sorted((CHART / "ci").glob("*-values.yaml"))
)

Resource = dict[str, Any]


class HelmError(Exception):
    """What Helm says of values that it does not take."""


def program(name: str) -> str:
    """Return the path of a program that `make helm` installs."""
    path = Path(sys.executable).parent / name
    assert path.is_file(), f"{name} is not there: run `make helm`"
    return str(path)


def render(helm: str, *, case: str | None = None, **values: str) -> list[Resource]:
    """Return the resources of a release `r`, hooks included; *values* as with `--set`, or JSON.

    Raises:
        HelmError: the values are wrong.
    """
    command = [program(helm), "template", "r", str(CHART)]
    if case is not None:
        command += ["--values", str(CHART / "ci" / f"{case}-values.yaml")]
    for name, value in values.items():
        option = "--set-json" if value.startswith("{") else "--set"
        command += [option, f"{name.replace('__', '.')}={value}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if ran.returncode:
        raise HelmError(ran.stderr)
    return [resource for resource in yaml.load_all(ran.stdout, Loader=LOADER) if resource]


def one(resources: list[Resource], kind: str, name: str | None = None) -> Resource:
    """Return the one resource of that kind, and of that name where one is given."""
    (found,) = [
        resource
        for resource in resources
        if resource["kind"] == kind and name in {None, resource["metadata"]["name"]}
    ]
    return found


def pods(resources: list[Resource]) -> list[Resource]:
    """Return the specification of every pod that the resources make."""
    owners = [one["spec"] for one in resources if one["kind"] in {"Deployment", "Job"}]
    owners += [one["spec"]["jobTemplate"]["spec"] for one in resources if one["kind"] == "CronJob"]
    return [owner["template"]["spec"] for owner in owners]


def environment(container: Resource) -> dict[str, Any]:
    """Return the variables of a container, with the value or where it comes from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
