from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from egret_tools.devstack.envoy_config import (
    EnvoyParameters,
    OtlpCollector,
    Provider,
    render_envoy_config,
)
from egret_tools.envoy_lint.config import EXT_PROC, EnvoyVersion
from egret_tools.envoy_lint.lint import NOTHING_MORE, Known, lint
from egret_tools.envoy_lint.report import fixed, sarif
from egret_tools.envoy_lint.source import SourceError

from tests.support.configurations.accepted import ACCEPTED
from tests.support.envoy_mistakes import MISTAKES, OLDER_MISTAKES
from tests.support.own_envoy import for_version, other_modes, own_text, with_mistake

POLICY = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata: {name: egret}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: llm}]
  extProc:
    - backendRefs: [{name: egret, port: 50051}]
      messageTimeout: 10s
      failOpen: false
      processingMode:
        request: {body: FullDuplexStreamed, attributes: [source.address]}
      metadata: {writableNamespaces: [egret]}
"""

ENVOY_FILTER = """\
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: egret}
spec:
  workloadSelector: {labels: {app: egress}}
  configPatches:
    - applyTo: HTTP_FILTER
      match: {context: GATEWAY}
      patch:
        operation: INSERT_BEFORE
        value:
          name: envoy.filters.http.ext_proc
          typed_config:
            "@type": type.googleapis.com/EXT_PROC
            stat_prefix: egret
            failure_mode_allow: false
            message_timeout: 10s
            allow_mode_override: true
            allow_content_length_header: true
            processing_mode: {request_header_mode: SEND, response_header_mode: SKIP}
            metadata_options: {receiving_namespaces: {untyped: [egret]}}
            request_attributes: [source.address]
            mutation_rules: {disallow_is_error: true}
            grpc_service:
              envoy_grpc: {cluster_name: "outbound|50051||egret.llm.svc", skip_envoy_headers: true}
              retry_policy:
                retry_on: connect-failure,reset
                retry_host_predicate:
                  - name: envoy.retry_host_predicates.previous_hosts
""".replace("EXT_PROC", EXT_PROC)


def places(text: str, known: Known = NOTHING_MORE) -> list[tuple[str, int, int]]:
    """Return what is found: rule, line and column."""
    return [
        (one.rule.id, one.hit.node.mark.line, one.hit.node.mark.column)
        for one in lint("envoy.yaml", text, known=known).findings
    ]


def camel(value: Any) -> Any:
    """Return *value* with names as protobuf's JSON has them."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {_camel(key): camel(item) for key, item in value.items()}


def _camel(name: str) -> str:
    if name.startswith("envoy.") or "@" in name:
        return name
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


# Where and in what form.


def test_a_finding_says_where_it_stands() -> None:
    """The line of the value, or of what should hold it."""
    text = own_text().replace("failure_mode_allow: false", "failure_mode_allow: true", 1)
    line = text[: text.index("failure_mode_allow: true")].count("\n") + 1
    column = (
        len("failure_mode_allow: ")
        + len(text.splitlines()[line - 1])
        - len(text.splitlines()[line - 1].lstrip())
    )
    assert places(text) == [("EGR101", line, column + 1)]


def test_names_may_be_written_as_in_json() -> None:
    """A control plane writes messageTimeout; the place is found all the same."""
    config = camel(yaml.safe_load(with_mistake(MISTAKES["EGR101"])))
    text = json.dumps(config, indent=2)
    line = text[: text.index('"failureModeAllow": true')].count("\n") + 1
    assert [(rule, at) for rule, at, _ in places(text)] == [("EGR101", line)]


def test_json_that_is_no_yaml_is_read() -> None:
    """An emoji escaped in two halves; places are lost, findings are not."""
    config = yaml.safe_load(with_mistake(MISTAKES["EGR101"]))
    config["node"]["id"] = "\N{WHITE HEAVY CHECK MARK}\N{GRINNING FACE}"
    text = json.dumps(config)
    assert places(text) == [("EGR101", 1, 1)]


@pytest.mark.parametrize("rule", ["EGR101", "EGR214", "EGR302", "EGR401", "EGR504"])
def test_a_config_dump_is_read_like_a_file(rule: str) -> None:
    """Static and sent by a control plane."""
    config = yaml.safe_load(with_mistake(MISTAKES[rule]))
    assert {found for found, _, _ in places(json.dumps(_dump(config)))} == {rule}


