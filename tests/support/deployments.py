"""Every kind of deployment that the template of Envoy's configuration knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from egret_tools.devstack.envoy_config import (
    AwsSigning,
    DescriptorLimit,
    EgretService,
    EnvoyParameters,
    Hits,
    ModelRoute,
    Provider,
    SelfHosted,
)

SOCKETS: Final = ("sockets/worker-0.sock", "sockets/worker-1.sock")


def _production(sds: Path) -> EnvoyParameters:
    return EnvoyParameters(
        worker_sockets=SOCKETS,
        sds_directory=str(sds),
        admin_socket="run/envoy-admin.sock",
        metrics_port=9465,
    )


def _embedded(sds: Path) -> EnvoyParameters:
    mock = Provider(
        host="localhost",
        address="127.0.0.1",
        port=8444,
        ca_file=str(sds.parent / "certificates" / "provider-ca.pem"),
        credential_header="authorization",
    )
    return EnvoyParameters(
        worker_sockets=SOCKETS,
        sds_directory=str(sds),
        https_address="127.0.0.1",
        https_port=0,
        http_port=0,
        access_log_path="/dev/null",
        openai=mock,
        anthropic=replace(mock, credential_header="x-api-key"),
    )


def _standalone(sds: Path) -> EnvoyParameters:
    return EnvoyParameters(
        egret_service=EgretService("egret.egret.svc"),
        sds_directory=str(sds),
        admin_socket="run/envoy-admin.sock",
        metrics_port=9465,
        wants_client_certificates=True,
        self_hosted=SelfHosted(
            "models.internal",
            Provider(host="vllm.models.svc", credential_header="authorization", is_many=True),
        ),
    )


def _with_fallback(sds: Path) -> EnvoyParameters:
    second = Provider(host="eu.api.openai.com", credential_header="authorization")
    return replace(_production(sds), openai_fallback=second)


def _limited(sds: Path) -> EnvoyParameters:
    limits = (
        DescriptorLimit(by=("organization", "team"), amount=600, seconds=60),
        DescriptorLimit(by=("key_id",), amount=90_000, seconds=1, hits=Hits.ESTIMATED_TOKENS),
    )
    return replace(_production(sds), descriptor_limits=limits)


def _every_provider(sds: Path) -> EnvoyParameters:
    return replace(
        _production(sds),
        azure=Provider(host="acme.openai.azure.com", credential_header="api-key"),
        gemini=Provider(
            host="generativelanguage.googleapis.com", credential_header="x-goog-api-key"
        ),
        bedrock=Provider(
            host="bedrock-runtime.eu-central-1.amazonaws.com", credential_header="authorization"
        ),
        self_hosted=SelfHosted(
            "models.internal", Provider(host="vllm.models.svc", credential_header="authorization")
        ),
    )


def _signed(sds: Path, *, credentials_file: str = "") -> EnvoyParameters:
    signing = AwsSigning(region="eu-central-1", credentials_file=credentials_file)
    host = "bedrock-runtime.eu-central-1.amazonaws.com"
    return replace(_production(sds), bedrock=Provider(host=host, signing=signing))


def _signed_by_a_file(sds: Path) -> EnvoyParameters:
    return _signed(sds, credentials_file=str(sds.parent / "aws"))


def _routed(sds: Path) -> EnvoyParameters:
    routes = (
        ModelRoute(models=("gpt-*", "o?-mini"), provider="openai"),
        ModelRoute(models=("claude-*",), provider="anthropic"),
        ModelRoute(models=("*",), provider="self_hosted"),
    )
    return replace(_standalone(sds), model_routes=routes)


DEPLOYMENTS: Final[Mapping[str, Callable[[Path], EnvoyParameters]]] = {
    "production": _production,
    "embedded": _embedded,
    "standalone": _standalone,
    "fallback": _with_fallback,
    "with limits of its own": _limited,
    "every provider": _every_provider,
    "signed": _signed,
    "signed by a file": _signed_by_a_file,
    "routed": _routed,
}
"""By a folder with the files of `sds_directory`; beside it the file `aws`."""
