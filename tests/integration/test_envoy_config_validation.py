"""Envoy itself says whether the rendered configuration is one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from egret_tools.devstack.credentials import (
    write_authority,
    write_certificate,
    write_certificates,
    write_credential,
)
from egret_tools.devstack.envoy_config import (
    EgretService,
    EnvoyConfigError,
    EnvoyParameters,
    OtlpCollector,
    render_envoy_config,
)
from egret_tools.devstack.processes import MissingProgramError, envoy_program, program_in_wheel
from egret_tools.envoy_lint.lint import lint
from pydantic import SecretStr

from tests.support.deployments import DEPLOYMENTS, SOCKETS


@pytest.fixture(scope="module")
def sds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("envoy")
    certificates = write_certificates(directory / "certificates")
    secrets = directory / "sds"
    secrets.mkdir()
    write_certificate(secrets, name="server_certificate", certificate=certificates.gateway)
    write_certificate(secrets, name="egret_client", certificate=certificates.gateway)
    for authority in ("egret_ca", "client_ca"):
        write_authority(secrets, name=authority, ca_file=certificates.gateway_ca)
    for provider in (
        *("openai", "openai_fallback", "anthropic", "self_hosted"),
        *("azure", "gemini", "bedrock"),
    ):
        write_credential(secrets, name=provider, header_value=SecretStr("made up"))
    (directory / "aws").write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n")
    return secrets


@pytest.mark.parametrize("traced", [False, True], ids=["untraced", "traced"])
@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_envoy_accepts_the_configuration_without_a_warning(
    sds: Path, tmp_path: Path, *, deployment: Callable[[Path], EnvoyParameters], traced: bool
) -> None:
    """Deprecated fields would show as warnings; of what is new we know."""
    parameters = deployment(sds)
    if traced:
        parameters = replace(parameters, otlp=OtlpCollector("collector.example", 4317))
    config = tmp_path / "envoy.yaml"
    config.write_text(render_envoy_config(parameters))
    checked = subprocess.run(
        [envoy_program(), "--mode", "validate", "-c", config, "-l", "warning"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    warnings = [line for line in checked.stderr.splitlines() if not _is_known(line)]
    assert (checked.returncode, warnings) == (0, [])
    assert "OK" in checked.stdout


def _is_known(warning: str) -> bool:
    """Tell whether it is about the filter that decision 17 takes in spite of it."""
    return "ai_protocol_manager.proto' marked as work-in-progress" in warning


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_frames_that_wait_close_no_connection_that_clients_share(
    sds: Path, deployment: Callable[[Path], EnvoyParameters]
) -> None:
    """A body in ten thousand frames of one byte would cut off all requests of the connection."""
    config = yaml.safe_load(render_envoy_config(deployment(sds)))
    options = [
        way["http2_protocol_options"]
        for cluster in config["static_resources"]["clusters"]
        for protocol in cluster.get("typed_extension_protocol_options", {}).values()
        for way in protocol.values()
        if isinstance(way, dict) and "http2_protocol_options" in way
    ]
    assert len(options) > 1
    assert {one.get("max_outbound_frames") for one in options} == {2**32 - 1}


def test_a_value_cannot_break_out_of_its_place(sds: Path) -> None:
    """Everything is written as JSON, so a quote or a line break stays data."""
    text = render_envoy_config(
        EnvoyParameters(
            worker_sockets=SOCKETS,
            sds_directory=str(sds),
            access_log_path='x"\nadmin: {address: evil}\n#',
        )
    )
    assert "\nadmin: {address: evil}" not in text


@pytest.mark.parametrize(
    ("sockets", "admin"),
    [
        pytest.param((), None, id="no worker"),
        pytest.param(("/" + "s" * 107,), None, id="worker socket too long"),
        pytest.param(SOCKETS, "/" + "a" * 107, id="admin socket too long"),
    ],
)
def test_what_cannot_work_is_refused_before_envoy_sees_it(
    sockets: tuple[str, ...], admin: str | None
) -> None:
    """Envoy would start and answer every request with an error."""
    parameters = EnvoyParameters(worker_sockets=sockets, sds_directory="s", admin_socket=admin)
    with pytest.raises(EnvoyConfigError):
        render_envoy_config(parameters)


def test_workers_of_two_kinds_are_refused() -> None:
    """One cluster has one kind of endpoints."""
    both = EnvoyParameters(
        worker_sockets=SOCKETS, egret_service=EgretService("egret"), sds_directory="s"
    )
    with pytest.raises(EnvoyConfigError):
        render_envoy_config(both)


def test_metrics_without_a_socket_of_the_admin_are_refused() -> None:
    """They are taken from there."""
    parameters = EnvoyParameters(worker_sockets=SOCKETS, sds_directory="s", metrics_port=9465)
    with pytest.raises(EnvoyConfigError):
        render_envoy_config(parameters)


@pytest.mark.parametrize(
    ("right", "wrong", "rules"),
    [
        ("", "", set()),
        ("overwrite: true", "overwrite: false", {"EGR307"}),
        ("auto_host_rewrite: true", "auto_host_rewrite: false", {"EGR409"}),
        ('sni: "eu.api.openai.com"', 'sni: ""', {"EGR304"}),
    ],
    ids=["right", "credential", "host", "name"],
)
def test_egret_lint_looks_at_a_fallback_as_at_any_provider(
    sds: Path, right: str, wrong: str, rules: set[str]
) -> None:
    """It is behind a plug-in of the route, not named by it."""
    text = render_envoy_config(DEPLOYMENTS["fallback"](sds))
    assert right in text
    found = lint("envoy.yaml", text.replace(right, wrong) if right else text).findings
    assert {finding.rule.id for finding in found} == rules


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_egret_lint_finds_nothing_in_what_we_render(
    sds: Path, deployment: Callable[[Path], EnvoyParameters]
) -> None:
    """What we ship is what we ask for, in every form of it."""
    assert lint("envoy.yaml", render_envoy_config(deployment(sds))).findings == ()


def test_egret_lint_finds_nothing_in_routes_by_model(sds: Path) -> None:
    """Only Egret writes the header that they go by, and no provider is sent it."""
    assert lint("envoy.yaml", render_envoy_config(DEPLOYMENTS["routed"](sds))).findings == ()


def test_a_missing_wheel_is_named_with_the_command_that_installs_it() -> None:
    """Not an import error from somewhere below."""
    with pytest.raises(MissingProgramError) as missing:
        program_in_wheel("no-such-distribution", ends_with="/bin/thing")
    assert missing.value.part == "no-such-distribution"
    assert "pip install" in missing.value.hint