def test_a_config_dump_of_our_own_breaks_no_rule() -> None:
    """What a running Envoy shows is what it was given."""
    assert places(json.dumps(_dump(yaml.safe_load(own_text())))) == []


def _dump(config: Any) -> Any:
    kind = "type.googleapis.com/envoy.admin.v3."
    resources = config["static_resources"]
    of_type = "type.googleapis.com/envoy.config."
    listeners = [
        {
            "name": one["name"],
            "active_state": {"listener": {"@type": f"{of_type}listener.v3.Listener", **one}},
        }
        for one in resources["listeners"]
    ]
    clusters = [
        {"cluster": {"@type": f"{of_type}cluster.v3.Cluster", **one}}
        for one in resources["clusters"]
    ]
    return {
        "configs": [
            {
                "@type": f"{kind}BootstrapConfigDump",
                "bootstrap": config | {"static_resources": {}},
            },
            {"@type": f"{kind}ClustersConfigDump", "dynamic_active_clusters": clusters},
            {"@type": f"{kind}ListenersConfigDump", "dynamic_listeners": listeners},
        ]
    }


# What Envoy would not take.


def test_a_misspelt_field_is_named_with_its_place() -> None:
    """Deep in a list, within an extension."""
    text = own_text().replace("allow_mode_override:", "allow_mode_overide:", 1)
    (finding,) = lint("envoy.yaml", text).findings
    line = text[: text.index("allow_mode_overide")].count("\n") + 1
    assert finding.rule.id == "EGR001"
    assert finding.hit.about == (
        "Envoy 1.40 knows no field `allow_mode_overide` here; did you mean `allow_mode_override`?"
    )
    assert finding.hit.node.mark.line == line


def test_an_extension_that_envoy_does_not_have_is_not_looked_into() -> None:
    """A vendor's filter is no fault, and not checked either."""
    config = yaml.safe_load(own_text())
    filters = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    vendors = {"@type": "type.googleapis.com/vendor.Filter", "anything": [1]}
    filters[0]["typed_config"]["http_filters"].insert(1, {"name": "v", "typed_config": vendors})
    assert [rule for rule, _, _ in places(yaml.safe_dump(config))] == ["EGR002"]


@pytest.mark.parametrize(
    "text", ["- 1\n- 2\n", "just words\n", ""], ids=["list", "words", "empty"]
)
def test_what_is_no_configuration_is_not_called_clean(text: str) -> None:
    """Silence would look like praise."""
    assert [rule for rule, _, _ in places(text)] == ["EGR001"]


@pytest.mark.parametrize("text", ["a: [1\n", "\t{", '{"a": 1', "a: 1\na: {b"], ids=repr)
def test_what_cannot_be_read_is_an_error_with_its_place(text: str) -> None:
    """Neither YAML nor JSON."""
    with pytest.raises(SourceError, match=r"envoy\.yaml"):
        lint("envoy.yaml", text)


