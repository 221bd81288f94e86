"""An external processor as small as can be, for tests of Envoy's configuration alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from google.protobuf.struct_pb2 import Struct

from sidecar._generated.envoy.config.core.v3 import base_pb2 as core
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar._generated.envoy.type.v3 import http_status_pb2 as status
from tests.support.scripted_processor import healthy_server

Answer = Callable[[ext.ProcessingRequest], ext.ProcessingResponse]


def header(name: str, value: str) -> core.HeaderValueOption:
    return core.HeaderValueOption(header=core.HeaderValue(key=name, raw_value=value.encode()))


def metadata(**values: str | float) -> Struct:
    namespaces = Struct()
    namespaces.update({"egret": values})
    return namespaces


def allow(
    *, remove: tuple[str, ...] = (), write: tuple[tuple[str, str], ...] = (), **values: str | float
) -> Answer:
    """Let the request pass, changed so, with these dynamic metadata."""

    def answer(_: ext.ProcessingRequest) -> ext.ProcessingResponse:
        mutation = ext.HeaderMutation(
            remove_headers=remove, set_headers=[header(*pair) for pair in write]
        )
        return ext.ProcessingResponse(
            request_headers=ext.HeadersResponse(
                response=ext.CommonResponse(header_mutation=mutation)
            ),
            dynamic_metadata=metadata(**values),
        )

    return answer


def refuse(code: int, *, write: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Answer the client with this status and these headers."""

    def answer(_: ext.ProcessingRequest) -> ext.ProcessingResponse:
        return ext.ProcessingResponse(
            immediate_response=ext.ImmediateResponse(
                status=status.HttpStatus(code=status.StatusCode.Name(code)),  # type: ignore[arg-type] # any code is allowed
                headers=ext.HeaderMutation(set_headers=[header(*pair) for pair in write]),
                body=b"{}",
            )
        )

    return answer


class PlaceholderProcessor:
    """Gives every request the same answer and counts them."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.streams = 0

    async def process(
        self, requests: AsyncIterator[ext.ProcessingRequest], _: object
    ) -> AsyncIterator[ext.ProcessingResponse]:
        """Answer the first message of the stream, and end it."""
        self.streams += 1
        async for request in requests:
            yield self.answer(request)
            return


@asynccontextmanager
async def running_processor(
    answer: Answer, *, socket: Path
) -> AsyncIterator[PlaceholderProcessor]:
    processor = PlaceholderProcessor(answer)
    handler = grpc.stream_stream_rpc_method_handler(
        processor.process,
        request_deserializer=ext.ProcessingRequest.FromString,
        response_serializer=ext.ProcessingResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler(
        "envoy.service.ext_proc.v3.ExternalProcessor", {"Process": handler}
    )
    async with healthy_server(service, socket):
        yield processor
