"""Documents around a configuration: Kubernetes resources, xDS files, templates."""

from __future__ import annotations

import base64
import json
import textwrap

import pytest
import yaml
from egret_tools.envoy_lint.config import (
    EXT_PROC,
    EXT_PROC_NAME,
    EXT_PROC_PER_ROUTE,
    UPSTREAM_TLS,
)
from egret_tools.envoy_lint.lint import Linted, lint
from egret_tools.envoy_lint.parts import LISTENER, ROUTES
from egret_tools.envoy_lint.report import fixed
from egret_tools.envoy_lint.schema import HCM
from egret_tools.envoy_lint.source import SourceError, TemplateError

from tests.support.configurations.accepted import ACCEPTED
from tests.support.configurations.build import ext_proc, http2, web, yaml_of
from tests.support.own_envoy import FILTERS

OPEN = yaml_of(web(ext_proc("judge", failure_mode_allow=True), clusters=(http2("judge"),)))
HCM_STEPS = (
    "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config",
)  # fmt: skip
FILTER = {
    "name": "envoy.filters.http.ext_proc",
    "typed_config": {
        "@type": f"type.googleapis.com/{EXT_PROC}",
        "processing_mode": {"request_body_mode": "STREAMED"},
        "grpc_service": {"envoy_grpc": {"cluster_name": "judge"}},
    },
}


def resource(kind: str, **fields: object) -> str:
    """Return a resource of Kubernetes."""
    head = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "llm"}}
    return yaml.safe_dump({**head, **fields}, sort_keys=False)


def patch_policy(path: str, value: object) -> str:
    """Return an EnvoyPatchPolicy with one patch of a listener."""
    patch = {
        "type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "default/llm/http",
        "operation": {"op": "add", "path": path, "value": value},
    }
    return resource("EnvoyPatchPolicy", spec={"type": "JSONPatch", "jsonPatches": [patch]})


def envoy_filter(apply_to: str, value: object, operation: str = "INSERT_BEFORE") -> str:
    """Return an EnvoyFilter with one patch."""
    patch = {"applyTo": apply_to, "patch": {"operation": operation, "value": value}}
    spec = {"workloadSelector": {"labels": {"app": "a"}}, "configPatches": [patch]}
    return resource("EnvoyFilter", spec=spec)


def ids(linted: Linted) -> set[str]:
    """Return the rules that are broken."""
    return {one.rule.id for one in linted.findings}


def unchecked(linted: Linted) -> list[str]:
    """Return what is named as not checked."""
    return [one.hit.about for one in linted.unchecked]


HTTP_FILTERS = "/default_filter_chain/filters/0/typed_config/http_filters/0"


def test_a_filter_that_a_patch_policy_adds_is_checked() -> None:
    """At its place in the patch; the body mode is no gate."""
    linted = lint("p.yaml", patch_policy(HTTP_FILTERS, FILTER))
    assert {"EGR105", "EGR102"} <= ids(linted)
    assert unchecked(linted) == []
    (body,) = (one for one in linted.findings if one.rule.id == "EGR105")
    assert body.hit.node.mark.line > 10


def test_a_patch_with_a_wrong_field_is_reported() -> None:
    """Envoy Gateway sends it, and Envoy rejects the whole update."""
    linted = lint("p.yaml", patch_policy(HTTP_FILTERS, FILTER | {"disable": True}))
    assert "EGR001" in ids(linted)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/stat_prefix", "a"),
        (f"{HTTP_FILTERS}/typed_config/failure_mode_allow", True),
    ],
)
def test_a_patch_of_a_single_value_is_named_as_not_checked(path: str, value: object) -> None:
    """Its meaning depends on the rest, which only Envoy has."""
    linted = lint("p.yaml", patch_policy(path, value))
    assert unchecked(linted) == [f"EnvoyPatchPolicy llm, patch 1 ({path})"]


