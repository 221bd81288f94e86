"""What Podman plays is the pod that the chart makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from egret_tools.devstack.credentials import write_certificates

from deploy.kube_play import PROBES, Provider, playable, rendered
from tests.support.helm import Resource, one

IMAGES = ("localhost/egret:dev", "localhost/envoy:1.40")
PROVIDER = Provider(1, "an authority")


def _pod(resources: list[Resource]) -> dict[str, Any]:
    spec: dict[str, Any] = one(resources, "Deployment")["spec"]["template"]["spec"]
    return spec


def _by_name(named: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in named}


def test_containers_are_played_as_the_chart_has_them(tmp_path: Path) -> None:
    """Users, rights, arguments, mounts and all: Egret first, and not restarted on its own."""
    chart = rendered(*IMAGES)
    played = _pod(playable(chart, write_certificates(tmp_path / "certificates"), PROVIDER))
    made = _pod(chart)
    (sidecar,) = made["initContainers"]
    assert sidecar.pop("restartPolicy") == "Always"
    for probe in PROBES:
        assert "httpGet" in _by_name(made["containers"])["envoy"].pop(probe)
    assert [each["name"] for each in played["containers"]] == ["egret", "envoy", "drain"]
    assert _by_name(played["containers"]) == _by_name([sidecar, *made["containers"]])
    assert played["securityContext"] == made["securityContext"]


def test_every_volume_that_is_played_is_there(tmp_path: Path) -> None:
    """Secrets that the chart leaves to its user included; none is a kind that Podman lacks."""
    resources = playable(rendered(*IMAGES), write_certificates(tmp_path / "c"), PROVIDER)
    known = {
        (each["kind"], each["metadata"]["name"])
        for each in resources
        if each["kind"] in {"Secret", "ConfigMap"}
    }
    for volume in _pod(resources)["volumes"]:
        match volume:
            case {"secret": {"secretName": name}}:
                assert ("Secret", name) in known
            case {"configMap": {"name": name}}:
                assert ("ConfigMap", name) in known
            case _:
                assert "medium" not in volume["emptyDir"]
