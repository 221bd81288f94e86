"""Guardrails of others over gRPC, `egret.guardrail.v1`: one call a check, a strict reading."""

from __future__ import annotations

import re
from typing import Final, Literal, Self

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from sidecar.domain.finding import Finding
from sidecar.domain.policy import Stage
from sidecar.domain.remote_guardrails import GrpcSettings
from sidecar.guardrails.remote import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteFault,
    RemoteRequest,
    RemoteTimeoutError,
    RemoteVerdict,
)
from sidecar.guardrails.remote_checks.spans import in_bytes
from sidecar.transport._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail
from sidecar.transport.clients.grpc_channels import GrpcChannels

CHECK_METHOD: Final = "/egret.guardrail.v1.GuardrailService/Check"
MAX_ANSWER_BYTES: Final = 128 * 1024
MAX_FINDINGS: Final = 2_000
_TYPE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,39}")
_MAX_MESSAGE_CHARACTERS: Final = 2_000

_VERDICTS: Final[dict[int, RemoteVerdict]] = {
    guardrail.VERDICT_PASS: "pass",
    guardrail.VERDICT_FLAG: "flag",
    guardrail.VERDICT_REDACT: "redact",
    guardrail.VERDICT_BLOCK: "block",
}
_STAGES: Final = {Stage.INPUT: guardrail.STAGE_INPUT, Stage.OUTPUT: guardrail.STAGE_OUTPUT}
_SERVERS_CODES: Final = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNKNOWN,
    }
)


class GrpcChecks:
    """Asks guardrails over gRPC; a `RemoteChecks`."""

    def __init__(self, channels: GrpcChannels | None = None) -> None:
        self._channels = channels or GrpcChannels()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._channels.close()

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Ask the guardrail's server.

        Raises:
            RemoteCheckError: no connection, another status than OK, or an unusable answer.
        """
        settings = request.guardrail.settings
        if not isinstance(settings, GrpcSettings):
            raise RemoteCheckError("not_grpc", RemoteFault.LOCAL)
        channel = await self._channels.channel(settings.endpoint)
        # The answer stays bytes here: what gRPC makes of one it cannot read is no status of ours.
        call = channel.unary_unary(CHECK_METHOD, None, None)
        try:
            body: bytes = await call(
                check_request(request).SerializeToString(),
                metadata=tuple((name.lower(), value) for name, value in settings.endpoint.headers),
                timeout=request.guardrail.timeout_seconds,
            )
        except grpc.aio.AioRpcError as error:
            raise _problem(error.code()) from None
        return read_answer(body, request)


def check_request(request: RemoteRequest) -> guardrail.CheckRequest:
    """Return the message a server is sent."""
    return guardrail.CheckRequest(
        guardrail=request.guardrail.name,
        stage=_stage(request.stage),
        request_id=request.about.request_id,
        key_id=request.about.key_id,
        model=request.about.model,
        texts=[
            guardrail.Text(role=part.role, text=part.content.decode())
            for part in request.subject.parts
        ],
    )


def _stage(stage: Literal[Stage.INPUT, Stage.OUTPUT]) -> guardrail.Stage.ValueType:
    return _STAGES[stage]


def read_answer(body: bytes, request: RemoteRequest) -> RemoteAnswer:
    """Return what an answer says, spans turned from characters into bytes.

    Raises:
        RemoteCheckError: it is not the message that was agreed, or a span is outside its text.
    """
    if len(body) > MAX_ANSWER_BYTES:
        raise RemoteCheckError("answer_too_large")
    try:
        answer = guardrail.CheckResponse.FromString(body)
    except DecodeError:
        raise RemoteCheckError("answer_invalid") from None
    verdict = _VERDICTS.get(answer.verdict)
    if verdict is None or not _is_consistent(answer):
        raise RemoteCheckError("answer_invalid")
    findings = [
        Finding(request.guardrail.name, one.type, one.text, one.start, one.end)
        for one in answer.findings
    ]
    return RemoteAnswer(verdict, in_bytes(findings, request.subject.parts))


def _is_consistent(answer: guardrail.CheckResponse) -> bool:
    count = len(answer.findings)
    if answer.verdict == guardrail.VERDICT_PASS and count:
        return False
    if answer.verdict == guardrail.VERDICT_REDACT and not count:
        return False
    return (
        count <= MAX_FINDINGS
        and len(answer.message) <= _MAX_MESSAGE_CHARACTERS
        and all(_TYPE.fullmatch(one.type) for one in answer.findings)
    )


def _problem(code: grpc.StatusCode) -> RemoteCheckError:
    """Return an error with the status; its text is the server's, and stays here."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RemoteTimeoutError()
    error_type = f"grpc_{code.name.lower()}"
    if code is grpc.StatusCode.UNAVAILABLE:
        return RemoteCheckError(error_type, RemoteFault.TRANSIENT)
    if code in _SERVERS_CODES:
        return RemoteCheckError(error_type, RemoteFault.SERVER)
    return RemoteCheckError(error_type)
