from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from sidecar.apis.event_stream import EventStreamFramer, event_stream_message
from sidecar.apis.frames import MAX_FRAME_BYTES
from sidecar.apis.response_structure import AnswerForm
from sidecar.domain.cooperative import run_sync
from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import Finding, Restoration, Verdict
from sidecar.domain.http import Headers
from sidecar.domain.policy import Stage
from sidecar.domain.subject import UnscannedReason
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.guardrails.streaming.scan import MAX_RESTORED_BYTES
from sidecar.guardrails.streaming.transcript import MAX_CHANNELS
from sidecar.guardrails.streaming.window import MAX_HELD_BYTES
from sidecar.pipeline.answer_judgement import MAX_HELD_FRAME_BYTES, TOO_LONG, AnswerReading
from tests.support.answers import (
    APIS,
    Api,
    chat_chunk,
    effective,
    judged_whole,
    judgement,
    named_sse,
    sse,
    streamed,
)
from tests.support.pipeline import ScriptedRemote, World, headers

REDACT = "[{name: pii, type: pii, stage: output, action: redact}]"
BLOCK = "[{name: pii, type: pii, stage: both, action: block}]"
RESTORE = (
    "[{name: pii, type: pii, stage: both, action: redact, restore: true,"
    " redaction: format_preserving}]"
)
KEYS = "[{name: secrets, type: secrets, stage: output, action: redact}]"
CHAT = APIS["chat"]


def events(stream: bytes) -> list[bytes]:
    """Cut a stream at its events."""
    return [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]


def chat_of(*deltas: object) -> list[bytes]:
    """Return the events of a chat with these deltas."""
    return events(sse(*(chat_chunk(delta) for delta in deltas)))


def test_only_the_event_with_an_unfinished_word_waits() -> None:
    """The word before it has come to its end, so that its event leaves at once."""
    chunks = chat_of(*({"content": word} for word in ("The", " quick", " fox", ". ", "Well")))
    result = streamed(judgement(effective(REDACT)), chunks)
    assert [piece.count(b"data:") for piece in result.pieces] == [0, 1, 1, 2, 1]


def test_the_end_of_a_choice_lets_its_text_go() -> None:
    """Nobody waits for the end of the stream, which may hang."""
    chunks = [*chat_of({"content": "bob"}), sse(chat_chunk({}, finish_reason="stop")), b""]
    result = streamed(judgement(effective(REDACT)), chunks)
    assert result.pieces[1] == chunks[0] + chunks[1]


def test_a_text_that_makes_room_for_another_is_not_waited_for() -> None:
    """What was thought has ended when something is said; else all of it would wait for the end."""
    chunks = chat_of({"reasoning_content": "so bob"}, {"content": "Hi. "}, {"content": "You "})
    result = streamed(judgement(effective(REDACT)), chunks)
    assert result.pieces[1] == chunks[0] + chunks[1]


def test_a_value_cut_by_another_text_is_still_found() -> None:
    """Its first half has left; the second does not, under redact nor under block."""
    deltas = [{"content": "bob"}, {"reasoning_content": "hm "}, {"content": "@example.com "},
              {"content": "now"}]  # fmt: skip
    result = streamed(judgement(effective(REDACT)), chat_of(*deltas))
    assert CHAT.said(result.body) == "bob[EMAIL_1] now"
    blocked = streamed(judgement(effective(BLOCK)), chat_of(*deltas))
    assert blocked.error is not None
    assert b"example" not in blocked.body


def _block(index: object, text: str) -> dict[str, object]:
    delta = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _output(item: str, output: object, text: str) -> dict[str, object]:
    kind = "response.output_text.delta"
    return {
        "type": kind,
        "item_id": item,
        "output_index": output,
        "content_index": 0,
        "delta": text,
    }


def _choice(index: object, text: str) -> dict[str, object]:
    return {"choices": [{"index": 9}, {"index": index, "delta": {"content": text}}]}


def _shell(place: object, text: str) -> dict[str, object]:
    kind = "response.shell_call_output_content.delta"
    return {"type": kind, "output_index": 1, "command_index": place, "delta": {"stdout": text}}


def _arguments(*said: tuple[str, object]) -> dict[str, object]:
    named = [{"jsonPath": path, "stringValue": value} for path, value in said]
    parts = [{"functionCall": {"partialArgs": named}}]
    return {"candidates": [{"content": {"parts": parts}}]}


BEGUN, REST = "bob@", "example.com "


@pytest.mark.parametrize(
    "documents",
    [
        (_choice(1, BEGUN), _choice(1.0, REST)),
        (_choice("2", BEGUN), _choice(2, REST)),
        (_block(1, BEGUN), _block(1.0, REST)),
        (_output("a", 1, BEGUN), _output("b", 1, REST)),
        (_output("a", 1, BEGUN), _output("a", "1", REST)),
        (_shell(0, BEGUN), _shell(0, REST)),
        (_shell(0, BEGUN), _shell(1, "x "), _shell(0, REST)),
        (_arguments(("$.a", "x"), ("$.b", BEGUN)), _arguments(("$.b", REST))),
        (_block("\u0661", BEGUN), _block(1, "x "), _block("\u0661", REST)),  # an Arabic one
    ],
)
def test_a_text_goes_on_wherever_a_client_adds_to_it(
    documents: tuple[dict[str, object], ...],
) -> None:
    """A provider that names one place in two ways cuts no value in two."""
    chunks = [sse(one) for one in documents] * 2
    result = streamed(judgement(effective(BLOCK)), [*chunks, b""])
    assert result.error is not None
    assert b"example" not in result.body


