"""Request bodies of every API, and answers of those that say what a model has written."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

Document = dict[str, Any]
Ask = Callable[[str], Document]

CHAT: Final = "/v1/chat/completions"
MESSAGES: Final = "/v1/messages"
RESPONSES: Final = "/v1/responses"
GEMINI: Final = "/v1beta/models/gemini-2.5-pro"
BEDROCK: Final = "/model/anthropic.claude-v2%3A1"
AZURE: Final = "/openai/deployments/our-gpt"


def as_json(document: object) -> bytes:
    """Return JSON as a client writes it, blanks included."""
    return json.dumps(document, ensure_ascii=False).encode()


def chat(content: object, **more: object) -> Document:
    """Return a chat in OpenAI's terms."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **more}


def message(content: object, **more: object) -> Document:
    """Return a chat in Anthropic's terms."""
    return {**chat(content), "model": "claude-mock", "max_tokens": 16, **more}


def _contents(text: str) -> Document:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}]}


def _converse(text: str) -> Document:
    return {"messages": [{"role": "user", "content": [{"text": text}]}]}


APIS: Final[dict[str, tuple[str, Ask]]] = {
    "chat": (CHAT, chat),
    "completions": ("/v1/completions", lambda text: {"model": "gpt-4o", "prompt": text}),
    "responses": (RESPONSES, lambda text: {"model": "gpt-5", "input": text}),
    "input tokens": (f"{RESPONSES}/input_tokens", lambda text: {"model": "m", "input": text}),
    "compact": (f"{RESPONSES}/compact", lambda text: {"model": "gpt-5", "input": text}),
    "embeddings": ("/v1/embeddings", lambda text: {"model": "e-3", "input": ["a", text]}),
    "moderations": ("/v1/moderations", lambda text: {"input": text}),
    "images": ("/v1/images/generations", lambda text: {"model": "dall-e-3", "prompt": text}),
    "image edits": ("/v1/images/edits", lambda text: {"prompt": text}),
    "speech": ("/v1/audio/speech", lambda text: {"model": "tts-1", "input": text}),
    "transcriptions": ("/v1/audio/transcriptions", lambda text: {"prompt": text}),
    "messages": (MESSAGES, message),
    "count tokens": (f"{MESSAGES}/count_tokens", message),
    "gemini": (f"{GEMINI}:generateContent", _contents),
    "gemini stream": (f"{GEMINI}:streamGenerateContent?alt=sse", _contents),
    "gemini count": (f"{GEMINI}:countTokens", _contents),
    "gemini embed": (
        f"{GEMINI}:embedContent",
        lambda text: {"content": {"parts": {"text": text}}},
    ),
    "gemini batch": (
        f"{GEMINI}:batchEmbedContents",
        lambda text: {"requests": [{"content": {"parts": {"text": text}}}]},
    ),
    "converse": (f"{BEDROCK}/converse", _converse),
    "converse stream": (f"{BEDROCK}/converse-stream", _converse),
    "invoke": (f"{BEDROCK}/invoke", lambda text: {"prompt": text, "max_gen_len": 9}),
    "invoke stream": (f"{BEDROCK}/invoke-with-response-stream", lambda text: {"inputText": text}),
    "azure chat": (f"{AZURE}/chat/completions?api-version=2024-10-21", chat),
    "azure embeddings": (f"{AZURE}/embeddings", lambda text: {"input": text}),
    "azure responses": ("/openai/v1/responses", lambda text: {"model": "gpt-5", "input": text}),
}

GETS: Final = {
    "models": ("GET", "/v1/models"),
    "one model": ("GET", "/v1/models/gpt-4o"),
    "gemini models": ("GET", "/v1beta/models"),
    "a stored response": ("GET", "/v1/responses/resp_123"),
    "its input items": ("GET", "/v1/responses/resp_123/input_items"),
    "its deletion": ("DELETE", "/v1/responses/resp_123"),
    "its cancellation": ("POST", "/v1/responses/resp_123/cancel"),
    "responses of others": ("GET", "/v1/responses"),
    "files": ("GET", "/v1/files"),
}


# Answers.


def sse(*documents: object, done: bool = False) -> bytes:
    """Return server-sent events with a JSON document each."""
    events = [b"data: " + as_json(one) + b"\n\n" for one in documents]
    return b"".join([*events, b"data: [DONE]\n\n"] if done else events)


def named_sse(*documents: Document) -> bytes:
    """Return events named by the `type` of their document."""
    return b"".join(
        f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in documents
    )


def aws_message(event: str, payload: object) -> bytes:
    """Return one message of an AWS event stream (its two checksums included)."""
    named = {":event-type": event, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value))
        + value.encode()
        for name, value in named.items()
    )  # fmt: skip
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    start = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return start + struct.pack("!I", zlib.crc32(start))


def _chunk(delta: object, index: int = 0, reason: str | None = None) -> Document:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000,
            "model": "gpt-4o", "choices": [choice]}  # fmt: skip


def _chat_stream(field: str) -> Callable[[Sequence[str]], bytes]:
    def stream(pieces: Sequence[str]) -> bytes:
        first = _chunk({"role": "assistant", "content": ""})
        deltas = [_chunk({field: piece}) for piece in pieces]
        return sse(first, *deltas, _chunk({}, reason="stop"), done=True)

    return stream


