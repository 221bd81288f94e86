"""`egret envoy render` as it is typed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from egret_tools.devstack.envoy_config import EnvoyParameters
from egret_tools.envoy_lint.lint import lint

from deploy.chart_envoy import METRICS_PORT, compose_configuration
from tests.support.command_line import run_command

DOCUMENT = (Path(__file__).parents[4] / "docs" / "envoy.md").read_text()
EXAMPLES = re.findall(r"^worker_sockets: .*?(?=^```|^END)", DOCUMENT, re.MULTILINE | re.DOTALL)
COMPOSE = f"""
worker_sockets: [/run/egret/sockets/worker-0.sock, /run/egret/sockets/worker-1.sock]
sds_directory: /etc/egret/sds
admin_socket: /run/envoy/admin.sock
metrics_address: 0.0.0.0
metrics_port: {METRICS_PORT}
"""


def render(text: str) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it said."""
    ran = run_command(["envoy", "render", "-"], stdin=text)
    return ran.code, ran.out, ran.err


def test_what_is_rendered_is_what_is_shipped() -> None:
    """The same template, to the last byte, and nothing beside it."""
    assert render(COMPOSE) == (0, compose_configuration(), "")


def test_parameters_are_read_from_a_file(tmp_path: Path) -> None:
    """Its name is the argument."""
    file = tmp_path / "parameters.yaml"
    file.write_text(COMPOSE)
    ran = run_command(["envoy", "render", str(file)])
    assert (ran.code, ran.out) == (0, compose_configuration())


@pytest.mark.parametrize("example", EXAMPLES, ids=["routes", "limits", "production"])
def test_what_is_documented_is_rendered_and_clean(example: str) -> None:
    """Each of them is whole."""
    code, shown, _ = render(example)
    assert code == 0
    assert lint("envoy.yaml", shown).findings == ()


def test_every_parameter_is_documented() -> None:
    """In the table, once."""
    table = DOCUMENT[DOCUMENT.index("| parameter |") :]
    rows = re.findall(r"^\| (`[a-z_`, ]+) \|", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall("[a-z_]+", row)]
    assert sorted(named) == sorted(one.name for one in dataclasses.fields(EnvoyParameters))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sds_directory: [", "line 2, column 1: did not find expected node content"),
        ("[]", "line 1, column 1: must be a mapping (write {parameter: value})"),
        ("", "one document has the parameters, and there are 0"),
        (COMPOSE + "---\n" + COMPOSE, "one document has the parameters, and there are 2"),
        ("worker_sockets: [/a]", "line 1, column 1: `sds_directory` is required"),
        (COMPOSE + "opanai: {host: x}", "unknown field `opanai` (did you mean `openai`?)"),
        (COMPOSE + "openai: {host: x, prot: 1}", "openai.prot: unknown field `prot` (did you"),
        (
            COMPOSE + "self_hosted: {domain: x, servers: {hots: y}}",
            "self_hosted.servers.hots: unknown field `hots` (did you mean `host`?)",
        ),
        (
            COMPOSE + "model_routes: [{modles: [x], provider: openai}]",
            "model_routes[0].modles: unknown field `modles` (did you mean `models`?)",
        ),
        (COMPOSE + "https_port: many", "line 7, column 13: https_port: must be a whole number"),
        (COMPOSE + "https_port: 0", "https_port: must be at least 1"),
        (COMPOSE + "http_port: 70000", "http_port: must be at most 65535"),
        (COMPOSE + "openai: {host: x, port: 0}", "openai.port: must be at least 1"),
        (COMPOSE + "admin_port: -1", "admin_port: must be at least 0"),
        (COMPOSE + "unknown_models: pass", "unknown_models: must be one of refuse, by_path"),
        (COMPOSE + "node_id: &a x", "anchors and aliases are not accepted"),
        (COMPOSE + "openai: " + "[" * 100_000, "longer than 100000 characters"),
        (COMPOSE + "openai: " + "[" * 90, "nested deeper than 60 levels"),
        (COMPOSE + "openai: " + "[" * 10_000, "exceeded maximum nesting depth"),
        (
            COMPOSE + 'azure: {host: "https://acme.openai.azure.com"}',
            "azure.host: must be the host alone, without https:// and port",
        ),
        (COMPOSE + "openai: {host: api.openai.com:443}", "openai.host: must be the host alone"),
        (COMPOSE + "openai: {host: a, address: b:443}", "openai.address: must be the host alone"),
        (COMPOSE + 'openai: {host: "[::1]"}', "openai.host: must be the host alone"),
        (COMPOSE + "egret_service: {host: egret:50051}", "egret_service.host: must be the host"),
        (COMPOSE + 'otlp: {host: "http://c", port: 4317}', "otlp.host: must be the host alone"),
        (COMPOSE + 'otlp: {host: "c..", port: 4317}', "otlp.host: must be the host alone"),
        (COMPOSE + 'otlp: {host: ".", port: 4317}', "otlp.host: must be the host alone"),
        (COMPOSE + "openai: {host: api.openai.com.}", "openai.host: must have no dot at its end"),
        (COMPOSE + "egret_service: {host: egret.}", "egret_service.host: must have no dot"),
        (
            COMPOSE + "self_hosted: {domain: models.internal., servers: {host: vllm}}",
            "self_hosted.domain: must have no dot at its end",
        ),
        (
            COMPOSE + "self_hosted: {domain: models.internal:8443, servers: {host: vllm}}",
            "self_hosted.domain: must be the host alone",
        ),
        ("sds_directory: /x", "workers are behind sockets"),
        (COMPOSE + "model_routes: [{models: [x], provider: nobody}]", "leads to nobody"),
    ],
)
def test_what_cannot_be_rendered_is_said_and_nothing_is_printed(text: str, said: str) -> None:
    """With the name of the parameter; exits with 2."""
    code, shown, told = render(text)
    assert (code, shown) == (2, "")
    assert said in " ".join(told.split())


@pytest.mark.parametrize("host", ["api.openai.com", "vllm_1", "192.0.2.1", "::1", "fd00::1"])
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    """With the port in a parameter of its own."""
    code, shown, _ = render(COMPOSE + f'openai: {{host: "{host}", port: 8443, address: ""}}')
    assert code == 0
    assert f'"{host}"' in shown


@pytest.mark.parametrize(
    "parameter",
    [
        "otlp: {host: collector.example., port: 4317}",
        "openai: {host: a, address: collector.example.}",
        "self_hosted: {domain: a, servers: {host: b, address: collector.example.}}",
    ],
)
def test_a_name_that_is_only_resolved_may_be_absolute(parameter: str) -> None:
    """The resolver tries no search domain then."""
    code, shown, _ = render(COMPOSE + parameter)
    assert code == 0
    assert '"collector.example."' in shown


def test_values_cannot_break_out_of_their_place() -> None:
    """Whatever is in a parameter stays text."""
    path = "/x}}}, admin: {}\n\"'"
    text = yaml.safe_dump(yaml.safe_load(COMPOSE) | {"access_log_path": path})
    _, shown, _ = render(text)
    (listener, _) = yaml.safe_load(shown)["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["access_log"][0]["typed_config"]["path"] == path
