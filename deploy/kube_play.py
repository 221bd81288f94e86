"""`make kube-play`: the chart's sidecar pod, run by Podman from the rendered manifest.

Beside it on this machine a PostgreSQL and a mock provider; requests go through the pod, whole and
streamed, with a key and without one. Podman is no Kubernetes: `playable` says what is changed for
it, and nothing else is.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import shlex
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from egret_tools.devstack.credentials import Certificates, write_certificates
from egret_tools.devstack.databases import running_postgres
from egret_tools.devstack.demo_setup import set_up
from egret_tools.devstack.processes import Children, PartError
from egret_tools.mock_llm.server import MockAddress, MockSettings, running_mock
from pydantic import SecretStr

from deploy.image_check import SEEN_FROM_WITHIN, ImageFaultError, Tool

CHART: Final = Path(__file__).parent / "helm" / "egret"
POD: Final = "egret-pod"
PLAYED: Final = ("Secret", "ConfigMap", "Deployment")
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
DSN: Final = "postgresql://egret@127.0.0.1:5432/egret"
URL: Final = "https://localhost:8443"
PATIENCE_SECONDS: Final = 90.0
PROVIDERS_KEY: Final = SecretStr("key-of-the-provider")
CHAT: Final = {
    "model": "gpt-5-mini",
    "messages": [{"role": "user", "content": "Write to ann@example.org."}],
}

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Provider:
    """The mock in the place of api.openai.com, by what its certificate is checked with."""

    port: int
    authority: str


def main() -> int:
    """Play the pod and ask it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.kube_play", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("envoy_image")
    parser.add_argument("--tool", default="podman", help="podman with its options")
    given = parser.parse_args()
    tool = Tool(tuple(shlex.split(given.tool)), ())
    try:
        with tempfile.TemporaryDirectory(prefix="egret-play-") as folder:
            place = Path(folder)
            place.chmod(0o755)  # PostgreSQL runs as another user
            asyncio.run(_played(tool, place, images=(given.image, given.envoy_image)))
    except (ImageFaultError, PartError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    print("the pod serves, and ends when told to")
    return 0


async def _played(tool: Tool, place: Path, *, images: tuple[str, str]) -> None:
    certificates = write_certificates(place / "certificates")
    settings = MockSettings(
        certificate_chain=certificates.provider.chain,
        private_key=certificates.provider.private_key,
        openai_key=PROVIDERS_KEY, anthropic_key=PROVIDERS_KEY, azure_key=PROVIDERS_KEY,
        gemini_key=PROVIDERS_KEY, bedrock_key=PROVIDERS_KEY,
    )  # fmt: skip
    postgres = running_postgres(
        Children(), directory=place / "postgres", logs=place,
        settings=("listen_addresses=127.0.0.1",),
    )  # fmt: skip
    async with postgres as dsn, running_mock(settings) as mock:
        key = await set_up(SecretStr(dsn))
        authority = certificates.provider_ca.read_text(encoding="utf-8")
        resources = playable(rendered(*images), certificates, Provider(mock.port, authority))
        manifest = place / "pod.yaml"
        manifest.write_text(yaml.safe_dump_all(resources), encoding="utf-8")
        with _playing(tool, manifest):
            await _asked(tool, certificates, mock=mock, key=key)
            _ended(tool)


def rendered(image: str, envoy_image: str) -> list[Resource]:
    """Return the chart's resources for one sidecar pod of these images.

    Raises:
        ImageFaultError: Helm does not take the chart or the values.
    """
    repository, _, tag = image.rpartition(":")
    values = {
        "image.repository": repository, "image.tag": tag, "envoy.image": envoy_image,
        "replicas": "1", "migrations.enabled": "false", "postgres.dsn": DSN,
        "envoy.tls.existingSecret": "egret-tls",
        "envoy.credentials.existingSecret": "egret-providers",
    }  # fmt: skip
    helm = Path(sys.executable).parent / "helm4"
    options = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    ran = subprocess.run(  # noqa: S603 - installed by `make helm`
        [helm, "template", "egret", CHART, *options], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise ImageFaultError(f"helm template: {ran.stderr.strip()[-500:]}")
    return [one for one in yaml.safe_load_all(ran.stdout) if one]


def playable(
    resources: list[Resource], certificates: Certificates, provider: Provider
) -> list[Resource]:
    """Return what Podman plays of the chart's resources, with the Secrets that the chart expects.

    Changed are: the network, which is this machine's; the native sidecar, which Podman would wait
    for and which becomes the first container; the projected volume, which becomes a Secret; who
    may read Secrets and write folders, since Podman has no fsGroup; the provider's address; probes
    over HTTP, which Podman sends by a `curl` that Envoy's image lacks.
    """
    kept = copy.deepcopy([one for one in resources if one["kind"] in PLAYED])
    (files,) = (one["data"] for one in kept if one["kind"] == "ConfigMap")
    files["envoy.json"] = _asking(files["envoy.json"], provider)
    (deployment,) = (one for one in kept if one["kind"] == "Deployment")
    _change_pod(deployment["spec"]["template"]["spec"])
    pair = certificates.gateway
    credential = {"generic_secret": {"secret": {"inline_string": f"Bearer {_provider_key()}"}}}
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    openai = {"resources": [{"@type": kind, "name": "openai", **credential}]}
    tls = {"tls.crt": pair.chain.read_text(), "tls.key": pair.private_key.read_text()}
    sds = {
        "server_certificate.yaml": files["server_certificate.yaml"],
        "openai.yaml": json.dumps(openai),
    }
    return [_secret("egret-tls", tls), _secret("egret-sds", sds), *kept]


def _provider_key() -> str:
    return PROVIDERS_KEY.get_secret_value()


def _secret(name: str, content: Mapping[str, str]) -> Resource:
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": content}


def _asking(text: str, provider: Provider) -> str:
    """Return Envoy's configuration with the mock in the place of OpenAI."""
    config = json.loads(text)
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "openai":
            tls = cluster["transport_socket"]["typed_config"]
            tls["sni"] = "localhost"
            validation = tls["common_tls_context"]["validation_context"]
            validation["trusted_ca"] = {"inline_string": provider.authority}
            validation["match_typed_subject_alt_names"][0]["matcher"] = {"exact": "localhost"}
            (group,) = cluster["load_assignment"]["endpoints"]
            address = {"address": "127.0.0.1", "port_value": provider.port}
            group["lb_endpoints"] = [{"endpoint": {"address": {"socket_address": address}}}]
    return json.dumps(config)


def _change_pod(pod: Resource) -> None:
    pod["hostNetwork"] = True
    for sidecar in pod.pop("initContainers"):
        del sidecar["restartPolicy"]
        pod["containers"].insert(0, sidecar)
    for container in pod["containers"]:
        for probe in PROBES:
            if "httpGet" in container.get(probe, {}):
                del container[probe]
    for volume in pod["volumes"]:
        if "projected" in volume:
            del volume["projected"]
            volume["secret"] = {"secretName": "egret-sds"}
        if "secret" in volume:
            volume["secret"]["defaultMode"] = 0o444
        # In memory each container would have a folder of its own.
        volume.get("emptyDir", {}).pop("medium", None)


@contextmanager
def _playing(tool: Tool, manifest: Path) -> Iterator[None]:
    try:
        tool.do("kube", "play", str(manifest))
        yield
    finally:
        tool.do("kube", "down", str(manifest))


async def _asked(
    tool: Tool, certificates: Certificates, *, mock: MockAddress, key: SecretStr
) -> None:
    tls = ssl.create_default_context(cafile=str(certificates.gateway_ca))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as client:
        _until_started(tool)
        async with client.post(f"{URL}/v1/chat/completions", json=CHAT) as refused:
            is_egrets = "x-egret-request-id" in refused.headers
            _expect("a request without a key", (refused.status, is_egrets), (401, True))
        headers = {"authorization": f"Bearer {key.get_secret_value()}"}
        for more in ({}, {"stream": True}):
            request = client.post(
                f"{URL}/v1/chat/completions", json={**CHAT, **more}, headers=headers
            )
            async with request as answer:
                said = await answer.text()
                if answer.status != 200 or "mock" not in said:  # noqa: PLR2004 - HTTP OK
                    raise ImageFaultError(f"to {more} the answer is {answer.status}: {said[:500]}")
        async with client.get(f"{mock.debug_url}/count") as counted:
            _expect("requests at the provider", (await counted.json())["count"], 2)
    for container, user in (("egret", 65532), ("drain", 65531)):
        within = json.loads(
            tool.do("exec", f"{POD}-{container}", "python", "-c", SEEN_FROM_WITHIN)
        )
        seen = (within["user"], within["capabilities"], within["root"])
        _expect(container, seen, (user, "0" * 16, "Read-only file system"))


def _ended(tool: Tool) -> None:
    """Tell Egret to stop, as a kubelet does; it ends by itself."""
    tool.do("stop", "--time", "40", f"{POD}-egret")
    (ended,) = json.loads(tool.do("inspect", f"{POD}-egret"))
    _expect("exit code after SIGTERM", ended["State"]["ExitCode"], 0)


def _until_started(tool: Tool) -> None:
    """Ask as the startup probe does, for which Podman does not hold Envoy back."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            tool.do("exec", f"{POD}-egret", "egret", "health", "started")
        except ImageFaultError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def _expect(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ImageFaultError(f"{what}: {found}, not {wanted}")


if __name__ == "__main__":
    sys.exit(main())