def test_a_configuration_in_a_config_map_is_checked_at_its_place() -> None:
    """Line and column are those of the whole file, and a fix changes that file."""
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: envoy}\ndata:\n"
        f"  readme: hello\n  envoy.yaml: |\n{textwrap.indent(OPEN, '    ')}"
    )
    linted = lint("map.yaml", text)
    (found,) = (one for one in linted.findings if one.rule.id == "EGR101")
    mark = found.hit.node.mark
    line = text.splitlines()[mark.line - 1]
    assert line[mark.column - 1 :] == "true"
    assert line.strip() == "failure_mode_allow: true"
    assert linted.assumed == ("judge",)
    repaired = fixed(text, [found])
    assert repaired == text.replace("failure_mode_allow: true", "failure_mode_allow: false")


def test_a_configuration_in_quotes_is_checked_at_the_place_of_its_text() -> None:
    """Escapes move characters, so that nothing is fixed in it."""
    text = resource("ConfigMap", data={"envoy.yaml": OPEN}).replace("|\n", "|\n")
    quoted = yaml.safe_dump(yaml.safe_load(text), default_style='"')
    linted = lint("map.yaml", quoted)
    assert "EGR101" in ids(linted)
    assert fixed(quoted, linted.findings) == quoted


@pytest.mark.parametrize(
    "kind", ["Gateway", "HTTPRoute", "AIGatewayRoute", "Ingress", "Deployment"]
)
def test_a_resource_that_no_rule_reads_is_named(kind: str) -> None:
    """Silence on it would look like praise; a Deployment of this group is an unknown kind."""
    linted = lint("r.yaml", resource(kind, spec={"rules": []}))
    assert (ids(linted), unchecked(linted)) == (set(), [f"{kind} llm"])


SECRET = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"}
LISTENERS = yaml_of({"resources": [{"@type": f"type.googleapis.com/{LISTENER}"}]})


@pytest.mark.parametrize(
    ("group", "kind", "fields"),
    [
        ("v1", "Service", {"spec": {"ports": []}}),
        ("v1", "ConfigMap", {"data": {"policy.yaml": "name: a"}, "binaryData": {"a": "/w=="}}),
        ("v1", "Secret", {"data": {"dsn": base64.b64encode(b"postgresql://").decode()}}),
        ("v1", "Secret", {"stringData": {"key.yaml": yaml_of({"resources": [SECRET]})}}),
        ("apps/v1", "Deployment", {"spec": {"template": {}}}),
        ("networking.k8s.io/v1", "NetworkPolicy", {}),
        ("monitoring.coreos.com/v1", "ServiceMonitor", {}),
    ],
)
def test_a_plain_resource_of_kubernetes_is_counted(
    group: str, kind: str, fields: dict[str, object]
) -> None:
    """It cannot hold an Envoy configuration, and is no reason for a failure."""
    linted = lint("r.yaml", resource(kind, apiVersion=group, **fields))
    assert (ids(linted), unchecked(linted), linted.without_envoy) == (set(), [], 1)


@pytest.mark.parametrize(
    ("group", "kind", "fields"),
    [
        ("v1", "ConfigMap", {"data": {"lds.yaml": LISTENERS}}),
        ("v1", "ConfigMap", {"binaryData": {"e": base64.b64encode(OPEN.encode()).decode()}}),
        ("v1", "Secret", {"data": {"e": base64.encodebytes(OPEN.encode()).decode()}}),
        ("v1", "Secret", {"stringData": {"envoy.yaml": OPEN}}),
        ("apps/v1", "Deployment", {"spec": {"args": ["--config-yaml", OPEN]}}),
    ],
)
def test_a_plain_resource_with_envoy_in_a_text_is_named(
    group: str, kind: str, fields: dict[str, object]
) -> None:
    """Envoy may read it there, and no rule does."""
    linted = lint("r.yaml", resource(kind, apiVersion=group, **fields))
    assert (unchecked(linted), linted.without_envoy) == ([f"{kind} llm"], 0)


def test_the_items_of_a_list_are_resources() -> None:
    """As `kubectl get -o yaml` prints them."""
    items = [yaml.safe_load(resource("Gateway")), yaml.safe_load(envoy_filter("CLUSTER", {}))]
    linted = lint("r.yaml", resource("List", items=items))
    assert unchecked(linted) == ["Gateway llm"]
    assert "EGR001" in ids(linted)


