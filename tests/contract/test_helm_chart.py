"""The chart, rendered by Helm 3 and 4 over values that stand beside it."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml
from egret_tools.devstack.credentials import write_certificates, write_credential
from egret_tools.devstack.envoy_config import ModelRoute
from egret_tools.devstack.processes import envoy_program
from egret_tools.envoy_lint.lint import lint
from pydantic import SecretStr

from deploy.chart_envoy import WRITTEN
from sidecar.cli.doctor import doctor
from sidecar.settings.serving import ExchangeSettings, ServerSettings
from sidecar.settings.stores import UsageSettings
from tests.support.helm import (
    CASES,
    CHART,
    HELMS,
    HelmError,
    Resource,
    environment,
    one,
    pods,
    render,
)

KUBERNETES = ("1.30", "1.37")
"""The oldest that the chart takes, and the newest that there is a schema of."""
CUSTOM = {"ExternalSecret", "ScaledObject", "ServiceMonitor", "PrometheusRule"}
DASHBOARDS = CHART.parents[1] / "grafana"
SIDECARS = [case for case in CASES if case.startswith("sidecar")]
PROVIDERS = {"openai", "anthropic", "azure", "gemini", "bedrock"}


@cache
def rendered(helm: str, case: str) -> list[Resource]:
    """Return what the chart makes of the values of *case*; not to be changed."""
    return render(helm, case=case)


@pytest.mark.parametrize("case", CASES)
def test_both_helms_make_the_same_of_the_chart(case: str) -> None:
    """Resources, to the last field."""
    three, four = (
        {(each["kind"], each["metadata"]["name"]): each for each in rendered(helm, case)}
        for helm in HELMS
    )
    assert three == four


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_field(case: str, version: str) -> None:
    """Of its own kinds; those of operators are listed here."""
    custom = set()
    for resource in rendered("helm4", case):
        if resource["kind"] in CUSTOM:
            custom.add(resource["kind"])
        else:
            kubernetes_validate.validate(resource, version, strict=True)
    assert custom == (CUSTOM if case == "sidecar-full" else set())


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_allowed_where_only_restricted_ones_are(case: str) -> None:
    """Pod Security Standards, profile `restricted`, and a read-only root beside it."""
    found = pods(rendered("helm4", case))
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert own["readOnlyRootFilesystem"] is True
            assert own.get("runAsUser", pod["securityContext"]["runAsUser"]) > 0
            assert container["resources"]["limits"]["memory"]
        assert {volume for each in pod["volumes"] for volume in each} <= {
            "name", "emptyDir", "secret", "configMap", "projected", "persistentVolumeClaim",
        }  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_mounted_is_there_and_what_is_there_is_mounted(case: str) -> None:
    """A name that is wrong shows only when a pod starts, or stops starting."""
    for pod in pods(rendered("helm4", case)):
        mounted = {
            mount["name"]
            for container in (*pod["containers"], *pod.get("initContainers", ()))
            for mount in container["volumeMounts"]
        }
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert [len(volume) for volume in pod["volumes"]] == [2] * len(mounted)  # one kind each


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("most", [UsageSettings().spool_max_bytes, 2 << 30, "5000000000"])
def test_a_folder_for_usage_has_room_for_what_all_workers_may_keep(
    workers: int, most: int | str
) -> None:
    """Kubernetes evicts a pod whose folder exceeds its limit, with all usage that waits in it."""
    settings = json.dumps({"EGRET_USAGE__SPOOL_MAX_BYTES": most})
    resources = render("helm4", case="sidecar", workers=f"{workers}", settings=settings)
    volumes = one(resources, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (usage,) = [volume for volume in volumes if volume["name"] == "usage"]
    room = int(usage["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
    assert room > workers * int(most)


def test_a_service_for_clients_outside_may_keep_their_addresses() -> None:
    """A key that is bound to networks is refused otherwise: the address would be a node's."""
    service = '{"type": "LoadBalancer", "externalTrafficPolicy": "Local"}'
    spec = one(render("helm4", case="sidecar", envoy__service=service), "Service", "r-egret")
    assert spec["spec"]["externalTrafficPolicy"] == "Local"


@pytest.mark.parametrize("case", ["sidecar-full", "standalone"])
def test_jobs_and_administration_have_the_settings_of_the_values_and_valkey(case: str) -> None:
    """They notify workers through Valkey, and read the same settings."""
    own = {"EGRET_VALKEY__URL"} if case == "standalone" else {
        "EGRET_VALKEY__URL", "EGRET_VALKEY__PASSWORD_FILE", "EGRET_EXCHANGE__INSPECT_SECONDS",
        "EGRET_EXCHANGE__MAX_BODY_BYTES", "EGRET_TELEMETRY__OTLP_ENDPOINT",
        "EGRET_REDACTION__HASH_KEY",
    }  # fmt: skip
    resources = render(
        "helm4", case=case, valkey__existingSecret="egret-valkey", policies="name: p",
        admin='{"enabled": true, "publicUrl": "https://a.example", "existingSecret": "console"}',
    )  # fmt: skip
    names = set()
    for pod in pods(resources):
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            if "env" in container and "EGRET_KEY" not in (variables := environment(container)):
                names.add(container["name"])
                assert own <= variables.keys()
                assert variables.get("EGRET_EXCHANGE__MAX_BODY_BYTES", "20971520") == "20971520"
                if "EGRET_VALKEY__PASSWORD_FILE" in own:
                    _assert_is_from_a_folder(pod, "EGRET_VALKEY__PASSWORD_FILE", container)
    assert {"egret", "admin", "migrate", "policies"} <= names


def test_names_of_scheduled_jobs_are_as_short_as_kubernetes_demands() -> None:
    """Of 52 characters at most, as it appends eleven."""
    resources = render("helm4", case="sidecar-full", fullnameOverride="x" * 53)
    names = [each["metadata"]["name"] for each in resources if each["kind"] == "CronJob"]
    assert {name.rpartition("-")[2] for name in names} == {"attached", "drift"}
    assert {len(name) for name in names} == {52}


