"""What stands below `deploy/` for gateways, as `egret lint` and Kubernetes see it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from egret_tools.envoy_lint.config import EXT_PROC
from egret_tools.envoy_lint.lint import lint

from sidecar.domain.usage import LOG_FORMAT
from sidecar.settings.serving import ServerSettings
from sidecar.settings.stores import UsageSettings
from tests.support.helm import CHART, environment, program
from tests.support.own_envoy import own_text

DEPLOY = Path(__file__).parents[2] / "deploy"
GATEWAYS = DEPLOY / "gateways"
RESOURCES = [path for path in sorted(GATEWAYS.rglob("*.yaml")) if path.parent.name != "envoy"]
EXAMPLES = [*RESOURCES, GATEWAYS / "envoy" / "standalone.yaml", DEPLOY / "compose" / "envoy.yaml"]
JUDGED = {"EnvoyExtensionPolicy", "EnvoyFilter", "GatewayExtension"}
SEND_LOGS = {"Telemetry", "EnvoyProxy"}


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the resources of a file."""
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_egret_lint_finds_nothing_in_an_example(path: Path) -> None:
    """Nor is anything in it silenced, but for answers that workers read for their counts."""
    linted = lint(path.name, path.read_text())
    silenced = {one.rule.id for one in linted.suppressed}
    assert (linted.findings, silenced - {"EGR107", "EGR108", "EGR607"}) == ((), set())


@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_example_holds_what_lint_judges(path: Path) -> None:
    """Silence on a file of other kinds would mean nothing."""
    assert {one["kind"] for one in documents(path)} & (JUDGED | SEND_LOGS)


def test_access_logs_of_examples_have_the_format_that_workers_read() -> None:
    """Any other would be counted as unreadable."""
    proxy = documents(GATEWAYS / "envoy-gateway" / "usage.yaml")[0]
    (setting,) = proxy["spec"]["telemetry"]["accessLog"]["settings"]
    mesh = documents(GATEWAYS / "istio" / "usage.yaml")[0]["spec"]["meshConfig"]
    (provider,) = mesh["extensionProviders"]
    assert setting["format"]["text"] == LOG_FORMAT
    assert provider["envoyOtelAls"]["logFormat"]["text"] == LOG_FORMAT


@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_names_within_an_example_lead_somewhere(path: Path) -> None:
    """A policy for a gateway or a backend of another name does nothing, in silence."""
    known = {(one["kind"], one["metadata"]["name"]) for one in documents(path)}
    outside = {
        # Those of the chart, and what the page says to make.
        ("Service", "egret"), ("Secret", "egret-client-tls"), ("Secret", "llm-tls"),
        ("Secret", "openai-key"), ("ConfigMap", "egret-ca"),
        # sidecar.yaml stands in for a part of standalone.yaml.
        ("Gateway", "llm"),
    }  # fmt: skip
    named = {pair for one in documents(path) for pair in _references(one["spec"])}
    assert named <= known | outside