@pytest.mark.parametrize(
    ("apply_to", "value"),
    [
        ("VIRTUAL_HOST", {"name": "v", "domains": "x", "typo": 1}),
        ("NETWORK_FILTER", {"name": "f"}),
        ("ROUTE_CONFIGURATION", {"virtual_hosts": [{"name": "v"}]}),
        ("HTTP_FILTER", {"name": "x", "typed_config": {"no": "type"}}),
    ],
)
def test_each_kind_of_patch_of_a_filter_is_held_against_envoys_messages(
    apply_to: str, value: object
) -> None:
    """Also where no rule looks further."""
    assert "EGR001" in ids(lint("f.yaml", envoy_filter(apply_to, value)))


def test_a_patch_that_is_merged_may_lack_fields() -> None:
    """The rest is there already."""
    linted = lint("f.yaml", envoy_filter("CLUSTER", {"connect_timeout": "1s"}, "MERGE"))
    assert (ids(linted), unchecked(linted)) == (set(), [])


OFF = {"@type": f"type.googleapis.com/{EXT_PROC_PER_ROUTE}", "disabled": True}
UNGUARDED = {"typed_per_filter_config": {EXT_PROC_NAME: OFF}}
OPEN_ROUTE = {"match": {"prefix": "/"}, "direct_response": {"status": 200}, **UNGUARDED}
FORGING = {
    "name": "by header",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
        "request_rules": [
            {"header": "x", "on_header_present": {"metadata_namespace": "egret", "key": "k"}}
        ],
    },
}
TRUSTING = {
    "transport_socket": {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"type.googleapis.com/{UPSTREAM_TLS}",
            "common_tls_context": {
                "validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"}
            },
        },
    }
}
STRUCT = {
    "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
    "type_url": f"type.googleapis.com/{EXT_PROC}",
    "value": {"failure_mode_allow": True},
}
RETRIES = {
    "@type": f"type.googleapis.com/{EXT_PROC}",
    "grpc_service": {"retry_policy": {"num_retries": 2}},
}
PLAIN = {"transport_socket": {"name": "envoy.transport_sockets.raw_buffer"}}
OPEN_ADMIN = {
    "admin": {"address": {"socket_address": {"address": "192.0.2.1", "port_value": 15000}}}
}
SCRIPT = {
    "name": "lua",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": "function envoy_on_request(handle) end"},
    },
}
MANAGER = {
    "name": "envoy.filters.network.http_connection_manager",
    "typed_config": {
        "@type": f"type.googleapis.com/{HCM}",
        "normalize_path": False,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    },
}


@pytest.mark.parametrize(
    ("apply_to", "operation", "value", "rules"),
    [
        ("VIRTUAL_HOST", "MERGE", UNGUARDED, {"EGR123"}),
        ("HTTP_ROUTE", "MERGE", UNGUARDED, {"EGR123"}),
        ("HTTP_ROUTE", "INSERT_FIRST", OPEN_ROUTE, {"EGR123"}),
        ("HTTP_FILTER", "INSERT_FIRST", FORGING, {"EGR531"}),
        ("HTTP_FILTER", "MERGE", {"name": EXT_PROC_NAME, "disabled": True}, {"EGR126"}),
        ("HTTP_FILTER", "MERGE", {"name": EXT_PROC_NAME, "typed_config": STRUCT}, {"EGR101"}),
        ("HTTP_FILTER", "MERGE", {"name": EXT_PROC_NAME, "typed_config": RETRIES}, set[str]()),
        ("CLUSTER", "MERGE", TRUSTING, {"EGR302"}),
        ("CLUSTER", "MERGE", PLAIN, {"EGR301"}),
        ("CLUSTER", "MERGE", {"connect_timeout": "5s"}, set[str]()),
        ("BOOTSTRAP", "MERGE", OPEN_ADMIN, {"EGR519"}),
        ("HTTP_ROUTE", "MERGE", {"route": {"cluster_header": "x-cluster"}}, {"EGR417"}),
        ("HTTP_ROUTE", "MERGE", {"route": {"cluster_header": "x-egret-model"}}, set[str]()),
        ("HTTP_FILTER", "INSERT_BEFORE", SCRIPT, {"EGR526"}),
        ("NETWORK_FILTER", "MERGE", MANAGER, {"EGR406", "EGR504"}),
        ("FILTER_CHAIN", "MERGE", {"filters": [MANAGER]}, {"EGR406", "EGR504"}),
    ],
)
def test_a_patch_of_a_part_is_judged_by_the_rules_on_the_whole(
    apply_to: str, operation: str, value: object, rules: set[str]
) -> None:
    """Of a patch that is merged, only the fields that it has."""
    linted = lint("f.yaml", envoy_filter(apply_to, value, operation))
    assert (ids(linted), unchecked(linted)) == (rules, [])
    assert all(one.hit.node.mark.line > 10 for one in linted.findings)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/virtual_hosts/0/typed_per_filter_config", UNGUARDED["typed_per_filter_config"]),
        (f"/virtual_hosts/0/routes/1/typedPerFilterConfig/{EXT_PROC_NAME}", OFF),
        ("/virtual_hosts/0/routes/-", OPEN_ROUTE),
        ("/virtual_hosts/0/routes", [OPEN_ROUTE]),
    ],
)
def test_a_patch_policy_may_not_switch_egret_off_on_a_route(path: str, value: object) -> None:
    """At each place that a JSON pointer leads to."""
    linted = lint("p.yaml", patch_policy(path, value).replace(LISTENER, ROUTES))
    assert (ids(linted), unchecked(linted)) == ({"EGR123"}, [])