@pytest.mark.parametrize("case", CASES)
def test_workers_read_their_dsn_from_a_secret_that_may_change(case: str) -> None:
    """A folder: a file that is mounted by itself never changes."""
    pod = one(rendered("helm4", case), "Deployment")["spec"]["template"]["spec"]
    _assert_is_from_a_folder(pod, "EGRET_POSTGRES__DSN_FILE")


def test_workers_read_valkeys_password_from_a_secret_that_may_change() -> None:
    """Where it has a key of its own; where the URL holds it, nothing is mounted."""
    own, of_url = (
        one(rendered("helm4", case), "Deployment")["spec"]["template"]["spec"]
        for case in ("sidecar-full", "sidecar")
    )
    _assert_is_from_a_folder(own, "EGRET_VALKEY__PASSWORD_FILE")
    assert "EGRET_VALKEY__PASSWORD_FILE" not in environment(_egret(of_url))


def _egret(pod: dict[str, Any]) -> dict[str, Any]:
    containers = (*pod["containers"], *pod.get("initContainers", ()))
    return next(one for one in containers if one["name"] == "egret")


def _assert_is_from_a_folder(
    pod: dict[str, Any], variable: str, container: dict[str, Any] | None = None
) -> None:
    egret = container or _egret(pod)
    folder, _, file = environment(egret)[variable].rpartition("/")
    (mount,) = [one for one in egret["volumeMounts"] if one["mountPath"] == folder]
    (volume,) = [one for one in pod["volumes"] if one["name"] == mount["name"]]
    assert "subPath" not in mount
    assert [item["path"] for item in volume["secret"]["items"]] == [file]


# Sidecar mode.


@pytest.mark.parametrize("case", SIDECARS)
def test_egret_starts_before_envoy_and_ends_after_it(case: str) -> None:
    """A native sidecar with a startup probe; Envoy waits for it, and its end for Envoy's."""
    pod = one(rendered("helm4", case), "Deployment")["spec"]["template"]["spec"]
    (egret,) = pod["initContainers"]
    assert (egret["name"], egret["restartPolicy"]) == ("egret", "Always")
    assert egret["startupProbe"]["exec"]["command"] == ["egret", "health", "started"]
    assert [container["name"] for container in pod["containers"]] == ["envoy", "drain"]