def test_aliases_that_multiply_are_refused() -> None:
    """Nine lines that would be a billion values, some that would never end, or end very deep."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    deep = ["a0: &a0 x", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2_000))]
    nested = ("[" * 700 + "]" * 700, '{"a":' * 700 + "1" + "}" * 700)
    for text in ("\n".join(lines), "\n".join(deep), "a: &a [*a]", "a: &a {b: *a}", *nested):
        with pytest.raises(SourceError, match="aliases"):
            lint("envoy.yaml", text)
    with pytest.raises(SourceError):
        lint("envoy.yaml", "[" * 100_000)


# Comments.


def test_a_comment_with_a_reason_silences_its_rule() -> None:
    """On the line itself, or on the line above."""
    text = own_text().replace(
        "failure_mode_allow: false",
        "failure_mode_allow: true  # egret-lint: ignore=EGR101 a test",
        1,
    )
    linted = lint("envoy.yaml", text)
    assert linted.findings == ()
    assert [one.rule.id for one in linted.suppressed] == ["EGR101"]


def test_a_comment_without_a_reason_is_a_finding() -> None:
    """Nobody will know whether it may go."""
    line = "                      # egret-lint: ignore=EGR101\n"
    text = own_text()
    at = text.index("                      failure_mode_allow: false")
    text = (
        text[:at]
        + line
        + text[at:].replace("failure_mode_allow: false", "failure_mode_allow: true", 1)
    )
    assert [rule for rule, _, _ in places(text)] == ["EGR003"]


def test_a_comment_that_silences_nothing_is_a_finding() -> None:
    """It would hide the next mistake on that line."""
    text = own_text().replace(
        "failure_mode_allow: false",
        "failure_mode_allow: false  # egret-lint: ignore=EGR101 old",
        1,
    )
    assert [rule for rule, _, _ in places(text)] == ["EGR004"]


# Fixing.


def test_a_fix_changes_the_value_and_nothing_else() -> None:
    """Comments and order stay; the fixed file is clean."""
    broken = own_text()
    for right, wrong in (
        ("failure_mode_allow: false", "failure_mode_allow: true"),
        ("normalize_path: true", "normalize_path: false"),
        ("preserve_external_request_id: false", "preserve_external_request_id: true"),
        ("overwrite: true", "overwrite: false"),
        ("path_with_escaped_slashes_action: REJECT_REQUEST",
         "path_with_escaped_slashes_action: KEEP_UNCHANGED"),
    ):  # fmt: skip
        assert right in broken
        broken = broken.replace(right, wrong)
    assert fixed(broken, lint("envoy.yaml", broken).findings) == own_text()


def test_what_stands_nowhere_is_left_to_people() -> None:
    """A fix never guesses where something belongs."""
    broken = with_mistake(MISTAKES["EGR103"])
    assert fixed(broken, lint("envoy.yaml", broken).findings) == broken


# Another name for Egret's cluster.


def renamed(name: str) -> str:
    """Return our own configuration with another name for Egret's cluster."""
    return (
        own_text()
        .replace("cluster_name: egret", f"cluster_name: {name}")
        .replace("- name: egret\n", f"- name: {name}\n")
    )


def test_the_cluster_that_ext_proc_calls_is_taken_for_egrets() -> None:
    """All rules hold for it, and the report names it."""
    text = renamed("judge").replace("failure_mode_allow: false", "failure_mode_allow: true")
    linted = lint("envoy.yaml", text)
    assert [one.rule.id for one in linted.findings] == ["EGR101"]
    assert linted.assumed == ("judge",)
    assert lint("envoy.yaml", own_text()).assumed == ()


def test_the_cluster_may_be_named() -> None:
    """Then no other is taken for it."""
    assert places(renamed("judge"), known=Known("judge")) == []
    assert {rule for rule, _, _ in places(renamed("judge"), known=Known("egret"))} == {"EGR501"}


def test_each_of_several_ext_proc_filters_is_checked() -> None:
    """None of them is called egret."""
    linted = lint("envoy.yaml", ACCEPTED["two servers one after another"])
    found = [one.rule.id for one in linted.findings]
    assert linted.assumed == ("first", "second")
    assert (found.count("EGR102"), found.count("EGR101")) == (2, 1)
    assert (found.count("EGR203"), found.count("EGR501")) == (2, 0)


# Gateways.


EXTENSION = """\
apiVersion: gateway.kgateway.dev/v1alpha1
kind: GatewayExtension
metadata: {name: egret}
spec:
  extProc:
    grpcService: {backendRef: {name: egret, port: 50051}}
    failOpen: false
    messageTimeout: 10s
    processingMode: {requestBodyMode: FULL_DUPLEX_STREAMED}
"""


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("EGR609", "failOpen: false", "failOpen: true"),
        ("EGR609", "    failOpen: false\n", ""),
        ("EGR610", "messageTimeout: 10s", "messageTimeout: 200ms"),
        ("EGR610", "    messageTimeout: 10s\n", ""),
        ("EGR611", "FULL_DUPLEX_STREAMED", "STREAMED"),
        ("EGR611", "{requestBodyMode: FULL_DUPLEX_STREAMED}", "{requestHeaderMode: SEND}"),
    ],
)
def test_a_mistake_in_an_extension_of_kgateway_breaks_its_rule(
    rule: str, right: str, wrong: str
) -> None:
    """Its defaults fail open, end after 200 ms and send no body."""
    assert [found for found, _, _ in places(EXTENSION.replace(right, wrong, 1))] == [rule]