@pytest.mark.parametrize(
    ("name", "rules"), [(EXT_PROC_NAME, {"EGR614"}), ("", {"EGR614"}), ("cors", set[str]())]
)
def test_a_patch_that_removes_egrets_filter_is_found(name: str, rules: set[str]) -> None:
    """Others are named as not checked: their meaning depends on the rest."""
    matched = {"name": "envoy.filters.network.http_connection_manager"}
    manager = {**matched, "subFilter": {"name": name}} if name else matched
    patch = {
        "applyTo": "HTTP_FILTER",
        "match": {"listener": {"filterChain": {"filter": manager}}},
        "patch": {"operation": "REMOVE"},
    }
    spec = {"workloadSelector": {"labels": {"app": "a"}}, "configPatches": [patch]}
    linted = lint("f.yaml", resource("EnvoyFilter", spec=spec))
    assert ids(linted) == rules
    assert unchecked(linted) == ["EnvoyFilter llm, patch 1 (REMOVE HTTP_FILTER)"]


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        ({"name": "lua", "typed_config": {"@type": f"{FILTERS}.lua.v3.Lua"}}, {"EGR614"}),
        ({"name": EXT_PROC_NAME, "typed_config": STRUCT}, {"EGR101"}),
    ],
)
def test_a_patch_that_replaces_egrets_filter_by_another_is_found(
    value: object, rules: set[str]
) -> None:
    """It takes the filter away as well."""
    patched = yaml.safe_load(envoy_filter("HTTP_FILTER", value, "REPLACE"))
    (patch,) = patched["spec"]["configPatches"]
    manager = {"filter": {"subFilter": {"name": EXT_PROC_NAME}}}
    patch["match"] = {"listener": {"filterChain": manager}}
    assert rules <= ids(lint("f.yaml", yaml.safe_dump(patched)))
    assert ("EGR614" in rules) == ("EGR614" in ids(lint("f.yaml", yaml.safe_dump(patched))))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Backend", {"tls": {"insecureSkipVerify": True}}),
        ("BackendConfigPolicy", {"tls": {"insecureSkipVerify": True}}),
        ("DestinationRule", {"trafficPolicy": {"tls": {"insecureSkipVerify": True}}}),
    ],
)
def test_a_backend_without_verification_is_found(kind: str, spec: object) -> None:
    """The rest of it is named as not checked, and so is one of another kind."""
    linted = lint("p.yaml", resource(kind, spec=spec))
    assert (ids(linted), unchecked(linted)) == ({"EGR618"}, [f"{kind} llm"])
    assert ids(lint("p.yaml", resource("ServiceMonitor", spec=spec))) == set()


def test_a_traffic_policy_that_switches_egret_off_is_found() -> None:
    """The rest of it is named as not checked."""
    linted = lint("p.yaml", resource("TrafficPolicy", spec={"extProc": {"disable": {}}}))
    assert (ids(linted), unchecked(linted)) == ({"EGR617"}, ["TrafficPolicy llm"])
    linted = lint("p.yaml", resource("TrafficPolicy", spec={"extProc": {"extensionRef": {}}}))
    assert ids(linted) == set()


