"""A server of Envoy's global rate limits that counts what it is asked, and keeps overrides."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
METHOD: Final = "envoy.service.ratelimit.v3.RateLimitService"
OK, OVER_LIMIT = 1, 2


def _message(name: str, **fields: tuple[int, str]) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    for each, (number, kind) in fields.items():
        added = message.field.add(name=each, number=number, label=_Field.LABEL_OPTIONAL)
        if kind.startswith("["):
            added.label = _Field.LABEL_REPEATED
        if kind in {"string", "uint32"}:
            added.type = _Field.TYPE_STRING if kind == "string" else _Field.TYPE_UINT32
        else:
            added.type, added.type_name = _Field.TYPE_MESSAGE, f".rls.{kind.strip('[]')}"
    return message


def _classes() -> tuple[Any, Any]:
    """Return the request and the response of `rls.proto`, as far as they are used here."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(
        descriptor_pb2.FileDescriptorProto(
            name="rls.proto",
            package="rls",
            syntax="proto3",
            message_type=[
                _message("Entry", key=(1, "string"), value=(2, "string")),
                _message("Override", requests_per_unit=(1, "uint32"), unit=(2, "uint32")),
                _message("Descriptor", entries=(1, "[Entry]"), limit=(2, "Override")),
                _message("Request", domain=(1, "string"), descriptors=(2, "[Descriptor]")),
                _message("Response", overall_code=(1, "uint32")),
            ],
        )
    )
    found = [pool.FindMessageTypeByName(f"rls.{name}") for name in ("Request", "Response")]
    request, response = map(message_factory.GetMessageClass, found)
    return request, response


_REQUEST, _RESPONSE = _classes()


@dataclass
class RateLimitServer:
    """Where it listens, and the overrides it was sent, by the entries of their descriptor."""

    port: int = 0
    overrides: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)
    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)

    async def decide(self, message: bytes, context: object) -> bytes:
        """Count each descriptor against the override that came with it."""
        del context
        code = OK
        for one in _REQUEST.FromString(message).descriptors:
            name = tuple(entry.value for entry in one.entries)
            self.counts[name] += 1
            if one.HasField("limit"):
                self.overrides[name] = one.limit.requests_per_unit, one.limit.unit
                if self.counts[name] > one.limit.requests_per_unit:
                    code = OVER_LIMIT
        encoded: bytes = _RESPONSE(overall_code=code).SerializeToString()
        return encoded


@asynccontextmanager
async def ratelimit_server() -> AsyncIterator[RateLimitServer]:
    """Serve on a free port of loopback."""
    counting, server = RateLimitServer(), grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(
        METHOD, {"ShouldRateLimit": grpc.unary_unary_rpc_method_handler(counting.decide)}
    )
    server.add_generic_rpc_handlers((handler,))
    counting.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield counting
    finally:
        await server.stop(None)
