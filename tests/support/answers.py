"""Streamed answers of every API as bytes, and what Egret lets on of them, without Envoy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from sidecar.apis.event_stream import event_stream_message
from sidecar.apis.response_structure import AnswerForm, framer_of
from sidecar.domain.errors import ClientError
from sidecar.domain.finding import NOTHING_REDACTED, Restoration
from sidecar.domain.principal import PolicyBinding
from sidecar.extproc.stream import ExtProcStream
from sidecar.guardrails.remote.checks import RequestInfo
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.pipeline.answer_judgement import AnswerJudgement, AnswerSetting, Released
from sidecar.policy.parse import parse_policies
from sidecar.policy.snapshot import EffectivePolicy
from sidecar.redaction.redact import Placeholders
from tests.support.conversation import Talk
from tests.support.guardrails import snapshot_of
from tests.support.memory_stream import MemoryStream
from tests.support.pipeline import PATIENT, ScriptedRemote


@lru_cache
def effective(guardrails: str, *, unscanned: str = "block") -> EffectivePolicy:
    """Return the policy with these guardrails, a YAML list."""
    text = f"name: default\nunscanned: {unscanned}\nguardrails: {guardrails}\n"
    policy = snapshot_of(parse_policies(text)).effective(PolicyBinding())
    assert isinstance(policy, EffectivePolicy)
    return policy


def judgement(
    policy: EffectivePolicy,
    form: AnswerForm = AnswerForm.SSE,
    *,
    restoration: Restoration = NOTHING_REDACTED,
    remote: ScriptedRemote | None = None,
    hides_usage: bool = False,
) -> AnswerJudgement:
    """Begin to judge an answer."""
    setting = AnswerSetting(
        policy=policy.answers,
        unscanned=policy.unscanned,
        restoration=restoration,
        placeholders=Placeholders(
            hash_key=None, taken=dict.fromkeys(restoration.originals, (True, 0, 0))
        ),
        guardrail_runner=GuardrailRunner(remote=remote or ScriptedRemote(), clock=lambda: 0.0),
        about=RequestInfo(request_id="r", key_id="k", model="gpt-4o"),
        clock=lambda: 0.0,
        hides_usage=hides_usage,
    )
    return AnswerJudgement(form, setting)


def quiet_stream() -> ExtProcStream:
    """Return the stream of a call on which Envoy sends nothing more."""
    return ExtProcStream(MemoryStream(), Talk().protocol, PATIENT)


async def judged_whole(judge: AnswerJudgement, body: bytes) -> Released:
    """Judge a whole answer."""
    return await judge.judge_whole(body, quiet_stream())


def judged_at_once(judge: AnswerJudgement, body: bytes) -> Released:
    """Judge a whole answer that needs no waiting."""
    judging = judge.judge_whole(body, quiet_stream())
    try:
        judging.send(None)
    except StopIteration as end:
        released = end.value
        assert isinstance(released, Released)
        return released
    raise AssertionError("the judgement waits for something")


@dataclass(frozen=True, slots=True)
class Judged:
    """What left of an answer, piece by piece, and what ended it."""

    pieces: tuple[bytes, ...]
    error: ClientError | None

    @property
    def body(self) -> bytes:
        """All that left."""
        return b"".join(self.pieces)


def streamed(judge: AnswerJudgement, chunks: Sequence[bytes]) -> Judged:
    """Send an answer in these chunks."""
    pieces: list[bytes] = []
    for place, chunk in enumerate(chunks):
        released: Released = judge.take(chunk, is_last=place + 1 == len(chunks))
        pieces.append(released.body)
        if released.error is not None:
            return Judged(tuple(pieces), released.error)
    return Judged(tuple(pieces), None)


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut *stream* at *places*, however often each is named."""
    borders = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(borders)]


def sse(*documents: object, done: bool = False) -> bytes:
    """Return server-sent events with a JSON document each."""
    events = [f"data: {json.dumps(one, ensure_ascii=False)}\n\n".encode() for one in documents]
    return b"".join([*events, b"data: [DONE]\n\n"] if done else events)


def named_sse(*documents: dict[str, Any]) -> bytes:
    """Return events named by the `type` of their document."""
    return b"".join(
        f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in documents
    )