def chat_stream_with_usage(pieces: Sequence[str]) -> bytes:
    """Return a stream whose last event tells what was used."""
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage}
    deltas = [_chunk({"content": piece}) for piece in pieces]
    return sse(*deltas, _chunk({}, reason="stop"), last, done=True)


def _two_choices(pieces: Sequence[str]) -> bytes:
    deltas = [
        _chunk({"content": text}, index)
        for piece in pieces
        for index, text in ((1, "so "), (0, piece))
    ]
    return sse(*deltas, *(_chunk({}, index, "stop") for index in (1, 0)), done=True)


def _tool_call(pieces: Sequence[str]) -> bytes:
    begin = {"index": 0, "id": "call_1", "type": "function",
             "function": {"name": "send_mail", "arguments": ""}}  # fmt: skip
    deltas = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    chunks = [_chunk({"tool_calls": [one]}) for one in (begin, *deltas)]
    return sse(*chunks, _chunk({}, reason="tool_calls"), done=True)


def _completion(pieces: Sequence[str]) -> bytes:
    rows = [{"index": 0, "text": text, "finish_reason": None} for text in pieces]
    return sse(*({"id": "cmpl-1", "choices": [row]} for row in rows), done=True)


def _responses(pieces: Sequence[str]) -> bytes:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    deltas = [{"type": "response.output_text.delta", **at, "delta": one} for one in pieces]
    end = {"type": "response.output_text.done", **at, "text": "".join(pieces)}
    response = {"id": "resp_1", "output": []}
    return named_sse(
        {"type": "response.created", "response": response}, *deltas, end,
        {"type": "response.completed", "response": response},
    )  # fmt: skip


def _messages(kind: str, field: str) -> Callable[[Sequence[str]], bytes]:
    def stream(pieces: Sequence[str]) -> bytes:
        start = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
        block = {"type": "text", "text": ""}
        deltas = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: piece}}
            for piece in pieces
        ]
        return named_sse(
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "ping"},
            *deltas,
            {"type": "content_block_stop", "index": 0},
            {"type": "message_stop"},
        )

    return stream


def _candidates(pieces: Sequence[str]) -> list[Document]:
    return [
        {"candidates": [{"content": {"parts": [{"text": one}], "role": "model"}, "index": 0}]}
        for one in pieces
    ]


def _gemini_array(pieces: Sequence[str]) -> bytes:
    return ("[" + "\n,\r\n".join(map(json.dumps, _candidates(pieces))) + "\n]\n").encode()


def _bedrock(pieces: Sequence[str]) -> bytes:
    deltas = [
        aws_message(
            "contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": one}, "p": "ab"}
        )
        for one in pieces
    ]
    first = aws_message("messageStart", {"role": "assistant"})
    last = aws_message("messageStop", {"stopReason": "end_turn"})
    stop = aws_message("contentBlockStop", {"contentBlockIndex": 0, "p": "a"})
    return b"".join((first, *deltas, stop, last))


SSE: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Streams:
    """How one kind of answer is streamed: the API that is asked, its type, its bytes."""

    api: str
    content_type: str
    of: Callable[[Sequence[str]], bytes]


STREAMS: Final = {
    "chat": Streams("chat", SSE, _chat_stream("content")),
    "reasoning": Streams("chat", SSE, _chat_stream("reasoning_content")),
    "two choices": Streams("chat", SSE, _two_choices),
    "tool call": Streams("chat", SSE, _tool_call),
    "completion": Streams("completions", SSE, _completion),
    "responses": Streams("responses", SSE, _responses),
    "messages": Streams("messages", SSE, _messages("text_delta", "text")),
    "tool use": Streams("messages", SSE, _messages("input_json_delta", "partial_json")),
    "thinking": Streams("messages", SSE, _messages("thinking_delta", "thinking")),
    "gemini": Streams("gemini stream", SSE, lambda pieces: sse(*_candidates(pieces))),
    "gemini array": Streams("gemini array", "application/json", _gemini_array),
    "bedrock": Streams("converse stream", "application/vnd.amazon.eventstream", _bedrock),
    "azure": Streams("azure chat", SSE, _chat_stream("content")),
}


def _chat_answer(text: str) -> Document:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    return {"id": "chatcmpl-1", "model": "gpt-4o", "choices": [choice], "usage": usage}


WHOLE: Final[dict[str, Ask]] = {
    "chat": _chat_answer,
    "completions": lambda text: {"choices": [{"index": 0, "text": text}]},
    "responses": lambda text: {
        "id": "resp_1",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}],
    },
    "messages": lambda text: {"type": "message", "content": [{"type": "text", "text": text}]},
    "gemini": lambda text: _candidates([text])[0],
    "converse": lambda text: {"output": {"message": {"content": [{"text": text}]}}},
    "invoke": lambda text: {"completion": text},
    "azure chat": _chat_answer,
}

APIS_OF_STREAMS: Final = {
    **APIS,
    "gemini array": (f"{GEMINI}:streamGenerateContent", _contents),
}