@pytest.mark.parametrize("case", SIDECARS)
def test_answers_under_way_have_the_time_that_they_were_promised(case: str) -> None:
    """Envoy waits as long as it drains, and the pod's grace is longer than all drains together."""
    pod = one(rendered("helm4", case), "Deployment")["spec"]["template"]["spec"]
    envoy = pod["containers"][0]
    drain = envoy["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert envoy["args"][envoy["args"].index("--drain-time-s") + 1] == str(drain)
    assert pod["terminationGracePeriodSeconds"] > drain + _own_drain(pod["initContainers"][0])


def _own_drain(egret: Resource) -> int:
    told = environment(egret)
    delay, grace = (
        float(told[f"EGRET_SERVER__DRAIN_{part}_SECONDS"]) for part in ("DELAY", "GRACE")
    )
    return math.ceil(delay + grace)


def _envoy_config(resources: list[Resource]) -> dict[str, Any]:
    name = one(resources, "Deployment")["metadata"]["name"]
    config: dict[str, Any] = json.loads(
        one(resources, "ConfigMap", f"{name}-envoy")["data"]["envoy.json"]
    )
    return config


@pytest.mark.parametrize("case", SIDECARS)
def test_egret_lint_finds_nothing_in_the_charts_envoy(case: str) -> None:
    """Whatever is taken away from it."""
    text = json.dumps(_envoy_config(rendered("helm4", case)))
    assert lint("envoy.json", text).findings == ()


@pytest.mark.parametrize("case", CASES)
def test_egret_lint_passes_the_rendered_chart_as_it_is(case: str) -> None:
    """`helm template … | egret lint -`, without a flag for the kinds that hold no Envoy."""
    linted = lint("chart.yaml", yaml.safe_dump_all(rendered("helm4", case)))
    assert (linted.findings, linted.unchecked) == ((), ())
    assert linted.without_envoy > 1


@pytest.fixture(scope="module")
def sds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that are mounted into Envoy's container."""
    place = tmp_path_factory.mktemp("chart")
    certificates = write_certificates(place / "certificates")
    server = place / "server-certificate"
    server.mkdir()
    (server / "tls.crt").write_bytes(certificates.gateway.chain.read_bytes())
    (server / "tls.key").write_bytes(certificates.gateway.private_key.read_bytes())
    (place / "client-ca").mkdir()
    (place / "client-ca" / "ca.crt").write_bytes(certificates.gateway_ca.read_bytes())
    (place / "sds").mkdir()
    for provider in PROVIDERS:
        write_credential(place / "sds", name=provider, header_value=SecretStr("made up"))
    return place


@pytest.mark.parametrize("case", SIDECARS)
def test_envoy_takes_the_charts_configuration(case: str, sds: Path) -> None:
    """The real one, with the files where the test has them."""
    resources = rendered("helm4", case)
    name = one(resources, "Deployment")["metadata"]["name"]
    data = one(resources, "ConfigMap", f"{name}-envoy")["data"]
    moved = {key: value.replace("/etc/egret", str(sds)) for key, value in data.items()}
    config = moved.pop("envoy.json")
    (sds / "envoy.json").write_text(config)
    for name, text in moved.items():
        (sds / "sds" / name).write_text(text)
    checked = subprocess.run(
        [envoy_program(), "--mode", "validate", "-c", sds / "envoy.json", "-l", "error"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")


def _clusters(config: dict[str, Any]) -> dict[str, Any]:
    return {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}


def _hosts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key in {"sni", "host_rewrite_literal", "address", "exact"} and isinstance(
                each, str
            ):
                yield each
            yield from _hosts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _hosts(each)


def test_a_provider_that_is_off_is_nowhere() -> None:
    """No cluster, and what is sent to its API goes to no other provider."""
    config = _envoy_config(rendered("helm4", "sidecar"))
    assert set(_clusters(config)) == {"egret", "openai", "admin"}
    listener = config["static_resources"]["listeners"][0]
    hcm = listener["filter_chains"][0]["filters"][0]["typed_config"]
    first, *routes = hcm["route_config"]["virtual_hosts"][0]["routes"]
    assert first["direct_response"] == {"status": 400}
    for route in routes:
        is_openai = route.get("route", {}).get("cluster") == "openai"
        assert is_openai or route["direct_response"] == {"status": 404}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("budgets", "seconds"),
    [
        ({}, 10),
        ({"EGRET_EXCHANGE__INSPECT_SECONDS": 30}, 35),
        ({"EGRET_EXCHANGE__INSPECT_SECONDS": "7.5"}, 13),
        ({"EGRET_EXCHANGE__AUTHORIZE_SECONDS": 6, "EGRET_EXCHANGE__INSPECT_SECONDS": 20}, 29),
        ({"EGRET_EXCHANGE__AUTHORIZE_SECONDS": 0.1}, 10),
    ],
)
def test_envoy_waits_longer_than_the_budgets_of_the_settings(
    helm: str, budgets: dict[str, Any], seconds: int
) -> None:
    """An exchange that needs them would end with 504 otherwise."""
    resources = render(helm, case="sidecar", settings=json.dumps(budgets))
    (chain,) = _envoy_config(resources)["static_resources"]["listeners"][0]["filter_chains"]
    filters = chain["filters"][0]["typed_config"]["http_filters"]
    (timeout,) = (
        each["typed_config"]["message_timeout"] for each in filters if "ext_proc" in each["name"]
    )
    own = {key.rpartition("__")[2].lower(): value for key, value in budgets.items()}
    exchange = ExchangeSettings.model_validate(own)
    assert timeout == f"{seconds}s"
    assert seconds >= exchange.authorize_seconds + exchange.inspect_seconds + 3


def test_a_host_of_ones_own_stands_everywhere() -> None:
    """Name, certificate, address and Host header; nothing is left of the placeholder."""
    config = _envoy_config(rendered("helm4", "sidecar-full"))
    assert set(_clusters(config)) == PROVIDERS | {"egret", "otlp", "admin"}
    azure = [host for host in _hosts(config) if "openai.azure.com" in host]
    assert len(azure) == 6
    assert ".invalid" not in json.dumps(config)


@pytest.mark.parametrize(
    ("case", "is_on"), [("sidecar", False), ("sidecar-full", True)], ids=["off", "on"]
)
def test_models_lead_to_their_providers_where_the_values_say_so(case: str, *, is_on: bool) -> None:
    """With the header that they go by in Egret's hands alone; nothing of it otherwise."""
    resources = rendered("helm4", case)
    pod = one(resources, "Deployment")["spec"]["template"]["spec"]
    told = environment(pod["initContainers"][0]).get("EGRET_EXCHANGE__ROUTE_BY_MODEL")
    listener = _envoy_config(resources)["static_resources"]["listeners"][0]
    hcm = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes = hcm["route_config"]["virtual_hosts"][0]["routes"]
    by_model = [
        (header["string_match"]["safe_regex"]["regex"], route["route"]["cluster"])
        for route in routes
        for header in route["match"].get("headers", ())
        if header["name"] == "x-egret-model"
    ]
    refused = [route for route in routes if "body" in route.get("direct_response", {})]
    assert routes[0]["name"] == "escaped_slash"
    wanted = [("gpt-.*", "openai"), ("o.-mini", "openai"), ("claude-.*", "anthropic")]
    assert by_model == [each for each in wanted for _ in range(3)] * is_on
    assert (told, len(refused)) == (("on", 3) if is_on else (None, 0))
    assert ("early_header_mutation_extensions" in hcm) is is_on


@pytest.mark.parametrize("helm", HELMS)
def test_models_lead_to_their_providers_below_the_prefixes_of_litellm(helm: str) -> None:
    """As in the rendered configuration: where Azure, whose prefixes they are, is off."""
    resources = render(helm, case="sidecar-full", envoy__providers__azure__enabled="false")
    listener = _envoy_config(resources)["static_resources"]["listeners"][0]
    hcm = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes = hcm["route_config"]["virtual_hosts"][0]["routes"]
    made = {
        (
            route["match"]["safe_regex"]["regex"],
            json.dumps(route.get("route", {}).get("regex_rewrite")),
        )
        for route in routes
        if "body" in route.get("direct_response", {})
        or any(one["name"] == "x-egret-model" for one in route["match"].get("headers", ()))
    }
    (shipped,) = [ModelRoute(models=("m",), provider="openai").matches(has_prefixes=True)]
    rewrite = {"pattern": {"regex": "^/(openai|anthropic)/"}, "substitution": "/"}
    assert made == {
        (cast("Any", match)["safe_regex"]["regex"], json.dumps(one))
        for _, match in shipped
        for one in (rewrite, None)
    }


def test_other_models_go_by_path_where_the_values_say_so() -> None:
    """Instead of 404."""
    config = _envoy_config(render("helm4", case="sidecar-full", envoy__unknownModels="by_path"))
    assert "model_not_found" not in json.dumps(config)


@pytest.mark.parametrize(
    ("case", "is_on"), [("sidecar", False), ("sidecar-full", True)], ids=["off", "on"]
)
def test_clients_certificates_and_spans_are_there_when_asked_for(
    case: str, *, is_on: bool
) -> None:
    """And nothing of them otherwise: Envoy would wait for their files."""
    config = _envoy_config(rendered("helm4", case))
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    tls = chain["transport_socket"]["typed_config"]
    tracing = chain["filters"][0]["typed_config"].get("tracing", {})
    assert tls.get("require_client_certificate", False) is is_on
    assert ("validation_context_sds_secret_config" in tls["common_tls_context"]) is is_on
    assert tracing.get("random_sampling") == ({"value": 2.5} if is_on else None)
    collectors = [
        host for host in _hosts(_clusters(config).get("otlp", {})) if host.startswith("collector")
    ]
    assert collectors == (["collector.observability"] if is_on else [])


def test_a_collectors_name_may_be_absolute() -> None:
    """The resolver tries no search domain then."""
    name = "otel-collector.observability.svc.cluster.local."
    config = _envoy_config(render("helm4", case="sidecar-full", envoy__otlp__host=name))
    assert name in _hosts(_clusters(config)["otlp"])


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_envoys_metrics_are_where_prometheus_is_sent(*, is_on: bool) -> None:
    """One port from the listener to the monitor, or no trace of it."""
    values = {"envoy__metrics__enabled": str(is_on).lower(), "envoy__metrics__port": "9901"}
    resources = render("helm4", case="sidecar-full", **values)
    config = _envoy_config(resources)
    (envoy,) = [
        one
        for one in one(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
        if one["name"] == "envoy"
    ]
    service = one(resources, "Service", "guard-metrics")["spec"]["ports"]
    policy = one(resources, "NetworkPolicy", "guard")["spec"]["ingress"][1]
    ends = one(resources, "ServiceMonitor")["spec"]["endpoints"]
    found = {
        "listener": {
            listener["name"]: listener["address"]["socket_address"]["port_value"]
            for listener in config["static_resources"]["listeners"]
        }.get("metrics"),
        "container": {port["name"]: port["containerPort"] for port in envoy["ports"]}.get(
            "envoy-metrics"
        ),
        "service": {port["targetPort"]: port["port"] for port in service}.get("envoy-metrics"),
        "path": {end["port"]: end["path"] for end in ends}.get("envoy-metrics"),
        "policy": {"port": "envoy-metrics"} in policy["ports"] and policy["from"] != [],
    }
    expected = dict.fromkeys(("listener", "container", "service"), 9901)
    assert found == (
        {**expected, "path": "/stats/prometheus", "policy": True}
        if is_on
        else {**dict.fromkeys((*expected, "path")), "policy": False}
    )
    assert ("admin" in _clusters(config)) is is_on
    assert ("connection_limit" in json.dumps(config["layered_runtime"])) is is_on
    assert lint("envoy.json", json.dumps(config)).findings == ()


@pytest.mark.parametrize(
    ("values", "path"),
    [
        pytest.param({}, "http", id="the chart's configuration"),
        pytest.param({"envoy__metrics__enabled": "false"}, "tcp", id="without its metrics"),
        pytest.param({"envoy__config": "x"}, "tcp", id="a configuration of one's own"),
    ],
)
def test_envoy_is_probed_at_its_start_and_for_readiness_and_life(
    values: dict[str, str], path: str
) -> None:
    """A drain makes it not ready, which is no reason to kill it: life has another path."""
    envoy = _container(render("helm4", case="sidecar", **values), "envoy")
    ready, live = (
        ({"httpGet": {"path": f"/{name}", "port": "envoy-metrics"}} for name in ("ready", "live"))
        if path == "http"
        else ({"tcpSocket": {"port": "https"}},) * 2
    )
    assert ready.items() <= envoy["startupProbe"].items()
    assert ready.items() <= envoy["readinessProbe"].items()
    assert live.items() <= envoy["livenessProbe"].items()


@pytest.mark.parametrize(
    "image", ["docker.io/envoyproxy/envoy:v9", "registry.example:5000/envoy", "envoy:v9@sha256:0"]
)
def test_a_digest_of_envoy_takes_the_place_of_its_tag(image: str) -> None:
    """A port of a registry is no tag."""
    digest = f"sha256:{'ab' * 32}"
    values = {"envoy__image": image, "envoy__digest": digest}
    envoy = _container(render("helm4", case="sidecar", **values), "envoy")
    assert envoy["image"] == f"{image.removesuffix('@sha256:0').removesuffix(':v9')}@{digest}"


def _container(resources: list[Resource], name: str) -> Resource:
    spec = one(resources, "Deployment")["spec"]["template"]["spec"]
    found: Resource
    (found,) = [each for each in spec["containers"] if each["name"] == name]
    return found


def test_envoy_balances_over_the_sockets_of_all_workers() -> None:
    """As many as Egret is told to start, where it makes them."""
    resources = rendered("helm4", "sidecar-full")
    egret = one(resources, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    folder = environment(egret)["EGRET_SERVER__SOCKET_DIRECTORY"]
    assert folder == str(ServerSettings().socket_directory)
    cluster = _clusters(_envoy_config(resources))["egret"]
    found = [
        each["endpoint"]["address"]["pipe"]["path"]
        for each in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ]
    assert environment(egret)["EGRET_SERVER__WORKERS"] == "4"
    assert found == [f"{folder}/worker-{index}.sock" for index in range(4)]
    assert cluster["common_lb_config"]["update_merge_window"] == "0s"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_is_written_from_the_template_is_as_the_template_is_now(path: Path) -> None:
    """`make chart` writes it anew."""
    assert path.read_text() == WRITTEN[path]()


def test_a_change_of_envoys_configuration_rolls_the_pods_and_nothing_else_does() -> None:
    """Envoy reads it once, when it starts; what is equal must not roll."""
    sums = {
        count: one(render("helm4", case="sidecar", workers=count), "Deployment")["spec"][
            "template"
        ]["metadata"]["annotations"]["checksum/envoy"]
        for count in ("1", "2")
    }
    usual = one(rendered("helm4", "sidecar"), "Deployment")
    assert usual["spec"]["template"]["metadata"]["annotations"]["checksum/envoy"] == sums["1"]
    assert sums["1"] != sums["2"]


def test_a_key_that_is_given_is_in_a_secret_alone_as_envoy_reads_it() -> None:
    """Not in the configuration, nor in a pod's environment."""
    resources = render(
        "helm4", case="sidecar", envoy__credentials__existingSecret="",
        envoy__credentials__keys__openai="sk-made-up",
    )  # fmt: skip
    holders = [each["kind"] for each in resources if "sk-made-up" in json.dumps(each)]
    assert holders == ["Secret"]
    secret = yaml.safe_load(one(resources, "Secret")["stringData"]["openai.yaml"])
    (resource,) = secret["resources"]
    assert resource["generic_secret"] == {"secret": {"inline_string": "Bearer sk-made-up"}}


# Standalone mode.


def test_standalone_serves_a_port_with_the_certificates_of_its_secret() -> None:
    """A headless service in front, so that Envoy balances over pods and not over connections."""
    resources = rendered("helm4", "standalone")
    (egret,) = one(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
    told = environment(egret)
    assert (told["EGRET_LISTEN__TLS"], told["EGRET_LISTEN__PORT"]) == ("mutual", "50051")
    folder = next(mount for mount in egret["volumeMounts"] if mount["name"] == "tls")["mountPath"]
    assert {
        told[f"EGRET_LISTEN__{part}_FILE"] for part in ("CERTIFICATE", "KEY", "CLIENT_CA")
    } == {f"{folder}/{file}" for file in ("tls.crt", "tls.key", "ca.crt")}
    service = one(resources, "Service", "r-egret")
    assert service["spec"]["clusterIP"] == "None"
    assert [port["port"] for port in service["spec"]["ports"]] == [50051]


def test_canaries_are_sent_with_options_that_the_command_has_and_a_key_from_a_secret() -> None:
    """The key is in no argument, and a failed run is a failed job."""
    job = one(rendered("helm4", "sidecar-full"), "CronJob", "guard-attached")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    command, *arguments = container["args"]
    known = inspect.signature(doctor).parameters
    options = [word.removeprefix("--") for word in arguments if word.startswith("--")]
    assert command == "doctor"
    assert {option.replace("-", "_") for option in options} <= set(known)
    assert environment(container)["EGRET_KEY"] == {
        "secretKeyRef": {"name": "egret-canary", "key": "key"}
    }
    assert job["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_the_alert_rules_of_the_operator_are_those_that_are_tested() -> None:
    """With the operator's own after them."""
    ours = yaml.safe_load((CHART.parents[1] / "prometheus" / "egret.rules.yaml").read_text())
    groups = one(rendered("helm4", "sidecar-full"), "PrometheusRule")["spec"]["groups"]
    assert groups[:-1] == ours["groups"]
    assert [group["name"] for group in groups][-1] == "own"


def test_the_address_of_the_runbooks_is_a_value() -> None:
    """Of each alert."""
    address = "https://docs.acme.example/runbooks"
    resources = render("helm4", case="sidecar-full", prometheusRule__runbookUrl=address)
    urls = {
        rule["annotations"]["runbook_url"] == f"{address}/{rule['alert']}/"
        for group in one(resources, "PrometheusRule")["spec"]["groups"]
        if group["name"] != "own"
        for rule in group["rules"]
        if "alert" in rule
    }
    assert urls == {True}


def test_grafana_gets_every_dashboard_as_it_is() -> None:
    """A ConfigMap each, with the label that its sidecar looks for."""
    made = {
        name: json.loads(text)
        for each in rendered("helm4", "sidecar-full")
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
        for name, text in each["data"].items()
    }
    ours = {path.name: json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json")}
    assert made == ours
    assert len(ours) > 1


def test_jobs_are_no_endpoints_of_the_services() -> None:
    """A pod that migrates answers no request."""
    resources = rendered("helm4", "sidecar-full")
    jobs = [each for each in resources if each["kind"] == "Job"]
    assert len(jobs) == 3
    for service in (each for each in resources if each["kind"] == "Service"):
        for job in jobs:
            labels = job["spec"]["template"]["metadata"]["labels"]
            assert not service["spec"]["selector"].items() <= labels.items()


def test_a_job_applies_the_files_of_an_installation() -> None:
    """Those of the values, or of an object that exists; with --prune only where that is set."""
    own = rendered("helm4", "sidecar-full")
    job = one(own, "Job", "guard-installation")["spec"]["template"]["spec"]
    args = job["containers"][0]["args"]
    assert args[2:6] == ["apply", "--file", "/etc/egret/installation", "--set"]
    assert args[6:] == ["platform", "--yes", "--no-wait", "--prune", "--secrets", "kubernetes"]
    files = one(own, "Secret", "guard-installation")["stringData"]
    assert yaml.safe_load(files["acme.yaml"]) == {"kind": "Organization", "name": "acme"}

    theirs = render("helm4", case="standalone", installation__existingConfigMap="ours")
    job = one(theirs, "Job", "r-egret-installation")["spec"]["template"]["spec"]
    assert {"name": "files", "configMap": {"name": "ours"}} in job["volumes"]
    assert "--prune" not in job["containers"][0]["args"]
    secret = render("helm4", case="standalone", installation__existingSecret="ours")
    job = one(secret, "Job", "r-egret-installation")["spec"]["template"]["spec"]
    assert {
        "name": "files", "secret": {"secretName": "ours", "defaultMode": 0o440},
    } in job["volumes"]  # fmt: skip
    assert not [each for each in secret if each["kind"] == "Secret"]


def test_credentials_in_policies_and_files_of_an_installation_are_in_secrets_alone() -> None:
    """A guardrail that calls a server has a token in a header; any viewer reads a ConfigMap."""
    resources = render(
        "helm4", case="sidecar", policies="token: made-up",
        installation__files='{"acme.yaml": "token: made-up"}',
    )  # fmt: skip
    holders = {
        (each["kind"], each["metadata"]["name"])
        for each in resources
        if "made-up" in json.dumps(each)
    }
    assert holders == {("Secret", "r-egret-policies"), ("Secret", "r-egret-installation")}
    for name in ("policies", "installation"):
        pod = one(resources, "Job", f"r-egret-{name}")["spec"]["template"]["spec"]
        assert {
            "name": "files",
            "secret": {"secretName": f"r-egret-{name}", "defaultMode": 0o440},
        } in pod["volumes"]


@pytest.mark.parametrize("case", ["sidecar-full", "standalone"])
def test_argo_cd_migrates_once_before_the_workers_and_after_the_needs_of_the_job(
    case: str,
) -> None:
    """Its own hooks stand in for Helm's, which it would run before the account and the Secret."""
    resources = render(
        "helm4", case=case, postgres='{"existingSecret": "", "dsn": "postgresql://u@db/egret"}',
        externalSecret__enabled="false",
        envoy__credentials='{"existingSecret": "egret-providers"}',
    )  # fmt: skip
    name = one(resources, "Deployment")["metadata"]["name"]
    job = one(resources, "Job", f"{name}-migrate")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    needed = {("ServiceAccount", pod["serviceAccountName"])} | {
        ("Secret", source["secretKeyRef"]["name"])
        for source in environment(container).values()
        if isinstance(source, dict)
    }
    waves = {
        (each["kind"], each["metadata"]["name"]): _wave(each)
        for each in resources
        if not _hooks(each, "argocd.argoproj.io")
    }

    assert _hooks(job, "helm.sh") == {"post-install", "pre-upgrade"}
    assert _hooks(job, "argocd.argoproj.io") == {"Sync"}
    assert {("Secret", f"{name}-postgres"), ("ServiceAccount", name)} <= needed & waves.keys()
    assert {waves[one] for one in needed & waves.keys()} == {_wave(job) - 1}
    assert waves["Deployment", name] > _wave(job)
    for other in (each for each in resources if each["kind"] == "Job" and each is not job):
        assert _hooks(other, "helm.sh") == {"post-install", "post-upgrade"}
        assert not _hooks(other, "argocd.argoproj.io")


def test_a_secret_of_an_operator_is_there_before_argo_cd_migrates() -> None:
    """Argo CD waits until the ExternalSecret of the database is healthy."""
    resources = rendered("helm4", "sidecar-full")
    secret = one(resources, "ExternalSecret", "guard-postgres")
    assert _wave(secret) < _wave(one(resources, "Job", "guard-migrate"))


def _hooks(resource: Resource, system: str) -> set[str]:
    hooks = resource["metadata"].get("annotations", {}).get(f"{system}/hook", "")
    return set(hooks.split(",")) - {""}


def _wave(resource: Resource) -> int:
    return int(
        resource["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", "0")
    )


def test_volumes_of_the_values_are_in_every_pod_of_egret() -> None:
    """Settings and DSNs that name a CA are read by all of them; `egret admin` may have more."""
    admin: dict[str, Any] = {
        "enabled": True, "publicUrl": "https://a.example", "existingSecret": "console",
        "extraVolumes": [{"name": "oidc", "secret": {"secretName": "oidc"}}],
        "extraVolumeMounts": [{"name": "oidc", "mountPath": "/run/oidc", "readOnly": True}],
    }  # fmt: skip
    resources = render("helm4", case="sidecar-full", admin=json.dumps(admin))
    mount = {"name": "company-ca", "mountPath": "/etc/company", "readOnly": True}
    mounting = set()
    for pod in pods(resources):
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            if mount in container["volumeMounts"]:
                mounting.add(container["name"])
                assert {"name": "company-ca", "configMap": {"name": "company-ca"}} in pod[
                    "volumes"
                ]
    server = one(resources, "Deployment", "guard-admin")["spec"]["template"]["spec"]

    assert mounting == {"egret", "admin", "migrate", "policies", "installation"}
    assert admin["extraVolumes"][0] in server["volumes"]
    assert admin["extraVolumeMounts"][0] in server["containers"][0]["volumeMounts"]


def test_no_annotation_lets_a_reader_of_pods_guess_the_databases_password() -> None:
    """The pods roll for another place of the database; a password is read from its file."""

    def annotations(dsn: str) -> dict[str, str]:
        postgres = json.dumps({"existingSecret": "", "dsn": dsn})
        deployment = one(render("helm4", case="standalone", postgres=postgres), "Deployment")
        made: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
        return made

    first = annotations("postgresql://egret:one@db/egret")
    for password in ("two", "t%40wo", "t:wo"):
        assert annotations(f"postgresql://egret:{password}@db/egret?sslmode=require") == first
    assert annotations("postgresql://egret:one@other/egret") != first
    for wrong in ("t/wo", "t?wo", "t#wo", "t@wo"):  # not percent-encoded: Egret refuses it
        assert annotations(f"postgresql://egret:{wrong}@db/egret") == annotations(
            f"postgresql://egret:{wrong}2@db/egret"
        )


@pytest.mark.parametrize(("case", "is_own"), [("sidecar-full", True), ("standalone", False)])
def test_canary_requests_reach_the_charts_envoy_where_a_network_policy_lists_clients(
    case: str, *, is_own: bool
) -> None:
    """In standalone mode the gateway is another's, and lets them in itself."""
    peers = [{"namespaceSelector": {"matchLabels": {"llm": "yes"}}}]
    rules = json.dumps({"clients": peers, "egress": [{"ports": [{"port": 53}]}]})
    attachment = '{"enabled": true, "url": "https://llm.example", "existingSecret": "canary"}'
    resources = render("helm4", case=case, networkPolicy=rules, attachment=attachment)
    name = one(resources, "Deployment")["metadata"]["name"]
    cron = one(resources, "CronJob", f"{name}-attached")["spec"]["jobTemplate"]["spec"]
    labels = cron["template"]["metadata"]["labels"]
    workers = one(resources, "Deployment")["spec"]["selector"]["matchLabels"]
    clients = one(resources, "NetworkPolicy", name)["spec"]["ingress"][0]["from"]
    canaries = [each["podSelector"]["matchLabels"] for each in clients if "podSelector" in each]
    policies = [each["spec"] for each in resources if each["kind"] == "NetworkPolicy"]
    ways_out = [
        (each["podSelector"]["matchLabels"], rule)
        for each in policies
        for rule in each.get("egress", ())
        if "to" in rule
    ]

    assert peers[0] in clients
    assert canaries == [{key: labels[key] for key in workers}] * is_own
    own = {"ports": [{"port": "https"}], "to": [{"podSelector": {"matchLabels": workers}}]}
    assert ways_out == [(each, own) for each in canaries]


def test_envoy_refuses_clients_before_its_container_has_no_memory_left() -> None:
    """The overload manager's bound on the heap is below the limit of memory."""
    resources = rendered("helm4", "sidecar")
    monitors = _envoy_config(resources)["overload_manager"]["resource_monitors"]
    (heap,) = [
        each["typed_config"]["max_heap_size_bytes"]
        for each in monitors
        if each["name"] == "envoy.resource_monitors.fixed_heap"
    ]
    limit = _container(resources, "envoy")["resources"]["limits"]["memory"]
    assert heap < int(limit.removesuffix("Mi")) << 20


def test_a_schedule_looks_for_changes_made_by_hand() -> None:
    """By the same files and account as the job that applies them; without a schedule by none."""
    own = rendered("helm4", "sidecar-full")
    schedule = one(own, "CronJob", "guard-drift")["spec"]
    job = one(own, "Job", "guard-installation")["spec"]
    drift = schedule["jobTemplate"]["spec"]
    (container,), (applies,) = (each["template"]["spec"]["containers"] for each in (drift, job))

    assert (schedule["schedule"], drift["backoffLimit"], job["backoffLimit"]) == (
        "17 * * * *", 0, 6,
    )  # fmt: skip
    assert container["args"] == [
        "diff", "--file", "/etc/egret/installation", "--set", "platform", "--prune",
        "--secrets", "kubernetes",
    ]  # fmt: skip
    assert {**container, "args": []} == {**applies, "args": []}
    assert {**drift["template"]["spec"], "containers": []} == {
        **job["template"]["spec"],
        "containers": [],
    }
    theirs = render("helm4", case="standalone", installation__existingConfigMap="ours")
    assert not [each for each in theirs if each["kind"] == "CronJob"]


def test_the_job_of_an_installation_may_change_the_named_secrets_alone() -> None:
    """By a service account of its own, whose token no other pod has."""
    own = rendered("helm4", "sidecar-full")
    (rule,) = one(own, "Role", "guard-installation")["rules"]
    secret = one(own, "Secret", "acme-ci")
    accounts = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["serviceAccountName"]
        for each in own
        if each["kind"] in {"Job", "Deployment"}
    }
    job = one(own, "Job", "guard-installation")["spec"]["template"]["spec"]

    assert rule == {
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": ["acme-ci"],
        "verbs": ["get", "patch"],
    }
    assert "data" not in secret
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert {name for name, account in accounts.items() if account == "guard-installation"} == {
        "guard-installation"
    }
    assert job["containers"][0]["args"][-2:] == ["--secrets", "kubernetes"]
    theirs = render("helm4", case="standalone", installation__existingConfigMap="ours")
    assert not [each for each in theirs if each["kind"] in {"Role", "RoleBinding"}]


@pytest.mark.parametrize("case", ["standalone", "sidecar-full"])
def test_administration_has_a_deployment_of_its_own(case: str) -> None:
    """Replicas without a service account's token; alerts read their secrets from a Secret."""
    own = render(
        "helm4",
        case=case,
        admin__enabled="true",
        admin__publicUrl="https://egret.example.com",
        admin__existingSecret="console-dsn",
        admin__alertSecret="alert-routes",
    )
    name = "guard-admin" if case == "sidecar-full" else "r-egret-admin"
    deployment, service = one(own, "Deployment", name), one(own, "Service", name)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = environment(container)
    labels = deployment["spec"]["template"]["metadata"]["labels"]

    for resource in own:
        if resource["kind"] not in CUSTOM:
            kubernetes_validate.validate(resource, KUBERNETES[0], strict=True)
    assert (deployment["spec"]["replicas"], container["args"]) == (2, ["admin"])
    assert variables["EGRET_ADMIN__PUBLIC_URL"] == "https://egret.example.com"
    assert "EGRET_SERVER__WORKERS" not in variables
    secrets = {"console-dsn", "alert-routes"}
    if case == "sidecar-full":
        secrets.add("egret-valkey")
    assert secrets == {
        volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume
    }
    assert {"name": "alerts", "mountPath": "/etc/egret/alerts", "readOnly": True} in container[
        "volumeMounts"
    ]
    assert variables["EGRET_POSTGRES__DSN_FILE"] == "/etc/egret/postgres/dsn"
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert service["spec"]["selector"].items() <= labels.items()
    workers = one(own, "Service", name.removesuffix("-admin"))["spec"]["selector"]
    assert not workers.items() <= labels.items()
    policy = one(own, "NetworkPolicy", name)["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    budget = one(own, "PodDisruptionBudget", name)["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}


def test_rules_for_egress_hold_for_every_pod() -> None:
    """`egret admin` sends alerts, and would reach every host without them."""
    resources = render(
        "helm4", case="sidecar-full",
        admin='{"enabled": true, "publicUrl": "https://a.example", "existingSecret": "console"}',
    )  # fmt: skip
    policies = [
        each["spec"]
        for each in resources
        if each["kind"] == "NetworkPolicy" and not each["metadata"]["name"].endswith("-attached")
    ]
    assert len(policies) == 3
    for policy in policies:
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert policy["egress"] == policies[0]["egress"]


# Values that are wrong.


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("case", "values", "said"),
    [
        pytest.param("sidecar", {"replica": "3"}, "replica", id="a typo"),
        pytest.param(
            "sidecar", {"image__repository": ""}, "no image: give image.repository", id="no image"
        ),
        pytest.param("sidecar", {"envoy__tlss__x": "y"}, "tlss", id="a typo deep down"),
        pytest.param(
            "sidecar-full", {"installation__existingConfigMap": "ours"}, "not both",
            id="two sources of an installation",
        ),
        pytest.param(
            "sidecar-full", {"installation__existingSecret": "ours"}, "not both",
            id="files and a Secret of an installation",
        ),
        pytest.param(
            "sidecar", {"installation__driftSchedule": "@hourly"}, "do nothing without files",
            id="drift of nothing",
        ),
        pytest.param(
            "sidecar", {"admin__enabled": "true"}, "admin.enabled needs admin.publicUrl",
            id="administration without an address",
        ),
        pytest.param(
            "sidecar", {"admin__publicUrl": "http://a"}, "publicUrl", id="an address without TLS"
        ),
        pytest.param(
            "sidecar", {"installation__set": "A B"}, "installation", id="a set that is no name"
        ),
        pytest.param("sidecar", {"mode": "deamon"}, "mode", id="a mode that is none"),
        pytest.param("sidecar", {"workers": "many"}, "workers", id="a number that is none"),
        pytest.param(
            "sidecar", {"settings__EGRET_WORKERS": "2"}, "EGRET_WORKERS",
            id="a setting that is none",
        ),
        pytest.param(
            "sidecar",
            {"envoy__providers__mistral__enabled": "true"}, "mistral", id="an unknown provider",
        ),
        pytest.param(
            "sidecar", {"postgres__existingSecret": ""}, "no database: give postgres.exist",
            id="no database",
        ),
        pytest.param(
            "sidecar", {"envoy__tls__existingSecret": ""}, "no server certificate",
            id="no certificate",
        ),
        pytest.param(
            "sidecar", {"envoy__credentials__existingSecret": ""},
            "provider openai has no credential", id="no credential",
        ),
        pytest.param(
            "sidecar",
            {
                "envoy__credentials__existingSecret": "",
                "envoy__credentials__keys__azure": "k",
                "envoy__providers__azure__enabled": "true",
                "envoy__providers__openai__enabled": "false",
            },
            "provider azure has no host", id="no host",
        ),
        pytest.param(
            "sidecar", {"envoy__providers__azure__enabled": "true"},
            "provider azure has no host", id="no host beside a Secret",
        ),
        pytest.param(
            "sidecar", {"envoy__providers__openai__enabled": "false"}, "no provider",
            id="no provider",
        ),
        pytest.param(
            "sidecar-full", {"envoy__providers__anthropic__enabled": "false"},
            "envoy.modelRoutes: provider anthropic is off", id="models of nobody",
        ),
        pytest.param(
            "sidecar-full", {"envoy__config": "x"}, "envoy.modelRoutes: they are made for",
            id="routes in another configuration",
        ),
        pytest.param(
            "sidecar-full", {"envoy__unknownModels": "openai"}, "unknownModels",
            id="a choice that is none",
        ),
        pytest.param(
            "sidecar", {"envoy__otlp__host": "http://c:4317"}, "host", id="a URL for a host"
        ),
        pytest.param(
            "sidecar", {"envoy__otlp__host": "c:4317"}, "host", id="a host with its port"
        ),
        pytest.param("sidecar", {"envoy__otlp__host": "c.."}, "host", id="an empty label"),
        pytest.param(
            "sidecar", {"envoy__metrics__port": "9464"}, "envoy.metrics.port: 9464 is taken",
            id="a port of two",
        ),
        pytest.param(
            "standalone", {"attachment__enabled": "true"}, "attachment.enabled needs",
            id="canaries to nowhere",
        ),
        pytest.param(
            "standalone", {"listen__existingSecret": ""}, "no certificate", id="in the clear"
        ),
        pytest.param("standalone", {"workers": "2"}, "raise replicas", id="workers of one port"),
        pytest.param(
            "standalone", {"listen__port": "9464"}, "listen.port: 9464 is taken",
            id="a port of workers and metrics",
        ),
        pytest.param(
            "sidecar", {"autoscaling": '{"enabled": true, "minReplicas": 5, "maxReplicas": 2}'},
            "autoscaling.minReplicas is above", id="more at least than at most",
        ),
        pytest.param(
            "sidecar", {"podLabels": '{"app.kubernetes.io/name": "other"}'},
            "podLabels: the chart selects", id="a label that selects",
        ),
        pytest.param(
            "sidecar", {"settings": '{"EGRET_SERVER__WORKERS": 4}'},
            "EGRET_SERVER__WORKERS is twice", id="a setting against a value",
        ),
        pytest.param(
            "sidecar", {"settings": '{"EGRET_POSTGRES__DSN": "x"}'},
            "EGRET_POSTGRES__DSN is twice", id="two databases",
        ),
        pytest.param(
            "sidecar-full", {"settings": '{"EGRET_REDACTION__HASH_KEY": "x"}'},
            "EGRET_REDACTION__HASH_KEY is twice", id="a setting and a secret one",
        ),
        pytest.param(
            "sidecar-full", {"postgres__dsn": "postgresql://db"},
            "give postgres.dsn, or externalSecret", id="two sources of a Secret",
        ),
        pytest.param(
            "sidecar-full", {"envoy__credentials__keys__openai": "sk-1"},
            "give envoy.credentials.keys, or", id="two sources of credentials",
        ),
        pytest.param(
            "standalone", {"autoscaling__enabled": "true", "keda__enabled": "true"},
            "choose one", id="two scalers",
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(
    helm: str, case: str, values: dict[str, str], said: str
) -> None:
    """Before anything reaches the cluster."""
    with pytest.raises(HelmError, match=said):
        render(helm, case=case, **values)


def test_the_schema_knows_every_value_of_the_chart() -> None:
    """What the schema leaves out could be misspelt in silence."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    assert list(_open(schema, values, ())) == []


def _open(schema: Any, values: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the groups of values that take any name, where the chart itself names some."""
    for name, value in values.items():
        one_schema = schema["properties"][name]
        if isinstance(value, dict) and value and "properties" in one_schema:
            if one_schema.get("additionalProperties") is not False:
                yield (*path, name)
            yield from _open(one_schema, value, (*path, name))