@pytest.mark.parametrize(
    ("spec", "rules"),
    [
        ({"targetRefs": [{"kind": "HTTPRoute", "name": "a"}], "lua": []}, {"EGR615"}),
        ({"targetRef": {"kind": "Gateway", "name": "a", "sectionName": "b"}}, {"EGR615"}),
        ({"targetSelectors": [{"kind": "GRPCRoute"}]}, {"EGR615"}),
        ({"targetRefs": [{"kind": "HTTPRoute"}], "mergeType": "StrategicMerge"}, set[str]()),
        ({"targetRefs": [{"kind": "Gateway", "name": "a"}]}, set[str]()),
    ],
)
def test_a_policy_without_egret_below_the_gateways_is_found(spec: object, rules: set[str]) -> None:
    """Envoy Gateway merges policies only if one says so, and takes the most specific."""
    assert ids(lint("p.yaml", resource("EnvoyExtensionPolicy", spec=spec))) == rules


def test_a_patch_policy_that_removes_something_is_named_as_not_checked() -> None:
    """It may be Egret's filter."""
    policy = yaml.safe_load(patch_policy(HTTP_FILTERS, None))
    policy["spec"]["jsonPatches"][0]["operation"]["op"] = "remove"
    linted = lint("p.yaml", yaml.safe_dump(policy))
    assert unchecked(linted) == [f"EnvoyPatchPolicy llm, patch 1 (remove {HTTP_FILTERS})"]


def test_a_patch_of_another_kind_is_named_as_not_checked() -> None:
    """A kind that comes after us."""
    linted = lint("f.yaml", envoy_filter("NEW_THING", {"a": 1}))
    assert unchecked(linted) == ["EnvoyFilter llm, patch 1 (NEW_THING)"]


def test_files_for_the_dynamic_configuration_are_read() -> None:
    """As in Envoy's example of configuration from files."""
    config = yaml.safe_load(OPEN)["static_resources"]
    kinds = {"listeners": "listener.v3.Listener", "clusters": "cluster.v3.Cluster"}
    resources = [
        {"@type": f"type.googleapis.com/envoy.config.{kind}", **one}
        for name, kind in kinds.items()
        for one in config[name]
    ]
    linted = lint("lds.yaml", yaml.safe_dump({"resources": [*resources, {"a": 1}]}))
    assert {"EGR101", "EGR203"} <= ids(linted)
    assert unchecked(linted) == ["a resource without `@type`"]


@pytest.mark.parametrize(
    "text",
    [
        "listeners:\n{% for port in ports %}\n- {{ port }}\n{% endfor %}\n",
        "static_resources:\n  clusters: {{ .Values.clusters | toYaml }}\n",
        "{{- if .Values.on }}\nadmin: {}\n{{- end }}\n",
    ],
    ids=["jinja", "helm", "go"],
)
def test_a_template_is_called_one(text: str) -> None:
    """Its place is that of its first mark."""
    with pytest.raises(TemplateError, match=r"^e\.yaml:\d+:\d+: this looks like a template$"):
        lint("e.yaml", text)


@pytest.mark.parametrize("value", ['"{{ .Values.port }}"', "${PORT}"])
def test_a_template_that_is_yaml_is_called_one(value: str) -> None:
    """One finding, instead of one for each value that is not there yet."""
    text = ACCEPTED["front proxy"].replace("port_value: 8080", f"port_value: {value}")
    found = lint("e.yaml", text).findings
    assert [one.rule.id for one in found] == ["EGR001"]
    assert found[0].hit.about.startswith("this looks like a template")
    assert found[0].hit.node.mark.line == text[: text.index(value)].count("\n") + 1


def test_a_template_in_a_config_map_is_called_one() -> None:
    """At its place in the whole file; the templates of other programs are no concern."""
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: envoy}\ndata:\n"
        "  alerts: 'value {{ $value }}'\n  envoy.yaml: |\n"
        "    static_resources:\n      clusters:\n      - name: {{NAME}}-predictor\n"
    )
    linted = lint("map.yaml", text)
    (found,) = linted.findings
    assert found.message == "this looks like a template: nothing in it was checked"
    assert found.hint == "render it first, then check the result"
    assert (found.hit.node.mark.line, found.hit.node.mark.column) == (9, 15)
    assert unchecked(linted) == []