def test_an_extension_may_have_bodies_asked_for_and_may_be_of_another_kind() -> None:
    """With an override, or with the mode in a TrafficPolicy; rate limits are none of ours."""
    asked = EXTENSION.replace(
        "processingMode: {requestBodyMode: FULL_DUPLEX_STREAMED}",
        "processingMode: {requestBodyMode: NONE}\n    allowProcessingModeOverride: true",
    )
    assert places(asked) == []
    without = [line for line in EXTENSION.splitlines() if "processingMode" not in line]
    assert places("\n".join(without)) == []
    assert places(EXTENSION.partition("spec:")[0] + "spec: {rateLimit: {}}") == []


SECURITY = """\
apiVersion: aigateway.envoyproxy.io/v1beta1
kind: BackendSecurityPolicy
metadata: {name: openai}
spec:
  type: APIKey
  credentialOverride:
    fromRequestHeaders: {header: x-aigw-api-key, fallbackToConfigured: false}
"""


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("EGR612", "fallbackToConfigured: false", "fallbackToConfigured: true"),
        ("EGR612", ", fallbackToConfigured: false", ""),
        (
            "EGR613",
            "fromRequestHeaders: {header: x-aigw-api-key,",
            "fromDynamicMetadata: {namespace: egret, key: provider_credential,",
        ),
    ],
)
def test_a_mistake_in_a_credential_of_an_ai_gateway_breaks_its_rule(
    rule: str, right: str, wrong: str
) -> None:
    """Its default lets a request leave with the credential that all share."""
    assert [found for found, _, _ in places(SECURITY.replace(right, wrong, 1))] == [rule]


@pytest.mark.parametrize(
    "text",
    [POLICY, ENVOY_FILTER, EXTENSION, SECURITY],
    ids=["policy", "filter", "extension", "credential"],
)
def test_a_good_resource_breaks_no_rule(text: str) -> None:
    """The examples of the documentation."""
    assert places(text) == []


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("EGR601", "failOpen: false", "failOpen: true"),
        ("EGR602", "messageTimeout: 10s", "messageTimeout: 500ms"),
        ("EGR603", "request: {body: FullDuplexStreamed, attributes: [source.address]}", "{}"),
        ("EGR604", "body: FullDuplexStreamed", "body: Streamed"),
        ("EGR605", "body: FullDuplexStreamed, ", ""),
        ("EGR606", "writableNamespaces: [egret]", "writableNamespaces: []"),
        ("EGR607", "request: {body", "response: {}\n        request: {body"),
        ("EGR616", ", attributes: [source.address]", ""),
    ],
)
def test_a_mistake_in_a_policy_breaks_its_rule(rule: str, right: str, wrong: str) -> None:
    """Field names of Envoy Gateway."""
    assert [found for found, _, _ in places(POLICY.replace(right, wrong))] == [rule]


@pytest.mark.parametrize("timeout", ["10s", "1m30s", "1h", "10000ms"])
def test_a_timeout_of_a_policy_is_read_as_go_writes_it(timeout: str) -> None:
    """Also in hours, and in two units."""
    assert places(POLICY.replace("messageTimeout: 10s", f"messageTimeout: {timeout}")) == []


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("EGR608", "workloadSelector: {labels: {app: egress}}", "priority: 1"),
        ("EGR101", "failure_mode_allow: false", "failure_mode_allow: true"),
        ("EGR102", "message_timeout: 10s", "message_timeout: 0.2s"),
        ("EGR001", "message_timeout: 10s", "message_timeot: 10s"),
    ],
)
def test_a_mistake_in_a_filter_breaks_its_rule(rule: str, right: str, wrong: str) -> None:
    """Its patches are judged as parts of a configuration."""
    assert [found for found, _, _ in places(ENVOY_FILTER.replace(right, wrong))] == [rule]


# SARIF.


def test_sarif_has_every_rule_and_each_finding_with_its_place() -> None:
    """A code host shows it beside the line."""
    findings = lint("envoy.yaml", with_mistake(MISTAKES["EGR101"])).findings
    run = sarif(findings)["runs"][0]
    ids = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    (result,) = run["results"]
    assert len(ids) == len(set(ids))
    assert result["ruleId"] in ids
    assert result["level"] == "error"
    (place,) = result["locations"]
    mark = findings[0].hit.node.mark
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "envoy.yaml"},
        "region": {"startLine": mark.line, "startColumn": mark.column},
    }


# What an older Envoy lacks.


OF_A_VERSION = ("EGR134", "EGR135")
"""Found in every configuration for an older Envoy."""


