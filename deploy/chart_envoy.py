"""Writes the Envoy configurations below `deploy/` from the one template that there is.

`make chart`; a test says when it has to be run again. From the chart's the chart itself only takes
things away, or puts names in: providers, workers, proxies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import yaml
from egret_tools.devstack.envoy_config import (
    EgretService,
    EnvoyParameters,
    ModelRoute,
    OtlpCollector,
    Provider,
    render_envoy_config,
)

ROUTED_BY_MODEL: Final = ("openai", "anthropic")
"""Whose paths models can lead to; the chart copies their routes for each glob of its values."""
METRICS_PORT: Final = 9465
"""Beside Egret's own, 9464."""
HERE: Final = Path(__file__).parent


def chart_configuration() -> str:
    """Return the configuration with everything in it that the chart can do, as JSON."""
    parameters = EnvoyParameters(
        worker_sockets=("/run/egret/sockets/worker-0.sock",),
        sds_directory="/etc/egret/sds",
        admin_socket="/run/envoy/admin.sock",
        metrics_address="0.0.0.0",  # noqa: S104 - of a pod
        metrics_port=METRICS_PORT,
        azure=Provider(host="azure.invalid", credential_header="api-key"),
        gemini=Provider(
            host="generativelanguage.googleapis.com", credential_header="x-goog-api-key"
        ),
        bedrock=Provider(host="bedrock.invalid", credential_header="authorization"),
        otlp=OtlpCollector("collector.invalid", 4317),
        model_routes=tuple(
            ModelRoute(models=("model.invalid",), provider=name) for name in ROUTED_BY_MODEL
        ),
        wants_client_certificates=True,
    )
    return json.dumps(yaml.safe_load(render_envoy_config(parameters)), indent=1) + "\n"


def plain_configuration() -> str:
    """Return that of an Envoy before an Egret elsewhere, with its comments."""
    parameters = EnvoyParameters(
        egret_service=EgretService("egret.egret.svc"),
        sds_directory="/etc/egret/sds",
        admin_socket="/run/envoy/admin.sock",
        metrics_port=METRICS_PORT,
    )
    return render_envoy_config(parameters).strip() + "\n"


def compose_configuration() -> str:
    """Return that of `deploy/compose`: two workers behind sockets on the same machine."""
    parameters = EnvoyParameters(
        worker_sockets=tuple(f"/run/egret/sockets/worker-{index}.sock" for index in range(2)),
        sds_directory="/etc/egret/sds",
        admin_socket="/run/envoy/admin.sock",
        metrics_address="0.0.0.0",  # noqa: S104 - of a container
        metrics_port=METRICS_PORT,
    )
    return render_envoy_config(parameters).strip() + "\n"


WRITTEN: Final[Mapping[Path, Callable[[], str]]] = {
    HERE / "helm" / "egret" / "files" / "envoy.json": chart_configuration,
    HERE / "gateways" / "envoy" / "standalone.yaml": plain_configuration,
    HERE / "compose" / "envoy.yaml": compose_configuration,
}


if __name__ == "__main__":
    for path, text in WRITTEN.items():
        path.write_text(text(), encoding="utf-8")
