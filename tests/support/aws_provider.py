"""A provider that takes requests signed with AWS's version 4 alone, checked by AWS's own code."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from egret_tools.mock_llm.bedrock_api import EVENT_STREAM, frame

from tests.support.web_app import served

REGION: Final = "eu-central-1"
SERVICE: Final = "bedrock"
_SIGNED: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request,"
    r" ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)
MAX_BODY_BYTES: Final = 64 * 1024**2


@dataclass
class AwsProvider:
    """Its users with their secrets; what it received, good or not."""

    secrets: dict[str, str]
    port: int = 0
    received: list[bytes] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer Converse if the signature is right, 403 if not."""
        body = await request.read()
        fault = self._fault(request, body)
        if fault:
            self.refused.append(fault)
            return web.json_response(
                {"message": fault}, status=403,
                headers={"x-amzn-errortype": "InvalidSignatureException"},
            )  # fmt: skip
        self.received.append(body)
        if request.path.endswith("/converse-stream"):
            frames = [
                frame("messageStart", {"role": "assistant"}),
                frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Yes."}}),
                frame("messageStop", {"stopReason": "end_turn"}),
            ]
            return web.Response(body=b"".join(frames), content_type=EVENT_STREAM)
        message = {"role": "assistant", "content": [{"text": "Yes."}]}
        usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
        return web.json_response(
            {"output": {"message": message}, "stopReason": "end_turn", "usage": usage,
             "metrics": {"latencyMs": 1}}
        )  # fmt: skip

    def _fault(self, request: web.Request, body: bytes) -> str:
        """Return what is wrong with the signature; the body must be signed, not left out."""
        if "authorization" not in request.headers:
            return "bare"
        signed = _SIGNED.fullmatch(request.headers["authorization"])
        if signed is None or len(request.headers.getall("x-amz-date")) != 1:
            return "no signature"
        user, _, region, service, names, signature = signed.groups()
        if (region, service, user in self.secrets) != (REGION, SERVICE, True):
            return "signed for somebody else"
        if request.headers.get("x-amz-content-sha256") != hashlib.sha256(body).hexdigest():
            return "another body was signed"
        if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names.split(";")):
            return "too little is signed"
        found = self._signature(request, names.split(";"), body, user)
        self.users.append(user)
        return "" if found == signature else "the signature is wrong"

    def _signature(self, request: web.Request, names: list[str], body: bytes, user: str) -> str:
        """Sign the request as it arrived, as AWS's client would."""
        signer: Any = SigV4Auth(Credentials(user, self.secrets[user]), SERVICE, REGION)
        again: Any = AWSRequest(
            method=request.method,
            url=f"https://{request.headers['host']}{request.raw_path}",
            data=body,
            headers={name: request.headers[name] for name in names},
        )
        again.context["timestamp"] = request.headers["x-amz-date"]
        return str(
            signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
        )


@asynccontextmanager
async def running_aws_provider(
    secrets: dict[str, str], *, chain: Path, private_key: Path
) -> AsyncIterator[AwsProvider]:
    """Serve over TLS until the block ends."""
    provider = AwsProvider(secrets)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, private_key)
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/{path:.*}", provider.answer)
    async with served(app, tls=tls, access_log=None, shutdown_timeout=1) as provider.port:
        yield provider