def test_a_template_of_another_program_hides_no_finding() -> None:
    """Alerts beside a filter with a wrong field."""
    alerts = resource("ConfigMap", data={"alerts": "value {{ $value }}"})
    linted = lint("all.yaml", f"{alerts}---\n{envoy_filter('NETWORK_FILTER', {'nam': 'f'})}")
    assert any("did you mean `name`?" in one.hit.about for one in linted.findings)


VHDS = {"resource_api_version": "V3", "ads": {}}
DISCOVERED = {"path_config_source": {"path": "/etc/envoy/more.yaml"}}


@pytest.mark.parametrize(
    ("steps", "value", "words"),
    [
        (("dynamic_resources", "lds_config"), DISCOVERED, "listeners"),
        (("dynamic_resources", "cds_config"), DISCOVERED, "clusters"),
        ((*HCM_STEPS, "route_config", "vhds"), {"config_source": VHDS}, "virtual hosts"),
        ((*HCM_STEPS, "rds"), {"route_config_name": "r", "config_source": DISCOVERED}, "routes"),
        (
            (*HCM_STEPS, "http_filters", 0, "config_discovery"),
            {"config_source": DISCOVERED, "type_urls": [f"type.googleapis.com/{EXT_PROC}"]},
            "the settings of a filter",
        ),
    ],
    ids=["listeners", "clusters", "virtual hosts", "routes", "a filter"],
)
def test_parts_that_another_file_or_a_control_plane_has_are_named_as_not_checked(
    steps: tuple[str | int, ...], value: object, words: str
) -> None:
    """An Envoy that gets all of it from elsewhere would be sound in this file."""
    config = yaml.safe_load(OPEN)
    place = config
    for step in steps[:-1]:
        place = place.setdefault(step, {}) if isinstance(step, str) else place[step]
    place.pop("typed_config", None)
    if steps[-1] == "rds":
        place.pop("route_config")
    place[steps[-1]] = value
    text = yaml.safe_dump(config, sort_keys=False)

    assert unchecked(lint("e.yaml", text)) == [f"{words} that are discovered"]


def test_a_file_of_another_kind_is_not_said_to_stop_envoy() -> None:
    """Values of a Helm chart, above all."""
    (found,) = lint("values.yaml", "replicas: 2\nimage: {tag: a}\n").findings
    assert found.rule.id == "EGR001"
    assert "Envoy does not start" not in found.message
    assert found.message.endswith("nor a gateway's resource: nothing in it was checked")


def test_braces_in_a_script_are_no_template() -> None:
    """Lua has tables of tables."""
    assert "EGR001" not in ids(lint("e.yaml", ACCEPTED["lua"]))


def test_what_is_neither_yaml_nor_template_stays_an_error() -> None:
    """With its place."""
    with pytest.raises(SourceError, match=r"^e\.yaml:1:3: a key that is not text$"):
        lint("e.yaml", "? [a, b]\n: c\n")


def test_an_empty_document_beside_others_is_nothing_to_report() -> None:
    """A file that ends in `---`."""
    assert ids(lint("e.yaml", f"---\n{ACCEPTED['only an admin']}---\n")) == set()


def test_a_chain_of_a_thousand_aggregates_is_followed_to_its_end() -> None:
    """Each has the next as its only member; the last has no TLS."""
    kind = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig"
    config = yaml.safe_load(OPEN)
    config["static_resources"]["clusters"] += [
        {
            "name": f"a{number}",
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": {
                "name": "envoy.clusters.aggregate",
                "typed_config": {"@type": kind, "clusters": [f"a{number + 1}"]},
            },
        }
        for number in range(1_000)
    ] + [{"name": "a1000", "type": "STRICT_DNS"}]
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    host["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": "a0"}}]
    found = lint("e.yaml", json.dumps(config)).findings
    assert [one.hit.about for one in found if one.rule.id == "EGR301"] == ["cluster a1000"]
