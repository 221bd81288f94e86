"""The part of Kubernetes' API that Egret uses: Secrets of a namespace, over TLS, with a token."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.authority import Authority
from tests.support.web_app import served

TOKEN = "token-of-the-job"


@dataclass
class KubernetesApi:
    """Secrets by name, each with its data and version; `verbs` has the verbs it was sent."""

    url: str = ""
    service_account: Path = Path()
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    verbs: list[str] = field(default_factory=list)

    def add(self, name: str, **data: str) -> None:
        """Add a Secret, as the chart or an administrator makes it."""
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        secret = {"metadata": {"name": name, "resourceVersion": "1"}}
        self.secrets[name] = secret | ({"data": encoded} if encoded else {})

    def value(self, name: str, key: str) -> str:
        """Return a value in plain text."""
        return base64.b64decode(self.secrets[name]["data"][key]).decode()

    async def answer(self, request: web.Request) -> web.Response:
        """Return a Secret, or change one by a JSON patch."""
        self.verbs.append(request.method)
        if request.headers["authorization"] != f"Bearer {TOKEN}":
            return web.json_response({"kind": "Status"}, status=401)
        secret = self.secrets.get(request.match_info["name"])
        if secret is None:
            return web.json_response({"kind": "Status"}, status=404)
        if request.method == "PATCH":
            assert request.content_type == "application/json-patch+json"
            for step in await request.json():
                *above, last = step["path"].split("/")[1:]
                place = secret
                for name in above:
                    place = place[name]
                if step["op"] == "test" and place[last] != step["value"]:
                    return web.json_response({"kind": "Status"}, status=422)
                if step["op"] == "add":
                    place[last] = step["value"]
            version = int(secret["metadata"]["resourceVersion"])
            secret["metadata"]["resourceVersion"] = str(version + 1)
        return web.json_response(secret)


@asynccontextmanager
async def kubernetes_api(folder: Path) -> AsyncIterator[KubernetesApi]:
    """Serve the API on loopback; *folder* becomes that of the service account."""
    authority = Authority(folder)
    files = authority.identity("127.0.0.1")
    authority.ca.cert_pem.write_to_path(folder / "ca.crt")
    (folder / "token").write_text(f"{TOKEN}\n", encoding="utf-8")
    (folder / "namespace").write_text("egret", encoding="utf-8")
    api = KubernetesApi(service_account=folder)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files["cert_file"], files["key_file"])
    application = web.Application()
    application.router.add_route("*", "/api/v1/namespaces/egret/secrets/{name}", api.answer)
    async with served(application, tls=tls) as port:
        api.url = f"https://127.0.0.1:{port}"
        yield api