def _too_new(minor: int) -> dict[str, str]:
    """Return the replacement of each feature that this Envoy lacks."""
    parameters = EnvoyParameters(
        worker_sockets=("/run/egret/w-0.sock",),
        sds_directory="/etc/egret/sds",
        openai_fallback=Provider(host="eu.api.openai.com", credential_header="authorization"),
        otlp=OtlpCollector("collector", 4317),
    )
    known = Known(envoy=EnvoyVersion(1, minor))
    found = lint("envoy.yaml", render_envoy_config(parameters), known=known).findings
    assert {one.rule.id for one in found} <= {"EGR522", *OF_A_VERSION}
    outdated = (one.hit.about for one in found if one.rule.id == "EGR522")
    return {about.partition(" needs Envoy ")[0]: about.partition("(")[2] for about in outdated}


def test_what_an_older_envoy_lacks_is_named_with_what_to_do_instead() -> None:
    """Feature by feature, as versions brought them."""
    of_1_40 = {"a body that Egret asks for", "token counts of answers", "a second provider"}
    of_1_38 = {"a changed body with its length", "traces that end at Envoy"}
    of_1_37 = {"an access log in calls that are answered", "a tag from a format"}
    assert _too_new(41) == _too_new(40) == {}
    assert _too_new(39).keys() == _too_new(38).keys() == of_1_40
    assert _too_new(37).keys() == of_1_40 | of_1_38
    assert _too_new(36).keys() == of_1_40 | of_1_38 | of_1_37


def test_an_older_envoy_still_counts_usage_by_answers() -> None:
    """With the source `off` its budgets would count nothing."""
    instead = _too_new(36)
    for feature in ("token counts of answers", "an access log in calls that are answered"):
        assert "EGRET_USAGE__SOURCE=answers" in instead[feature]


def test_a_config_dump_says_itself_which_envoy_it_is_of() -> None:
    """Nothing has to be told."""
    minor, mistake, _ = OLDER_MISTAKES["EGR522"]
    config = yaml.safe_load(for_version(minor, mistake))
    found = lint("dump.json", json.dumps(_dump(config))).findings
    (first,) = (one for one in found if one.rule.id == "EGR522")
    assert first.hit.about.startswith("a body that Egret asks for needs Envoy 1.40 (")


def _with_cluster(line: str) -> str:
    return f"""\
node: {{id: a, cluster: b}}
static_resources:
  clusters:
    - name: c
      connect_timeout: 1s
      {line}
"""


@pytest.mark.parametrize(
    ("line", "name", "since"),
    [
        ("stats_matcher: {reject_all: true}", "stats_matcher", 40),
        ("per_connection_buffer_high_watermark_timeout: 1s",
         "per_connection_buffer_high_watermark_timeout", 38),
    ],
)  # fmt: skip
def test_a_field_that_an_envoy_lacks_is_named_with_its_version(
    line: str, name: str, since: int
) -> None:
    """Every field that came since 1.36, by the descriptors of each Envoy."""
    text = _with_cluster(line)
    for minor in (since - 1, since):
        found = lint("envoy.yaml", text, known=Known(envoy=EnvoyVersion(1, minor))).findings
        abouts = [one.hit.about for one in found if one.rule.id == "EGR006"]
        assert abouts == ([f"`{name}` needs Envoy 1.{since}"] if minor < since else [])
        places = [one.hit.node.mark.line for one in found if one.rule.id == "EGR006"]
        assert places == ([6] if minor < since else [])


def test_an_extension_that_an_envoy_lacks_is_named_with_its_version() -> None:
    """Its type is unknown to it, with all that is in it."""
    text = for_version(37, MISTAKES["EGR527"]).replace("mcp.v3.Mcp", "a2a.v3.A2a")
    found = lint("envoy.yaml", text).findings
    abouts = [one.hit.about for one in found if one.rule.id == "EGR006"]
    assert abouts == ["`typed_config` needs Envoy 1.38"]


def test_a_value_that_an_envoy_lacks_is_named_with_its_version() -> None:
    """Where the field is older than one of its values."""
    mode = {"request_body_mode": "GRPC"}
    text = for_version(36, lambda config: other_modes(config, mode))
    found = lint("envoy.yaml", text).findings
    abouts = [one.hit.about for one in found if one.rule.id == "EGR006"]
    assert abouts == ["`request_body_mode` needs Envoy 1.37"]
