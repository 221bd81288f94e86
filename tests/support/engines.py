"""The server engines, and the reasons for which a case of the whole stack runs on one of them.

An engine carries bytes between Envoy and the codec. What it can change runs on both: streams,
their ends and resets, large and late bodies, drains, deaths, overload, the access log's own
stream. The rest runs on the default, `http2`, alone. Each conversation of
`tests/contract/recorded` is compared byte by byte on both as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

from sidecar.server.grpc_http2 import Http2Engine
from sidecar.server.grpcio import GrpcioEngine

ENGINE_TYPES: Final[Mapping[str, type[GrpcioEngine | Http2Engine]]] = {
    "grpcio": GrpcioEngine,
    "http2": Http2Engine,
}

on_one_engine = pytest.mark.any_engine
CONTENT: Final = on_one_engine("guardrails read texts that the codec has decoded")
REFUSAL: Final = on_one_engine("the refusal's words, status and count are decided after the codec")
POLICY: Final = on_one_engine("policies reach workers through the database")
COUNTS: Final = on_one_engine("limits and usage are counted from decoded access log entries")
SERVERS: Final = on_one_engine("a database, Valkey or a guardrail's server is at fault")
CLIENTS: Final = on_one_engine("the client speaks to Envoy; other cases stream on both engines")
ENVOY: Final = on_one_engine("shows Envoy's own behaviour; a worker takes no part in it")
COMMANDS: Final = on_one_engine("a command or a page reads what workers have stored")