def chat_chunk(delta: object, index: int = 0, **more: object) -> dict[str, object]:
    """Return one chunk of a streamed chat completion."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | more
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000,
            "model": "gpt-4o", "choices": [choice]}  # fmt: skip


Documents = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Api:
    """One kind of stream: its bytes for pieces of one text, and that text as a client has it."""

    form: AnswerForm
    stream: Callable[[Sequence[str]], bytes]
    texts: Callable[[dict[str, Any]], Iterable[str]]

    def said(self, stream: bytes) -> str:
        """Return the text that a client joins from a stream."""
        framer = framer_of(self.form)
        assert framer is not None
        said = ""
        for frame in [*framer.feed(stream), *framer.finish()]:
            if frame.payload and frame.payload.startswith(b"{"):
                said += "".join(self.texts(json.loads(frame.payload)))
        return said


def _chat(field: str) -> Api:
    def stream(pieces: Sequence[str]) -> bytes:
        opening = chat_chunk({"role": "assistant", "content": ""})
        deltas = [chat_chunk({field: piece}) for piece in pieces]
        return sse(opening, *deltas, chat_chunk({}, finish_reason="stop"), done=True)

    return Api(
        AnswerForm.SSE,
        stream,
        lambda doc: [one["delta"].get(field) or "" for one in doc.get("choices", ())],
    )


def _two_choices(pieces: Sequence[str]) -> bytes:
    deltas = [
        chat_chunk({"content": text}, index)
        for piece in pieces
        for index, text in ((1, "so "), (0, piece))
    ]
    ends = [chat_chunk({}, index, finish_reason="stop") for index in (1, 0)]
    return sse(*deltas, *ends, done=True)


def _tool_call(pieces: Sequence[str]) -> bytes:
    begin = {"index": 0, "id": "call_1", "type": "function",
             "function": {"name": "send_mail", "arguments": ""}}  # fmt: skip
    deltas = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    chunks = [chat_chunk({"tool_calls": [one]}) for one in (begin, *deltas)]
    return sse(*chunks, chat_chunk({}, finish_reason="tool_calls"), done=True)


def _tool_texts(document: dict[str, Any]) -> list[str]:
    return [
        call.get("function", {}).get("arguments") or ""
        for choice in document.get("choices", ())
        for call in choice["delta"].get("tool_calls", ())
    ]


def _completion(pieces: Sequence[str]) -> bytes:
    def chunk(text: str, reason: str | None = None) -> dict[str, object]:
        row = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return {"id": "cmpl-1", "object": "text_completion", "choices": [row]}

    return sse(*map(chunk, pieces), chunk("", "stop"), done=True)


def _responses(pieces: Sequence[str]) -> bytes:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    deltas = [{"type": "response.output_text.delta", **at, "delta": one} for one in pieces]
    end = {"type": "response.output_text.done", **at, "text": "".join(pieces)}
    return named_sse(
        {"type": "response.created", "response": {"id": "resp_1", "output": []}}, *deltas, end,
        {"type": "response.completed", "response": {"id": "resp_1", "output": []}},
    )  # fmt: skip


def _messages(kind: str, field: str) -> Callable[[Sequence[str]], bytes]:
    def stream(pieces: Sequence[str]) -> bytes:
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
        deltas = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: piece}}
            for piece in pieces
        ]
        return named_sse(
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0,
             "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *deltas,
            {"type": "content_block_stop", "index": 0},
            {"type": "message_stop"},
        )  # fmt: skip

    return stream


def _gemini(pieces: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"candidates": [{"content": {"parts": [{"text": piece}], "role": "model"}, "index": 0}
                        | ({"finishReason": "STOP"} if place + 1 == len(pieces) else {})]}
        for place, piece in enumerate(pieces)
    ]  # fmt: skip


def _gemini_array(pieces: Sequence[str]) -> bytes:
    return ("[" + "\n,\r\n".join(map(json.dumps, _gemini(pieces))) + "\n]\n").encode()


def _gemini_texts(document: dict[str, Any]) -> list[str]:
    return [part["text"] for one in document["candidates"] for part in one["content"]["parts"]]


def _bedrock(pieces: Sequence[str]) -> bytes:
    def message(event: str, payload: object) -> bytes:
        headers = {":event-type": event, ":content-type": "application/json",
                   ":message-type": "event"}  # fmt: skip
        return event_stream_message(headers, json.dumps(payload).encode())

    deltas = [
        message(
            "contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}, "p": "abc"}
        )
        for piece in pieces
    ]
    stop = message("contentBlockStop", {"contentBlockIndex": 0, "p": "ab"})
    end = message("messageStop", {"stopReason": "end_turn"})
    return b"".join((message("messageStart", {"role": "assistant"}), *deltas, stop, end))


def _delta_text(field: str) -> Callable[[dict[str, Any]], list[str]]:
    return lambda document: [document.get("delta", {}).get(field) or ""]


APIS = {
    "chat": _chat("content"),
    "reasoning": _chat("reasoning_content"),
    "refusal": _chat("refusal"),
    "two choices": Api(
        AnswerForm.SSE,
        _two_choices,
        lambda doc: [
            one["delta"].get("content") or ""
            for one in doc.get("choices", ())
            if one["index"] == 0
        ],
    ),
    "tool call": Api(AnswerForm.SSE, _tool_call, _tool_texts),
    "completion": Api(
        AnswerForm.SSE, _completion, lambda doc: [one["text"] for one in doc.get("choices", ())]
    ),
    "responses": Api(
        AnswerForm.SSE,
        _responses,
        lambda doc: [doc["delta"]] if doc["type"].endswith(".delta") else [],
    ),
    "messages": Api(AnswerForm.SSE, _messages("text_delta", "text"), _delta_text("text")),
    "tool use": Api(
        AnswerForm.SSE, _messages("input_json_delta", "partial_json"), _delta_text("partial_json")
    ),
    "thinking": Api(
        AnswerForm.SSE, _messages("thinking_delta", "thinking"), _delta_text("thinking")
    ),
    "gemini": Api(AnswerForm.SSE, lambda pieces: sse(*_gemini(pieces)), _gemini_texts),
    "gemini array": Api(
        AnswerForm.JSON_ARRAY,
        _gemini_array,
        _gemini_texts,
    ),
    "bedrock": Api(AnswerForm.EVENT_STREAM, _bedrock, _delta_text("text")),
}  # fmt: skip
