"""Answers that Envoy keeps (BUFFERED) and sends in one message, which comes in many frames."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import h2.events
import pytest
from google.protobuf.json_format import MessageToDict

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.extproc.stream import OverloadGuard
from sidecar.pipeline.request import serve
from sidecar.server.grpc_server import GrpcApplication
from sidecar.server.grpc_wire import MessageReader, framed
from sidecar.server.http2_streams import MAX_FRAME_BYTES
from sidecar.server.options import PROCESS_METHOD
from sidecar.settings.stores import UsageSource
from tests.support import envoy_messages as envoy
from tests.support.http2_peer import REQUEST, Http2Peer
from tests.support.pipeline import World, chat, headers

MEGABYTE = 1 << 20
ROOM = 8 * MEGABYTE
ANSWER = b'{"choices":[{"message":{"content":"Hi."}}]}'.ljust(4 * MEGABYTE)
ANSWER_HEADERS = ((":status", b"200"), ("content-type", b"application/json"))
BLOCKS = """
name: default
guardrails: [{name: words, type: denied_terms, stage: output, action: block, terms: [Bluebird]}]
"""


class Gateway:
    """An Envoy that keeps bodies, beside a worker that has room for `ROOM` bytes."""

    def __init__(self, policy: str, source: UsageSource) -> None:
        self.world = World(policy, usage_source=source)
        self.guard = OverloadGuard(max_exchanges=8, max_held_bytes=ROOM)
        worker = replace(self.world.worker, guard=self.guard, max_body_bytes=ROOM)
        application = GrpcApplication(partial(serve, worker=worker), max_message_bytes=ROOM)
        self.peer = Http2Peer(application.answer)
        self.peer.start()
        self.number = self.peer.request(tuple((dict(REQUEST) | {":path": PROCESS_METHOD}).items()))

    async def send(self, message: ext.ProcessingRequest) -> None:
        """Send a message in frames, as the worker's window allows."""
        data = b"".join(framed([message.SerializeToString()]))
        for start in range(0, len(data), MAX_FRAME_BYTES):
            self.peer.client.send_data(self.number, data[start : start + MAX_FRAME_BYTES])
            await self.peer.settle(3)
            if self.peer.of(h2.events.StreamEnded):
                return
        await self.peer.settle()

    async def send_request(self) -> None:
        """Send a request, which the worker lets go on, and the headers of its answer."""
        first = envoy.request_headers(*headers().fields)
        await self.send(envoy.opening(first, request=envoy.BUFFERED, response=envoy.BUFFERED))
        await self.send(envoy.request_body(chat(), ends=True))
        await self.send(envoy.response_headers(*ANSWER_HEADERS))

    async def send_answer(self) -> ext.ProcessingResponse:
        """Send the body of the answer; return what the worker says to it."""
        message = ext.ProcessingRequest(response_body=ext.HttpBody(body=ANSWER))
        message.response_body.end_of_stream = True
        await self.send(message)
        reader = MessageReader(max_message_bytes=ROOM)
        return envoy.responses(map(bytes, reader.feed(self.peer.body(self.number))))[-1]

    def refused(self) -> float | None:
        """Return how many bodies found no room."""
        sample = self.world.registry.get_sample_value
        return sample("egret_exchange_faults_total", {"kind": "too_many_bytes"})


@pytest.fixture(
    params=[
        pytest.param(("name: default\n", UsageSource.ACCESS_LOG), id="passes"),
        pytest.param(("name: default\n", UsageSource.ANSWERS), id="counted"),
        pytest.param((BLOCKS, UsageSource.ACCESS_LOG), id="judged"),
    ]
)
async def gateway(request: pytest.FixtureRequest) -> Gateway:
    policy, source = request.param
    return Gateway(policy, source)


async def test_a_long_buffered_answer_goes_on_while_requests_take_all_room(
    gateway: Gateway,
) -> None:
    """It is paid for, and slow requests of other clients must not have it fail."""
    await gateway.send_request()
    assert gateway.guard.hold(ROOM)
    answer = await gateway.send_answer()
    assert answer.WhichOneof("response") == "response_body"
    assert gateway.guard.held_bytes == ROOM
    assert not gateway.refused()


async def test_a_long_buffered_answer_without_room_in_the_reserve_is_refused_and_counted(
    gateway: Gateway,
) -> None:
    """The memory of a worker is bounded, and no answer waits for another. It is paid for."""
    await gateway.send_request()
    assert gateway.guard.hold(ROOM)
    assert gateway.guard.hold_buffered(ROOM)
    answer = await gateway.send_answer()
    assert answer.immediate_response.status.code == 503
    assert b'"code":"overloaded"' in answer.immediate_response.body
    verdict = MessageToDict(answer.dynamic_metadata)["egret"]
    assert (verdict["error"], verdict["answer_status"]) == ("overloaded", "200")
    assert gateway.guard.held_bytes == 2 * ROOM
    assert gateway.refused() == 1
