"""A guarded stream as Envoy 1.40 sends it to Egret, for counts: every event in a message."""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import Final

from egret_tools.benign_text import benign_text

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext

STREAM_POLICY: Final = """
name: window
usage: {streams: estimate}
guardrails:
  - {name: pii, type: pii, stage: output, action: redact}
  - {name: secrets, type: secrets, stage: output, action: block}
"""
EVENTS: Final = 20
STREAM_BODY: Final = json.dumps(
    {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": True,
    }
).encode()
_ANSWER_HEADERS: Final = ((":status", b"200"), ("content-type", b"text/event-stream"))
_EVENT: Final = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,'
    '"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_1",'
    '"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]}\n\n'
)


def answer_messages() -> tuple[bytes, ...]:
    """Return the messages about an answer of `EVENTS` words, from its headers to its end."""
    words = islice(cycle(benign_text(4_000).split()), EVENTS)
    deltas = [json.dumps({"content": f" {word}"}) for word in words]
    events = [_EVENT % (delta, "null") for delta in deltas]
    last = _EVENT % ("{}", '"stop"') + "data: [DONE]\n\n"
    pieces = [_piece(event.encode()) for event in (*events, last)]
    return (_headers(), *pieces, _piece(b"", ends=True))


def _headers() -> bytes:
    message = ext.ProcessingRequest()
    message.metadata_context.SetInParent()
    for name, value in _ANSWER_HEADERS:
        message.response_headers.headers.headers.add(key=name, raw_value=value)
    return message.SerializeToString()


def _piece(body: bytes, *, ends: bool = False) -> bytes:
    message = ext.ProcessingRequest()
    message.metadata_context.SetInParent()
    message.response_body.body = body
    message.response_body.end_of_stream = ends
    return message.SerializeToString()