def _references(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if isinstance(value.get("name"), str) and isinstance(value.get("kind"), str):
            yield value["kind"], value["name"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _gateway_pod() -> dict[str, Any]:
    """The patch of the pods of Envoy Gateway's proxies."""
    (proxy,) = (
        one for one in documents(GATEWAYS / "envoy-gateway" / "sidecar.yaml")
        if one["kind"] == "EnvoyProxy"
    )  # fmt: skip
    patch: dict[str, Any] = proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]["patch"][
        "value"
    ]
    return patch


def test_the_pod_of_the_gateway_with_egret_in_it_is_one_that_kubernetes_knows() -> None:
    """The patch, put over a deployment as small as can be."""
    patch = _gateway_pod()
    patch["spec"]["template"]["spec"]["containers"][0]["image"] = "envoy"
    labels = {"app": "x"}
    patch["spec"]["template"]["metadata"] = {"labels": labels}
    patch["spec"]["selector"] = {"matchLabels": labels}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x"},
        **patch,
    }
    kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_egret_in_the_pod_of_the_gateway_writes_to_volumes_alone() -> None:
    """Its root is read-only: without a volume for usage no worker starts."""
    pod = _gateway_pod()["spec"]["template"]["spec"]
    (egret,) = pod["initContainers"]
    variables = environment(egret)
    written = {
        "/tmp",  # noqa: S108 - of a container
        str(ServerSettings().socket_directory.parent),
        variables["EGRET_USAGE__SPOOL_DIRECTORY"].rpartition("/")[0],
    }
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounts = {one["mountPath"]: volumes[one["name"]] for one in egret["volumeMounts"]}
    spool = mounts[variables["EGRET_USAGE__SPOOL_DIRECTORY"].rpartition("/")[0]]

    assert egret["securityContext"]["readOnlyRootFilesystem"] is True
    assert mounts.keys() == written
    assert int(spool["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30 > (
        int(variables["EGRET_SERVER__WORKERS"]) * UsageSettings().spool_max_bytes
    )


def test_examples_with_two_workers_have_the_resources_of_two() -> None:
    """The chart's own are those of one."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    (egret,) = _gateway_pod()["spec"]["template"]["spec"]["initContainers"]
    kustomize = yaml.safe_load((DEPLOY / "kustomize" / "values.yaml").read_text())

    assert values["workers"] == 1
    assert values["resources"] == {
        "requests": {"cpu": "500m", "memory": "512Mi"},
        "limits": {"memory": "1Gi"},
    }
    two = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    assert (environment(egret)["EGRET_SERVER__WORKERS"], egret["resources"]) == ("2", two)
    assert (kustomize["workers"], kustomize["resources"]) == (2, two)


def test_the_filter_for_istio_lets_egret_change_what_our_own_lets_it_change() -> None:
    """A header that is missing there would fail every request that has it."""
    (resource,) = (
        one for one in documents(GATEWAYS / "istio" / "envoy-filter.yaml")
        if one["kind"] == "EnvoyFilter"
    )  # fmt: skip
    value = resource["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]
    own = next(_ext_procs(yaml.safe_load(own_text())))
    assert value["mutation_rules"] == own["mutation_rules"]


def test_examples_that_patch_the_cluster_of_workers_give_it_our_windows_and_frames() -> None:
    """By default a client that sends frames of one byte cuts off all others' requests."""
    clusters = yaml.safe_load(own_text())["static_resources"]["clusters"]
    (own,) = (one for one in clusters if one["name"] == "egret")
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = own["typed_extension_protocol_options"][name]
    mesh = documents(GATEWAYS / "istio" / "envoy-filter.yaml")[-1]["spec"]["configPatches"][-1]
    assert mesh["patch"]["value"]["typed_extension_protocol_options"] == {name: options}
    (policy,) = (
        one for one in documents(GATEWAYS / "envoy-gateway" / "standalone.yaml")
        if one["kind"] == "EnvoyPatchPolicy"
    )  # fmt: skip
    (patch,) = policy["spec"]["jsonPatches"]
    http2 = options["explicit_http_config"]["http2_protocol_options"]
    assert patch["operation"]["value"] == http2


def test_what_kustomize_makes_is_what_the_chart_makes() -> None:
    """`make chart` renders it anew; the real kustomize reads it."""
    values = ("--values", str(DEPLOY / "kustomize" / "values.yaml"))
    made, built = (
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        for command in (
            (program("helm4"), "template", "egret", str(CHART), *values),
            (program("kubectl"), "kustomize", str(DEPLOY / "kustomize" / "base")),
        )
    )
    assert (DEPLOY / "kustomize" / "base" / "egret.yaml").read_text() == made
    assert _by_name(built) == _by_name(made)


def _by_name(text: str) -> dict[tuple[str, str], Any]:
    resources = [one for one in yaml.safe_load_all(text) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in resources}


def test_compose_has_egret_and_envoy_agree_on_their_sockets() -> None:
    """As many as there are workers, in a volume of both, which the group may use."""
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    told = services["egret"]["environment"]
    config = yaml.safe_load((DEPLOY / "compose" / "envoy.yaml").read_text())
    (cluster,) = (one for one in config["static_resources"]["clusters"] if one["name"] == "egret")
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    folder, workers = ServerSettings().socket_directory, int(told["EGRET_SERVER__WORKERS"])
    assert [one["endpoint"]["address"]["pipe"]["path"] for one in endpoints] == [
        f"{folder}/worker-{index}.sock" for index in range(workers)
    ]
    for service in ("egret", "envoy"):
        assert "sockets:/run/egret" in services[service]["volumes"]
        assert services[service]["read_only"] is True
        assert services[service]["cap_drop"] == ["ALL"]


def test_compose_starts_everything_anew_with_its_machine() -> None:
    """Workers without their database would refuse every key."""
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    policies = {name: service["restart"] for name, service in services.items()}
    assert policies.pop("migrate") == "no"
    assert set(policies.values()) == {"unless-stopped"}


def _ext_procs(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("@type") == f"type.googleapis.com/{EXT_PROC}":
            yield value
        for each in value.values():
            yield from _ext_procs(each)
    elif isinstance(value, list):
        for each in value:
            yield from _ext_procs(each)