@pytest.mark.parametrize("escape", [r"bob\u0040example.com", r"bob\\u0040example.com"])
def test_an_escape_in_tool_arguments_hides_nothing(escape: str) -> None:
    """JSON in JSON: the client's parser reads an address where the bytes show none."""
    text = f'{{"to": "{escape}", "cc": 1}}'
    for size in range(1, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        result = streamed(judgement(effective(REDACT)), [APIS["tool call"].stream(pieces)])
        arguments = APIS["tool call"].said(result.body)
        assert json.loads(arguments) == {"to": "[EMAIL_1]", "cc": 1}
        one_by_one = events(APIS["tool call"].stream(pieces))
        again = streamed(judgement(effective(REDACT)), one_by_one)
        assert APIS["tool call"].said(again.body) == arguments


STRUCTURED = "[{name: all, type: pii, stage: output, action: redact}, " + KEYS[1:]
AWS_KEY = "AKIA" + "Z7Q2M4X6N8P1R3T5"


@pytest.mark.parametrize("api", [CHAT, APIS["tool call"]], ids=["content", "arguments"])
@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize(
    ("text", "left"),
    [
        (r"write to bob\u0040example.com now", "write to [EMAIL_1] now"),
        (r"mail:\nbob@example.com\tend", "mail:\n[EMAIL_1]\tend"),
        (rf"key:\n{AWS_KEY}\nend", "key:\n[AWS_ACCESS_KEY_1]\nend"),
        (r"card\n4111 1111 1111 1111", "card\n[CREDIT_CARD_1]"),
        (r"postgres:\/\/u:Xk9mQ2pLw8v@db.internal", "postgres://u:[DATABASE_URL_1]"),
        (r"{\"b\": \"x\\nbob@example.com\"}", '{"b": "x\\n[EMAIL_1]"}'),
    ],
    ids=["hex", "line", "key", "card", "slash", "within"],
)
def test_an_escape_in_json_text_hides_nothing_and_is_not_cut(
    api: Api, text: str, left: str, size: int
) -> None:
    """A program that reads a structured answer, or arguments, reads through its escapes."""
    document = f'{{"a": "{text}"}}'
    pieces = [document[at : at + size] for at in range(0, len(document), size)]
    result = streamed(judgement(effective(STRUCTURED), api.form), events(api.stream(pieces)))
    assert json.loads(api.said(result.body)) == {"a": left}


@pytest.mark.parametrize("missing", [0, 1])
async def test_json_text_in_an_answer_counts_once(missing: int) -> None:
    """It is searched with its escapes resolved as well, which is no further text."""
    text = r'{"said": "one\ntwo\nthree"}'
    most = len(text) - missing
    policy = f"[{{name: m, type: max_input, stage: output, max_characters: {most}}}]"
    released = await judged_whole(judgement(effective(policy)), CHAT.stream([text]))
    assert (released.error is not None) == bool(missing)


def test_probabilities_do_not_repeat_what_was_redacted() -> None:
    """`logprobs` has the tokens once more, and their bytes as numbers."""
    logprobs = {"content": [{"token": "bob@example.com", "bytes": [98, 111, 98], "logprob": -1}]}
    chunk = sse(chat_chunk({"content": "bob@example.com "}, logprobs=logprobs))
    clean = sse(chat_chunk({"content": "fine "}, logprobs=logprobs))
    result = streamed(judgement(effective(REDACT)), [chunk, clean])
    first, second = events(result.body)
    assert json.loads(first[6:])["choices"][0]["logprobs"] is None
    assert b"98,111" not in first
    assert second == clean


def test_half_an_emoji_beside_probabilities_is_no_fault() -> None:
    """Providers that count in UTF-16 cut one in two; the value beside it is still redacted."""
    said = {"content": "bob@example.com \ud83d"}
    chunk = json.dumps(chat_chunk(said, logprobs={"content": [1]}))
    result = streamed(judgement(effective(REDACT)), [f"data: {chunk}\n\n".encode()])
    choice = json.loads(result.body[6:])["choices"][0]
    assert (choice["delta"], choice["logprobs"]) == ({"content": "[EMAIL_1] \ud83d"}, None)


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_beyond_every_card_is_no_fault(number: str) -> None:
    """Arguments that are an object may hold what no parser can count with."""
    call = '{"functionCall": {"args": {"x": %s, "n": 4111111111111111}}}' % number  # noqa: UP031
    stream = 'data: {"candidates": [{"content": {"parts": [%s]}}]}\n\n' % call  # noqa: UP031
    result = streamed(judgement(effective(REDACT)), [stream.encode()])
    assert result.body == stream.replace("4111111111111111", '"[CREDIT_CARD_1]"').encode()


CARD, TAKEN = 4111111111111111, "[CREDIT_CARD_1]"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"card": CARD, "n": 1}, {"card": TAKEN, "n": 1}),
        ({"s": '["\\', "cards": [CARD]}, {"s": '["\\', "cards": [TAKEN]}),
        ({"note": f"cards: {CARD}, 5"}, {"note": f"cards: {TAKEN}, 5"}),
        ({"long": 'word " ' * 60, "card": CARD}, {"long": 'word " ' * 60, "card": TAKEN}),
    ],
    ids=["value", "behind escapes", "within a string", "behind what has left"],
)
@pytest.mark.parametrize("api", ["tool call", "tool use", "chat"])
def test_a_number_in_json_text_becomes_a_string(
    api: str, said: dict[str, object], wanted: dict[str, object]
) -> None:
    """Tool arguments and structured answers stay JSON, however they were cut into events."""
    text = json.dumps(said, indent=1)
    for size in (1, 3, 7, 20, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        result = streamed(judgement(effective(REDACT)), events(APIS[api].stream(pieces)))
        assert json.loads(APIS[api].said(result.body)) == wanted


def test_the_whole_text_that_closes_a_typed_stream_is_redacted_alike() -> None:
    """`response.output_text.done` repeats everything; the same value has the same placeholder."""
    result = streamed(
        judgement(effective(REDACT)), [APIS["responses"].stream(["a bo", "b@example.com", " b"])]
    )
    assert b"example.com" not in result.body
    assert b'"text": "a [EMAIL_1] b"' in result.body


def test_a_structured_tool_call_is_read_to_its_keys_and_numbers() -> None:
    """Gemini sends arguments as an object; a card number may stand there without quotes."""
    call = {"functionCall": {"name": "pay", "args": {"bob@example.com": 4111111111111111, "n": 7}}}
    stream = sse({"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]})
    result = streamed(judgement(effective(REDACT)), [stream])
    assert b'{"[EMAIL_1]": "[CREDIT_CARD_1]", "n": 7}' in result.body


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_bare_number_of_json_within_json_becomes_a_string_there(
    size: int, depth: int, indent: int | None
) -> None:
    """In texts and in arguments; all levels of the JSON text can be read as before."""
    inner: object = {"a": 'x"\\', "card": 4111111111111111, "n": 7}
    text = json.dumps(inner, indent=indent)
    for _ in range(depth):
        text = json.dumps({"note": text}, indent=indent)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    for chunks in (
        chat_of(*({"content": one} for one in pieces)),
        chat_of(*({"tool_calls": [{"function": {"arguments": one}}]} for one in pieces)),
    ):
        result = streamed(judgement(effective(REDACT)), chunks)
        deltas = [json.loads(one[6:])["choices"][0]["delta"] for one in events(result.body)]
        read: Any = "".join(
            one.get("content") or one["tool_calls"][0]["function"]["arguments"]
            for one in deltas
            if one.get("content") or "tool_calls" in one
        )
        while isinstance(read, str):
            read = json.loads(read)
            read = read.get("note", read)
        assert read == {"a": 'x"\\', "card": "[CREDIT_CARD_1]", "n": 7}


@pytest.mark.parametrize(
    ("unscanned", "leaves"), [("block", False), ("flag", True), ("allow", True)]
)
@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (b"data: {not json}\n\n", UnscannedReason.MALFORMED_ANSWER),
        (b'data: {"a": "\xff"}\n\n', UnscannedReason.MALFORMED_ANSWER),
        (b'data: {"a": "x", "a": "y"}\n\n', UnscannedReason.MALFORMED_ANSWER),
        (b"data: " + b"[" * 200_000 + b"\n\n", UnscannedReason.MALFORMED_ANSWER),
        (b"data: [1]\n\n", UnscannedReason.UNKNOWN_SHAPE),
        (
            b'data: {"audio": {"data": "' + b"QUJD" * 30 + b'"}}\n\n',
            UnscannedReason.AUDIO,
        ),
        (b'data: {"b64_json": "' + b"QUJD" * 30 + b'"}\n\n', UnscannedReason.IMAGE),
        (
            b'data: {"type": "speech.audio.delta", "audio": "QUJD"}\n\n',
            UnscannedReason.AUDIO,
        ),
        (b'data: {"type": "response.audio.delta", "delta": "QUJD"}\n\n', UnscannedReason.AUDIO),
        (b"data: " + b"x" * (MAX_FRAME_BYTES + 1), UnscannedReason.ANSWER_TOO_LARGE),
    ],
    ids=[
        "not json",
        "not utf-8",
        "twice",
        "deep",
        "list",
        "audio",
        "image",
        "speech",
        "spoken answer",
        "too large",
    ],
)
def test_what_cannot_be_read_has_the_direction_of_the_policy(
    chunk: bytes, reason: UnscannedReason, unscanned: str, *, leaves: bool
) -> None:
    """Blocked by default, and then not one byte of it leaves; what came before does."""
    before = sse(chat_chunk({"content": "so it is. "}))
    judge = judgement(effective(REDACT, unscanned=unscanned))
    result = streamed(judge, [before, chunk, b""])
    assert judge.reasons == (reason,)
    if leaves:
        assert (result.error, result.body) == (None, before + chunk)
    else:
        assert result.error is not None
        assert result.error.kind is ErrorKind.UNSCANNED_CONTENT
        assert result.error.message.startswith("This answer holds content")
        assert result.body == before


@pytest.mark.parametrize("said", [["mail bo", "b@exam", "ple.com"], ["mail ", "bob@example.com"]])
@pytest.mark.parametrize("field", ["completion", "outputText", "generation"])
def test_an_event_of_a_model_inside_one_of_bedrock_is_read(said: list[str], field: str) -> None:
    """InvokeModel wraps what a model sends in base64, and each model has words of its own."""
    judge = judgement(effective(REDACT), AnswerForm.EVENT_STREAM)
    result = streamed(judge, [*(_invoke_chunk({field: text}) for text in said), b""])
    assert judge.reasons == ()
    assert "".join(one.get(field, "") for one in _invoked(result.body)) == "mail [EMAIL_1]"


def test_claude_s_events_inside_those_of_bedrock_are_blocks_of_text() -> None:
    """A value that is cut by events is one value within its block, and none across two blocks."""

    def block(index: int, *texts: str) -> list[bytes]:
        events: list[dict[str, object]] = [
            {"type": "content_block_delta", "index": index, "delta": {"text": text}}
            for text in texts
        ]
        events.append({"type": "content_block_stop", "index": index})
        return [_invoke_chunk(one) for one in events]

    metrics = {"inputTokenCount": 3, "outputTokenCount": 7}
    stop: dict[str, object] = {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}
    judge = judgement(effective(REDACT), AnswerForm.EVENT_STREAM)
    stream = [*block(0, "mail bob@exa", "mple.com"), *block(1, "bo"), *block(2, "b@x.com")]
    result = streamed(judge, [*stream, _invoke_chunk(stop), b""])
    events = _invoked(result.body)
    said = [
        (one["index"], one["delta"]["text"])
        for one in events
        if one["type"] == "content_block_delta" and one["delta"]["text"]
    ]
    assert "".join(text for index, text in said if index == 0) == "mail [EMAIL_1]"
    assert [text for index, text in said if index] == ["bo", "[EMAIL_2]"]
    assert events[-1] == stop


@pytest.mark.parametrize("unscanned", ["block", "allow"])
@pytest.mark.parametrize(
    "payload",
    [
        b'{"bytes":"eyJ0IjoiYSJ9","bytes":"eyJ0IjoiYSJ9"}',
        b'{"bytes":"eyJ0IjoiYSJ9","q":"abc"}',
        b'{"bytes":"eyJ0IjoiYSJ"}',
        b'{"bytes":"eyJ0Ijoi\\u0059SJ9"}',
    ],
)
def test_a_chunk_of_bedrock_in_another_form_is_unread(payload: bytes, unscanned: str) -> None:
    """A client may read a member that stands twice, or loose base64, in its own way."""
    judge = judgement(effective(REDACT, unscanned=unscanned), AnswerForm.EVENT_STREAM)
    chunk = event_stream_message({":event-type": "chunk", ":message-type": "event"}, payload)
    result = streamed(judge, [chunk, b""])
    assert judge.reasons[0] in {UnscannedReason.FILE, UnscannedReason.MALFORMED_ANSWER}
    assert (result.error is None) is (unscanned == "allow")
    assert result.body == (chunk if unscanned == "allow" else b"")


def _invoked(stream: bytes) -> list[Any]:
    """Return the models' events in *stream*, as a client reads them."""
    framer = EventStreamFramer()
    events: list[Any] = []
    for frame in framer.feed(stream):
        outer = json.loads(frame.raw[12 + int.from_bytes(frame.raw[4:8]) : -4])
        assert outer["p"] == "abc"
        events.append(json.loads(base64.b64decode(outer["bytes"])))
    assert framer.fault is None
    return events


def _invoke_chunk(document: dict[str, object]) -> bytes:
    payload = {"bytes": base64.b64encode(json.dumps(document).encode()).decode(), "p": "abc"}
    headers = {":event-type": "chunk", ":content-type": "application/json",
               ":message-type": "event"}  # fmt: skip
    return event_stream_message(headers, json.dumps(payload).encode())


def test_once_framing_is_lost_the_rest_is_unread() -> None:
    """Nothing behind an event without end can be told apart."""
    chunk = b"data: " + b"x" * (MAX_FRAME_BYTES + 1)
    judge = judgement(effective(REDACT, unscanned="allow"))
    rest = sse(chat_chunk({"content": "bob@example.com "}))
    assert streamed(judge, [chunk, rest, b""]).body == chunk + rest


def test_half_of_an_emoji_an_event_is_read() -> None:
    """Providers that count in UTF-16 cut one in two; half a pair is no character yet."""
    stream = (
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00 bob@example.com "}}]}\n\n'
    )
    result = streamed(judgement(effective(REDACT)), [stream])
    assert result.body == stream.replace(b"bob@example.com", b"[EMAIL_1]")


def test_a_stream_that_ends_without_terminator_is_judged_to_its_end() -> None:
    """No `[DONE]`, no blank line, half a line: clients differ in what they make of it."""
    chunks = [sse(chat_chunk({"content": "bob@exa"}))]
    last = sse(chat_chunk({"content": "mple.com"})).rstrip(b"\n")
    result = streamed(judgement(effective(REDACT)), [*chunks, last])
    assert CHAT.said(result.body) == "[EMAIL_1]"


def test_comments_and_pings_stay_where_they_are() -> None:
    """In order, unchanged, the one before a word that waits and the one behind it."""
    chunks = [
        b": hello\n\n",
        *chat_of({"content": "bob"}),
        b": ping\n\n",
        b"event: ping\ndata: {}\n\n",
    ]
    result = streamed(judgement(effective(REDACT)), [*chunks, b""])
    assert result.pieces[0] == chunks[0]
    assert result.body == b"".join(chunks)


def pem(lines: int) -> str:
    """Return a private key of so many lines."""
    body = "MIIEowIBAAKCAQEAexampleexampleexampleexampleexampleexampleexample\n" * lines
    return f"-----BEGIN RSA PRIVATE KEY-----\n{body}-----END RSA PRIVATE KEY-----"


def putty(lines: int) -> str:
    """Return a private key in PuTTY's format."""
    body = "AAAAgQDexampleexampleexampleexampleexampleexampleexampleexample0\n" * lines
    header = f"PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\nComment: a key of Ann's\n{body}"
    return f"{header}Private-Lines: {lines}\n{body}Private-MAC: {'0f' * 32}"


@pytest.mark.parametrize("key", [pem(50), putty(25)], ids=["pem", "putty"])
def test_a_private_key_over_many_events_is_replaced_whole(key: str) -> None:
    """Its head is found with the first line; the rest must not follow it out."""
    text = f"Here: {key} done"
    chunks = chat_of(*({"content": text[at : at + 11]} for at in range(0, len(text), 11)))
    result = streamed(judgement(effective(KEYS)), chunks)
    assert CHAT.said(result.body) == "Here: [PRIVATE_KEY_1] done"


def test_a_finding_longer_than_a_window_ends_the_stream() -> None:
    """Its head would be replaced and its end would leave."""
    text = pem(MAX_HELD_BYTES // 40)
    chunks = chat_of(*({"content": text[at : at + 64]} for at in range(0, len(text), 64)))
    result = streamed(judgement(effective(KEYS)), chunks)
    assert result.error is not None
    assert result.body == b""


def test_a_word_longer_than_a_window_leaves_from_its_front() -> None:
    """A long run of letters could begin an address; what is held of it is bounded."""
    chunks = chat_of(*({"content": "a" * 512} for _ in range(64)))
    result = streamed(judgement(effective(REDACT)), chunks)
    assert result.error is None
    held = [index for index, piece in enumerate(result.pieces) if not piece]
    assert held == list(range(MAX_HELD_BYTES // 512))
    assert result.body == b"".join(chunks)


def test_events_behind_one_that_waits_are_bounded() -> None:
    """Four megabytes of pings behind a word: nobody sends that."""
    ping = b": " + b"x" * 65_000 + b"\n\n"
    chunks = [*chat_of({"content": "bob"}), *[ping] * (MAX_HELD_FRAME_BYTES // len(ping) + 1)]
    result = streamed(judgement(effective(REDACT)), [*chunks, b""])
    assert result.error is not None
    assert result.body == b""


def test_empty_comments_behind_one_that_waits_are_bounded() -> None:
    """An event of three bytes takes a hundred in memory: four megabytes of them took 300."""
    lines = b":\n\n" * 1_000
    chunks = [*chat_of({"content": "bob"}), *[lines] * (MAX_HELD_FRAME_BYTES // 100_000)]
    result = streamed(judgement(effective(REDACT)), [*chunks, b""])
    assert result.error is not None
    assert result.body == b""


def test_an_answer_with_more_texts_at_once_than_can_be_followed_is_unread() -> None:
    """A thousand choices in one stream."""
    chunks = [sse(chat_chunk({"content": "a "}, index)) for index in range(MAX_CHANNELS + 1)]
    result = streamed(judgement(effective(REDACT)), chunks)
    assert result.error is not None
    assert result.error.kind is ErrorKind.UNSCANNED_CONTENT


def test_shadow_judges_and_changes_nothing() -> None:
    """The verdict is what enforce would have done."""
    policy = effective("[{name: pii, type: pii, stage: output, action: block, mode: shadow}]")
    stream = CHAT.stream(["bob@example.com", " ok"])
    judge = judgement(policy)
    assert streamed(judge, [stream]).body == stream
    (result,) = judge.results()
    assert (result.verdict, result.stage) == (Verdict.BLOCK, Stage.OUTPUT)


@pytest.mark.parametrize(("on_error", "is_refused"), [("block", True), ("allow", False)])
def test_a_scan_that_fails_has_the_guardrail_s_direction(
    on_error: str, *, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed: nothing of what was not judged leaves."""
    text = f"[{{name: pii, type: pii, stage: output, on_error: {on_error}}}]"
    policy = effective(text)

    def fail(_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(policy.answers.local._database, "scan_short", fail)
    monkeypatch.setattr(policy.answers.local._database, "scan", fail)
    stream = CHAT.stream(["hello", " you "])
    result = streamed(judgement(policy), [stream])
    assert (result.error is not None) is is_refused
    opening = sse(chat_chunk({"role": "assistant", "content": ""}))
    assert result.body == (opening if is_refused else stream)


RESTORED = Restoration({b"[EMAIL_1]": b"bob@example.com", b"[NAME_2]": b'O"Hara \xc3\xa9'})


@pytest.mark.parametrize("api", ["chat", "messages", "gemini array", "bedrock", "tool call"])
def test_placeholders_are_turned_back_over_any_border(api: str) -> None:
    """The client reads its own values, and no guardrail takes them for the model's."""
    text = 'To [EMAIL_1] and [NAME_2], not [EMAIL_9] "x"'
    if api == "tool call":
        text = json.dumps({"to": "[EMAIL_1] and [NAME_2], not [EMAIL_9]"})
    wanted = "[EMAIL_1]", "bob@example.com"
    for size in range(1, len(text) + 1):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        stream = APIS[api].stream(pieces)
        judge = judgement(effective(BLOCK), APIS[api].form, restoration=RESTORED)
        result = streamed(judge, [stream[at : at + 97] for at in range(0, len(stream), 97)])
        assert result.error is None
        said = APIS[api].said(result.body)
        if api == "tool call":
            assert json.loads(said) == {"to": 'bob@example.com and O"Hara é, not [EMAIL_9]'}
        else:
            assert said == text.replace(*wanted).replace("[NAME_2]", 'O"Hara é')


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"to": "[NAME_2]", "n": ["[EMAIL_1]"]}', {"to": 'O"Hara é', "n": ["bob@example.com"]}),
        ('{"a\\"[NAME_2]": "\\\\", "b": "[NAME_2]"}', {'a"O"Hara é': "\\", "b": 'O"Hara é'}),
        ('[{"to": "[NAME_2]"}]', [{"to": 'O"Hara é'}]),
    ],
)
def test_a_value_does_not_end_the_string_that_it_is_put_into(
    text: str, wanted: dict[str, object] | list[object], size: int
) -> None:
    """A structured answer stays JSON, and no value adds members to it."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    result = streamed(
        judgement(effective(BLOCK), restoration=RESTORED), events(CHAT.stream(pieces))
    )
    assert json.loads(CHAT.said(result.body)) == wanted


QUOTED = [
    {"to": "[NAME_2]", "n": ['a"\u2028', "[NAME_2]"]},
    [{"to": "[NAME_2]"}],
    'she said "hi, [NAME_2]"',
    '[NAME_2] said "hi, [NAME_2]"',
    {"inner": json.dumps({"to": '"[NAME_2]', "on": "[NAME_2]"}, indent=1), "to": "[NAME_2]"},
]
"""Values that stand in JSON text as a string: themselves JSON text, or no such."""


@pytest.mark.parametrize("api", ["chat", "tool call"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("padding", [0, 300])
def test_a_value_stays_within_json_text_in_a_string_of_json_text(
    api: str, size: int, padding: int
) -> None:
    """It is escaped once for each string that it is put into, and no more."""
    inner = [one if isinstance(one, str) else json.dumps(one) for one in QUOTED]
    document = {"pad": "x" * padding, "texts": inner, "last": ["[NAME_2]"]}
    text = json.dumps(document)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    judge = judgement(effective(BLOCK), APIS[api].form, restoration=RESTORED)
    said = json.loads(APIS[api].said(streamed(judge, events(APIS[api].stream(pieces))).body))
    assert said["last"] == ['O"Hara é']
    for written, before in zip(said["texts"], QUOTED, strict=True):
        if isinstance(before, str):
            assert written == before.replace("[NAME_2]", 'O"Hara é')
            continue
        assert restored(json.loads(written)) == restored(before)


def restored(value: object) -> object:
    """Return *value* with the values of `RESTORED`, in JSON text within it as well."""
    match value:
        case dict():
            return {key: restored(one) for key, one in value.items()}
        case list():
            return [restored(one) for one in value]
        case str() if value.startswith(("{", "[{")):
            return restored(json.loads(value))
        case str():
            return value.replace("[NAME_2]", 'O"Hara é')
        case _:
            return value


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_backslash_before_a_placeholder_stays(size: int) -> None:
    """A path in the arguments of a tool call keeps all of its separators."""
    text = json.dumps({"path": "C:\\Users\\[NAME_2]\\x", "unc": "\\\\[EMAIL_1]"})
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    judge = judgement(effective(BLOCK), APIS["tool call"].form, restoration=RESTORED)
    stream = APIS["tool call"].stream(pieces)
    assert json.loads(APIS["tool call"].said(streamed(judge, events(stream)).body)) == {
        "path": 'C:\\Users\\O"Hara é\\x',
        "unc": "\\\\bob@example.com",
    }


@pytest.mark.parametrize(
    "pieces",
    [
        ["Card 0000 0000 0000 0013.", " Thanks"],
        ["Card 0000 0000 ", "0000 0013", ".", " Thanks"],
        [*"Card 0000 0000 0000 0013. Thanks"],
    ],
)
def test_a_placeholder_of_digits_is_turned_back_whatever_part_of_it_waits(
    pieces: list[str],
) -> None:
    """Its last group and a full stop may be the beginning of another finding."""
    restoration = Restoration({b"0000 0000 0000 0013": b"4111 1111 1111 1111"})
    judge = judgement(effective(RESTORE), restoration=restoration)
    result = streamed(judge, events(CHAT.stream(pieces)))
    assert CHAT.said(result.body) == "Card 4111 1111 1111 1111. Thanks"


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("regex", "wanted"),
    [
        (r"\[EMAIL_1\]foo", "a x[P_1] b"),
        (r"EMAIL_1\]foo", "a x[[P_1] b"),
        (r"x\[EMAIL_1\]", "a [P_1]foo b"),
        (r"x\[EMA", "a [P_1]IL_1]foo b"),
        ("EMAIL_1", "a xbob@example.comfoo b"),
        (r"\[EMAIL_1\]", "a xbob@example.comfoo b"),
    ],
)
def test_a_finding_that_takes_in_a_placeholder_replaces_it(
    regex: str, wanted: str, size: int
) -> None:
    """A value in the place of both hides that something is gone; a part of one is no finding."""
    own = "name: own, type: denied_patterns, stage: output, action: redact"
    policy = effective(f"[{{{own}, patterns: [{{name: P, regex: '{regex}'}}]}}]")
    text = "a x[EMAIL_1]foo b"
    chunks = events(CHAT.stream([text[at : at + size] for at in range(0, len(text), size)]))
    assert CHAT.said(streamed(judgement(policy, restoration=RESTORED), chunks).body) == wanted


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (0, 21, "[P_1]"),
        (0, 9, "bob@example.com is an idiot"),
        (1, 8, "bob@example.com is an idiot"),
        (4, 12, "[EMA[P_1] an idiot"),
        (10, 16, "bob@example.com [P_1]idiot"),
    ],
)
async def test_a_placeholder_within_a_finding_of_a_remote_guardrail_goes_with_it(
    start: int, end: int, wanted: str
) -> None:
    """A text that was replaced as a whole left the value at its beginning, and no mark."""
    own = "{name: dlp, type: webhook, url: 'http://dlp.internal/', stage: output, action: redact}"
    remote = ScriptedRemote("redact", findings=(Finding("dlp", "P", 0, start, end),))
    judge = judgement(effective(f"[{own}]"), AnswerForm.JSON, restoration=RESTORED, remote=remote)
    released = await judged_whole(judge, whole("[EMAIL_1] is an idiot"))
    assert released.error is None
    assert released.body == whole(wanted)


@pytest.mark.parametrize("value", [b"k" * 3_300, b"k"])
async def test_values_are_restored_so_often_that_an_answer_stays_bounded(value: bytes) -> None:
    """A megabyte of placeholders of a private key became 300 MB, and held a worker for 20 s."""
    restoration = Restoration({b"[KEY_1]": value})
    often = 100_000
    body = whole("[KEY_1] " * often)
    judge = judgement(effective(BLOCK), AnswerForm.JSON, restoration=restoration)
    refused = await judged_whole(judge, body)
    assert refused.body == b""
    assert refused.error is not None
    assert "more often than can be restored" in refused.error.message
    judge = judgement(effective(BLOCK), restoration=restoration)
    result = streamed(judge, events(CHAT.stream(["[KEY_1] " * 100] * (often // 100))))
    assert result.error == refused.error
    assert value + b" " + value in result.body
    assert len(result.body) < 3 * MAX_RESTORED_BYTES


async def test_a_long_value_is_restored_once_whatever_its_length() -> None:
    """A guardrail may have replaced the whole text of a request."""
    value = b"k" * (MAX_RESTORED_BYTES + 1)
    judge = judgement(
        effective(BLOCK), AnswerForm.JSON, restoration=Restoration({b"[KEY_1]": value})
    )
    released = await judged_whole(judge, whole("[KEY_1] "))
    assert released.error is None
    assert value in released.body


def test_what_the_answer_adds_gets_a_placeholder_of_its_own() -> None:
    """The request's stay the request's."""
    chunks = chat_of({"content": "[EMAIL_1] or eve@example.org "}, {"content": "ok"})
    result = streamed(judgement(effective(REDACT), restoration=RESTORED), chunks)
    assert CHAT.said(result.body) == "bob@example.com or [EMAIL_2] ok"


def whole(*texts: str) -> bytes:
    """Return a chat completion with a choice a text."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        for index, text in enumerate(texts)
    ]
    return json.dumps(
        {"id": "chatcmpl-1", "object": "chat.completion", "choices": choices}
    ).encode()


async def test_every_choice_of_a_whole_answer_is_judged() -> None:
    """The same value, the same placeholder; all else stays byte for byte."""
    body = whole("Hi bob@example.com", "é", "bob@example.com, eve@example.org")
    released = await judged_whole(judgement(effective(REDACT), AnswerForm.JSON), body)
    assert released.error is None
    assert released.body == body.replace(b"bob@example.com", b"[EMAIL_1]").replace(
        b"eve@example.org", b"[EMAIL_2]"
    )


async def test_the_schema_of_a_tool_is_no_reason_to_fail() -> None:
    """OpenAI's responses repeat the request's tools, whose `type` may be a list."""
    parameters = {"type": ["object", "null"], "properties": {"a": {"type": ["string", "null"]}}}
    tools = [{"type": "function", "name": "look_up", "parameters": parameters}]
    said = [{"type": "message", "content": [{"type": "output_text", "text": "Hi bob@a.org"}]}]
    body = json.dumps({"object": "response", "tools": tools, "output": said}).encode()
    released = await judged_whole(judgement(effective(REDACT), AnswerForm.JSON), body)
    assert (released.error, released.body) == (None, body.replace(b"bob@a.org", b"[EMAIL_1]"))


async def test_a_whole_answer_is_refused_without_a_byte_of_it() -> None:
    """Its headers have not left yet either."""
    judge = judgement(effective(BLOCK), AnswerForm.JSON)
    released = await judged_whole(judge, whole("fine", "4111 1111 1111 1111"))
    assert released.body == b""
    assert released.error is not None
    assert released.error.kind is ErrorKind.CONTENT_BLOCKED


async def test_a_whole_stream_of_empty_comments_is_refused() -> None:
    """Each of its events takes a hundred bytes, and ten megabytes of them a gigabyte."""
    result = await judged_whole(judgement(effective(REDACT)), b":\n\n" * 600_000)
    assert (result.body, result.error) == (b"", TOO_LONG)


async def test_a_whole_stream_is_read_in_slices() -> None:
    """Events that a slice cuts in two are read as one."""
    said = [sse(chat_chunk({"content": f"word {number} "})) for number in range(500)]
    body = b"".join([*said, sse(chat_chunk({"content": "bob@example.com "})), *said])
    result = await judged_whole(judgement(effective(REDACT)), body)
    assert result.body == body.replace(b"bob@example.com", b"[EMAIL_1]")


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b"upstream connect error", b"upstream connect error"),
        (b"<p>bob@example.com</p>", b"<p>[EMAIL_1]</p>"),
        (b"", b""),
    ],
)
async def test_plain_text_is_read_as_one_text(body: bytes, left: bytes) -> None:
    """Envoy's own answers, and the HTML of whatever stands before a provider."""
    released = await judged_whole(judgement(effective(REDACT), AnswerForm.TEXT), body)
    assert (released.error, released.body) == (None, left)


async def test_text_that_is_none_is_unread() -> None:
    """Latin-1 that says it is UTF-8."""
    released = await judged_whole(judgement(effective(REDACT), AnswerForm.TEXT), b"\xe9")
    assert released.error is not None
    assert "charset" in released.error.message


@pytest.mark.parametrize("unscanned", ["block", "flag", "allow"])
@pytest.mark.parametrize("api", ["chat", "responses", "messages", "gemini"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b": hello\r"])
async def test_a_stream_with_the_label_of_a_text_is_unread_and_judged_as_a_stream(
    before: bytes, api: str, unscanned: str
) -> None:
    """Client libraries read its events all the same, and join what is cut over them."""
    stream = before + APIS[api].stream(["mail bo", "b@exam", "ple.com now"])
    judge = judgement(effective(REDACT, unscanned=unscanned), AnswerForm.TEXT)
    released = await judged_whole(judge, stream)
    assert judge.reasons == (UnscannedReason.UNKNOWN_SHAPE,)
    if unscanned == "block":
        assert released.body == b""
        assert released.error is not None
        assert released.error.kind is ErrorKind.UNSCANNED_CONTENT
    else:
        assert released.error is None
        assert APIS[api].said(released.body) == "mail [EMAIL_1] now"


async def test_a_stream_with_the_label_of_a_text_is_read_in_slices() -> None:
    """Nine megabytes of short events held a worker for eleven seconds."""
    reading = AnswerReading(AnswerForm.TEXT)
    assert sum(1 for _ in reading.take(b"data: {}\n\n" * 10_000, is_last=True)) > 100
    result = await judged_whole(
        judgement(effective(REDACT), AnswerForm.TEXT), b"data:\n\n" * 600_000
    )
    assert (result.body, result.error) == (b"", TOO_LONG)


@pytest.mark.parametrize("unscanned", ["block", "allow"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
async def test_an_answer_with_the_label_of_a_stream_is_judged(end: bytes, unscanned: str) -> None:
    """Clients of streams skip its lines, but a client that asked for no stream reads them."""
    body = json.dumps({"choices": [{"message": {"content": "Hi bob@a.org"}}]}, indent=1).encode()
    for result in (
        streamed(judgement(effective(REDACT, unscanned=unscanned)), [body[:40], body[40:] + end]),
        await judged_whole(judgement(effective(REDACT, unscanned=unscanned)), body + end),
    ):
        assert result.error is None
        assert result.body == (body + end).replace(b"bob@a.org", b"[EMAIL_1]")


@pytest.mark.parametrize("line", [b"Hi bob@a.org", b"Data: bob@a.org", b"\xef\xbb\xbfbob@a.org"])
def test_a_line_that_is_no_field_of_an_event_is_text(line: bytes) -> None:
    """It passed as if it were a comment; it may go on behind a blank line."""
    judge = judgement(effective(REDACT))
    result = streamed(judge, [line + b"\n\n", b"to eve@exam", b"ple.com", b"\r\n\r\nyes"])
    assert judge.reasons == ()
    wanted = line.replace(b"bob@a.org", b"[EMAIL_1]") + b"\n\nto [EMAIL_2]\r\n\r\nyes"
    assert (result.error, result.body) == (None, wanted)


@pytest.mark.parametrize(
    "line", [b"data: {}\nx: bob@a.org", b"x\ndata: bob@a.org", b"bob\xe9", b'{"bob":\n\n1}']
)
def test_a_line_that_is_neither_text_nor_a_field_of_an_event_is_unread(line: bytes) -> None:
    """Beside data it would hide what the data's client reads."""
    judge = judgement(effective(REDACT))
    result = streamed(judge, [line + b"\n\n"])
    assert judge.reasons == (UnscannedReason.MALFORMED_ANSWER,)
    assert b"bob" not in result.body


async def test_a_text_that_mentions_events_is_a_text() -> None:
    """Only a line of its own is one of a stream."""
    body = b"Each line begins with data: and ends with a line feed."
    released = await judged_whole(judgement(effective(REDACT), AnswerForm.TEXT), body)
    assert (released.error, released.body) == (None, body)


HOOK = (
    "[{name: pii, type: pii, stage: output, action: redact}, "
    "{name: hook, type: webhook, url: 'http://h/', stage: output, action: block}]"
)


async def test_a_number_that_a_remote_guardrail_found_becomes_a_string() -> None:
    """Only where its finding is the number and nothing more, once in JSON text."""
    text = '{"a": 31415, "b": "31415, 1", "c": 27182}'
    spans = [(6, 11), (19, 24), (35, 38)]
    found = tuple(Finding("hook", "PI", 0, *span) for span in spans)
    remote = ScriptedRemote(verdict="redact", findings=found)
    policy = effective(HOOK.replace("block", "redact"))
    released = await judged_whole(judgement(policy, remote=remote), CHAT.stream([text]))
    assert CHAT.said(released.body) == '{"a": "[PI_1]", "b": "[PI_1], 1", "c": [PI_2]82}'


@pytest.mark.parametrize("api", [CHAT, APIS["tool call"]], ids=["content", "arguments"])
async def test_an_escape_that_a_remote_guardrail_found_half_of_is_replaced_whole(api: Api) -> None:
    """What stays of arguments, or of a structured answer, is JSON and has no half of one."""
    text = r'{"a": "\u00e9bob"}'
    part = 0 if api is CHAT else 1  # behind the name of the tool
    remote = ScriptedRemote("redact", findings=(Finding("hook", "PI", part, 10, 16),))
    judge = judgement(effective(HOOK.replace("block", "redact")), api.form, remote=remote)
    released = await judged_whole(judge, api.stream([text]))
    assert api.said(released.body) == '{"a": "[PI_1]"}'


@pytest.mark.parametrize("stage", ["output", "both"])
@pytest.mark.parametrize(("verdict", "is_refused"), [("pass", False), ("block", True)])
async def test_a_remote_guardrail_sees_every_text_of_an_answer(
    verdict: str, stage: str, *, is_refused: bool
) -> None:
    """As the model wrote it, with the side it stands on; a stream is buffered for it."""
    remote = ScriptedRemote(verdict=verdict)  # type: ignore[arg-type]  # both are verdicts
    policy = effective(HOOK.replace("output", stage))
    judge = judgement(policy, remote=remote)
    released = await judged_whole(judge, CHAT.stream(["bob@exa", "mple.com"]))
    (asked,) = remote.asked
    assert [part.content for part in asked.subject.parts] == [b"bob@example.com"]
    assert (asked.guardrail.stage, asked.stage) == (Stage.OUTPUT, Stage.OUTPUT)
    assert (released.error is not None) is is_refused
    assert CHAT.said(released.body) == ("" if is_refused else "[EMAIL_1]")
    assert [(one.guardrail.name, one.stage) for one in judge.results()] == [
        ("pii", Stage.OUTPUT),
        ("hook", Stage.OUTPUT),
    ]


@pytest.mark.parametrize(
    "documents",
    [
        [{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}],
        [{"type": "some_new_event", "index": 0, "news": {"text": "all well "}}],
        [{"type": "content_block_start", "index": 0,
          "content_block": {"type": "redacted_thinking", "data": "QUJD" * 50}}],
    ],
    ids=["error", "unknown", "sealed"],
)  # fmt: skip
def test_events_nobody_knows_are_read_and_pass(documents: Sequence[dict[str, object]]) -> None:
    """They hold text like any other; without a finding they are as the provider sent them."""
    stream = named_sse(*documents)
    assert streamed(judgement(effective(REDACT)), [stream]).body == stream


@pytest.mark.parametrize(
    ("document", "is_judged"),
    [
        ({"type": "response.output_item.done", "item": {"type": "mcp_list_tools", "tools": [
            {"name": "f", "description": "bob@example.com"}]}}, True),
        ({"type": "response.created", "response": {"object": "response", "tools": [
            {"name": "f", "description": "bob@example.com"}]}}, False),
        ({"candidates": [{"content": {"parts": [
            {"functionCall": {"partialArgs": [{"numberValue": 4111111111111111}]}}]}}]}, True),
    ],
    ids=["tools of a server", "tools of the request", "an argument alone"],
)  # fmt: skip
def test_only_that_which_repeats_the_request_is_passed_over(
    document: dict[str, object], *, is_judged: bool
) -> None:
    """Tools that a server lists are text of others, as those of the request are not."""
    stream = sse(document)
    result = streamed(judgement(effective(REDACT)), [stream])
    assert (result.body != stream) is is_judged


@pytest.mark.parametrize("field", ["images", "content"])
def test_a_picture_in_an_address_is_unscanned(field: str) -> None:
    """Some gateways send it as a part of the message."""
    url = "data:image/png;base64," + "iVBORw0KGgo" * 9
    part = {"type": "image_url", "image_url": {"url": url}}
    (chunk,) = chat_of({field: [part]})
    assert streamed(judgement(effective(REDACT)), [chunk]).error is not None
    for link in ("https://a.test/x" * 9, "/files/" * 20):
        chunks = chat_of({field: [{"type": "image_url", "image_url": {"url": link}}]})
        assert streamed(judgement(effective(REDACT)), chunks).error is None


def test_text_in_a_field_nobody_knows_is_judged() -> None:
    """A value, and a key, of a provider's own extension."""
    stream = sse({"x_vendor": {"note": "bob@example.com", "eve@example.org": True}})
    result = streamed(judgement(effective(REDACT)), [stream])
    assert result.body == sse({"x_vendor": {"note": "[EMAIL_2]", "[EMAIL_1]": True}}) or (
        result.body == sse({"x_vendor": {"note": "[EMAIL_1]", "[EMAIL_2]": True}})
    )


LISTED = json.dumps({"choices": [], "args": [f"bob{number}@a.org" for number in range(3_000)]})
LONG_EVENT = f"data: {LISTED}\n\n".encode()


async def test_a_long_event_of_a_stream_is_judged_in_turns() -> None:
    """A megabyte of short texts held a worker for two seconds, each time it came."""
    ticks = count()
    world = World(f"name: default\nguardrails: {REDACT}\n")
    runner = GuardrailRunner(remote=ScriptedRemote(), clock=lambda: float(next(ticks)))
    world.worker = replace(world.worker, guardrail_runner=runner)
    exchange = world.exchange()
    await exchange.judge_headers(headers(), has_body=True)
    await exchange.judge_body(json.dumps({"model": "m", "messages": []}).encode())
    events = (("content-type", b"text/event-stream"), (":status", b"200"))
    await exchange.judge_response_headers(Headers(events))
    before, sent = next(ticks), b""
    for at in range(0, len(LONG_EVENT), 4_096):
        piece = LONG_EVENT[at : at + 4_096]
        sent += (await exchange.judge_response_piece(piece, is_last=False)).body
    assert next(ticks) - before > 100
    assert sent.count(b"[EMAIL_") == sent.count(b'"bob') + sent.count(b"[EMAIL_") >= 1_000
    await exchange.end()


MAIL = sse(chat_chunk({"content": "mail bob@example.com now. "}))
BROKEN = b"data: {so\n\n"
PINGS = (b": " + b"x" * 65_000 + b"\n\n") * (MAX_HELD_FRAME_BYTES // 65_000 + 1)


@pytest.mark.parametrize(
    ("guardrails", "chunks"),
    [
        pytest.param(REDACT, [MAIL, MAIL], id="redacted"),
        pytest.param(BLOCK, [sse(chat_chunk({"content": "so. "})), MAIL], id="blocked"),
        pytest.param(REDACT, [MAIL, BROKEN], id="not readable"),
        pytest.param(BLOCK, [MAIL + BROKEN], id="blocked, then not readable"),
        pytest.param(REDACT, [*chat_of({"content": "bob"}), PINGS], id="too much that waits"),
    ],
)
def test_a_long_piece_is_judged_as_a_short_one(guardrails: str, chunks: list[bytes]) -> None:
    """Nothing more leaves of it, for the same reason; a replacement is noted alike."""
    short, long = judgement(effective(guardrails)), judgement(effective(guardrails))

    taken = [short.take(chunk, is_last=False) for chunk in chunks]
    stepped = [run_sync(long.steps(chunk, is_last=False))[0] for chunk in chunks]

    assert stepped == taken
    assert long.reasons == short.reasons
    assert long.is_redacted == short.is_redacted == (b"[EMAIL_" in taken[0].body)
    assert long.results() == short.results()
    assert long.take(b"", is_last=True).body == short.take(b"", is_last=True).body
