"""Conversations about answers: whole and streamed, judged, restored, with hidden usage."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any, Final

from tests.contract.recorded.apis import (
    APIS,
    APIS_OF_STREAMS,
    STREAMS,
    WHOLE,
    as_json,
    chat,
    chat_stream_with_usage,
)
from tests.contract.recorded.conversation import (
    BUFFERED,
    DUPLEX,
    JSON,
    STREAMED,
    Answer,
    Conversation,
    Exchange,
    Modes,
)
from tests.contract.recorded.requests import BENIGN, EMAIL, asked, exchange

SAFE: Final = ("Hello ", "to ", "all of you.")
SPLIT: Final = ("Mail ann@exam", "ple.org", " or call. ", "Good", "bye.")
"""A finding that no single piece holds."""
TYPES: Final = {"sse": "text/event-stream", "json": "application/json"}


def streamed(
    name: str, kind: str, texts: tuple[str, ...], *, of: str, cut: int = 1, **more: Any
) -> Exchange:
    """Return an exchange whose answer is streamed."""
    stream = STREAMS[kind]
    path, ask = APIS_OF_STREAMS[stream.api]
    document = ask(BENIGN)
    if path.startswith(("/v1/", "/openai/")):
        document["stream"] = True
    given = {"has_trailers": more.pop("answer_trailers", False), "status": more.pop("status", 200)}
    answer = Answer(
        body=stream.of(texts), headers=(("content-type", stream.content_type),), cut=cut, **given
    )
    return exchange(name, path=path, body=as_json(document), of=of, answer=answer, **more)


def whole(name: str, text: str, *, api: str = "chat", of: str, **more: Any) -> Exchange:
    """Return an exchange whose answer comes as one document."""
    body = as_json(WHOLE[api](text))
    headers = (*JSON, ("content-length", str(len(body))))
    given = {"cut": more.pop("answer_cut", 1), "has_trailers": more.pop("answer_trailers", False)}
    answer = Answer(body=body, headers=headers, **given)
    said = more.pop("said", BENIGN)
    return asked(name, said, api=api, of=of, answer=answer, **more)


def every_stream() -> Iterator[Conversation]:
    """Every kind of stream, under each way to judge it."""
    for kind in STREAMS:
        yield streamed(f"stream {kind}: nothing found", kind, SAFE, of="p-out-redact")
        yield streamed(f"stream {kind}: redacted", kind, SPLIT, of="p-out-redact", cut=5)
        yield streamed(f"stream {kind}: blocked", kind, SPLIT, of="p-out-block", cut=7)
        yield streamed(f"stream {kind}: flagged", kind, SPLIT, of="p-out-flag")
        yield streamed(f"stream {kind}: buffered", kind, SPLIT, of="p-out-buffer", cut=3)
        yield streamed(f"stream {kind}: observed", kind, SPLIT, of="p-out-observe", cut=3)
        yield streamed(f"stream {kind}: not judged", kind, SPLIT, of="p-none")
    for kind in ("chat", "messages", "gemini array", "bedrock"):
        yield streamed(f"stream {kind}: byte by byte", kind, SPLIT, of="p-out-redact", cut=0)
        yield streamed(f"stream {kind}: a word", kind, ("a Blue", "bird"), of="p-out-words", cut=9)
        yield streamed(f"stream {kind}: trailers", kind, SPLIT, of="p-out-redact",
                       answer_trailers=True)  # fmt: skip
        yield streamed(f"stream {kind}: an error of the provider's", kind, SPLIT,
                       of="p-out-redact", status=500)  # fmt: skip
    for name, mode in _MODES.items():
        yield streamed(f"stream in {name}", "chat", SPLIT, of="p-out-redact", cut=4, modes=mode)
        yield streamed(f"stream in {name}: blocked", "chat", SPLIT, of="p-out-block", modes=mode)
        yield streamed(f"stream in {name}: not judged", "chat", SPLIT, of="p-none", modes=mode)
        yield whole(f"whole in {name}", EMAIL, of="p-out-redact", modes=mode)
        yield whole(f"whole in {name}: blocked", EMAIL, of="p-out-block", modes=mode)
        yield whole(f"whole in {name}: not judged", EMAIL, of="p-none", modes=mode)
        yield whole(f"whole in {name}: trailers", EMAIL, of="p-out-redact", modes=mode,
                    answer_trailers=True)  # fmt: skip
    broken = {
        "cut short": STREAMS["chat"].of(SPLIT)[:-40],
        "no JSON": b"data: {no json}\n\n",
        "no events": b"hello\n\n",
        "other line ends": STREAMS["chat"].of(SPLIT).replace(b"\n", b"\r\n"),
        "comments": b": keep-alive\n\n" + STREAMS["chat"].of(SPLIT),
        "empty": b"",
        "not UTF-8": STREAMS["chat"].of(SPLIT).replace(b"Good", b"G\xffod"),
        "a repeated name": b'data: {"choices": [], "choices": []}\n\n',
    }
    for name, body in broken.items():
        for policy in ("out-redact", "out-observe", "out-allow"):
            answer = Answer(body=body, headers=(("content-type", TYPES["sse"]),), cut=2)
            yield asked(f"broken stream under {policy}: {name}", of=f"p-{policy}", answer=answer)


_MODES: Final = {
    "duplex": Modes(request_body=DUPLEX, response_body=DUPLEX, response_headers=True),
    "buffered": Modes(request_body=BUFFERED, response_body=BUFFERED, response_headers=True),
    "streamed answers": Modes(
        request_body=BUFFERED, response_body=STREAMED, response_headers=True
    ),
    "buffered requests alone": Modes(request_body=BUFFERED),
}


def every_whole_answer() -> Iterator[Conversation]:
    """Whole answers of every API under each way to judge them, and answers nobody can read."""
    for api in WHOLE:
        yield whole(f"whole {api}: nothing found", "Hello.", api=api, of="p-out-redact")
        yield whole(f"whole {api}: redacted", EMAIL, api=api, of="p-out-redact")
        yield whole(f"whole {api}: blocked", EMAIL, api=api, of="p-out-block")
        yield whole(f"whole {api}: flagged", EMAIL, api=api, of="p-out-flag")
        yield whole(f"whole {api}: both ways", EMAIL, api=api, of="p-out-both", said=EMAIL)
        yield whole(f"whole {api}: restored", "To [EMAIL_1]!", api=api, of="p-restore", said=EMAIL)
    yield whole("whole in pieces", EMAIL, of="p-out-redact", answer_cut=5)
    yield whole("whole byte by byte", EMAIL, of="p-out-redact", answer_cut=0)
    yield whole("whole with trailers", EMAIL, of="p-out-redact", answer_trailers=True)
    yield asked("embeddings are no text", api="embeddings", of="p-out-redact",
                answer=Answer(body=b'{"data": []}'))  # fmt: skip
    plain = as_json(WHOLE["chat"](EMAIL))
    answers = {
        "compressed": Answer(body=gzip.compress(plain, mtime=0),
                             headers=(*JSON, ("content-encoding", "gzip"))),
        "an image": Answer(body=b"\x89PNG", headers=(("content-type", "image/png"),)),
        "text": Answer(body=EMAIL.encode(), headers=(("content-type", "text/plain"),)),
        "a script": Answer(body=plain, headers=(("content-type", "text/javascript"),)),
        "no type": Answer(body=plain, headers=()),
        "another charset": Answer(body=plain,
                                  headers=(("content-type", "application/json; charset=utf-16"),)),
        "no JSON": Answer(body=b"oops ann@example.org"),
        "a repeated name": Answer(body=b'{"a": 1, "a": 2}'),
        "no body": Answer(body=b""),
        "an error": Answer(body=b'{"error": {"message": "ann@example.org"}}', status=500),
        "no status": Answer(body=plain, status=0),
        "redirect": Answer(body=b"", status=302, headers=(("location", "https://a.test"),)),
        "longer than may be held": Answer(body=plain + b" " * 12_000_000, cut=12),
    }  # fmt: skip
    for name, answer in answers.items():
        for policy in ("out-redact", "out-allow", "out-block"):
            yield asked(f"answer under {policy}: {name}", of=f"p-{policy}", answer=answer)
    orders = {
        "right": '{"to": "ann"}',
        "wrong": '{"too": "ann"}',
        "no JSON": "to ann",
        "fenced": '```json\n{"to": "ann"}\n```',
    }
    for name, text in orders.items():
        yield whole(f"schema: {name}", text, of="p-out-schema")
        yield whole(f"schema flags: {name}", text, of="p-out-schema-flag")
        yield streamed(f"schema of a stream: {name}", "chat", (text[:5], text[5:]),
                       of="p-out-schema")  # fmt: skip
        yield streamed(f"schema of arguments: {name}", "tool call", (text[:5], text[5:]),
                       of="p-out-schema-tools")  # fmt: skip


def every_restoration() -> Iterator[Conversation]:
    """Placeholders that come back, whole, split, unknown and forged."""
    for kind in ("chat", "messages", "responses", "gemini", "gemini array", "bedrock"):
        path, ask = APIS_OF_STREAMS[STREAMS[kind].api]
        document = ask(EMAIL)
        if path.startswith("/v1/"):
            document["stream"] = True
        for cut in (1, 11):
            answer = Answer(
                body=STREAMS[kind].of(("Dear [EMA", "IL_1], [EMAIL_2] and [EMAIL_", "1].")),
                headers=(("content-type", STREAMS[kind].content_type),),
                cut=cut,
            )
            for policy in ("restore", "restore-both"):
                name = f"{policy} in a stream of {kind}, {cut}"
                body = as_json(document)
                yield exchange(name, path=path, body=body, of=f"p-{policy}", answer=answer)
    for name, text in {
        "twice": "[EMAIL_1] [EMAIL_1]",
        "unknown": "[EMAIL_9] [PHONE_1]",
        "quotes": 'a "[EMAIL_1]" b',
        "lower case": "[email_1]",
    }.items():
        yield whole(f"restored: {name}", text, of="p-restore", said=EMAIL)
    yield whole("nothing to restore", "[EMAIL_1]", of="p-restore", said=BENIGN)
    yield whole("forged by the client", "[EMAIL_1] [EMAIL_2]", of="p-restore",
                said=f"{EMAIL} [EMAIL_1]")  # fmt: skip


def every_usage() -> Iterator[Conversation]:
    """Streams whose usage is asked for, hidden, passed on or estimated."""
    for policy in ("hide", "hide-redact", "pass", "estimate"):
        for name, options in {
            "not asked": None,
            "asked": {"include_usage": True},
            "refused": {"include_usage": False},
            "other options": {"include_obfuscation": False},
        }.items():
            more: dict[str, Any] = {} if options is None else {"stream_options": options}
            body = as_json(chat(BENIGN, stream=True, **more))
            for cut in (1, 6):
                answer = Answer(
                    body=chat_stream_with_usage(SPLIT),
                    headers=(("content-type", TYPES["sse"]),),
                    cut=cut,
                )
                yield exchange(f"usage {policy}: {name}, {cut}", body=body, of=f"p-{policy}",
                               answer=answer)  # fmt: skip
        yield asked(f"usage {policy}: no stream", of=f"p-{policy}",
                    answer=Answer(body=as_json(WHOLE["chat"]("Hello."))))  # fmt: skip
        yield streamed(f"usage {policy}: messages", "messages", SPLIT, of=f"p-{policy}")
        path, ask = APIS["completions"]
        body = as_json({**ask(BENIGN), "stream": True})
        answer = Answer(
            body=STREAMS["completion"].of(SPLIT), headers=(("content-type", TYPES["sse"]),)
        )
        yield exchange(f"usage {policy}: completions", path=path, body=body, of=f"p-{policy}",
                       answer=answer)  # fmt: skip
    yield exchange("usage hide: an error instead", body=as_json(chat(BENIGN, stream=True)),
                   of="p-hide", answer=Answer(body=b'{"error": {}}', status=429))  # fmt: skip
    yield exchange("usage hide: in duplex", body=as_json(chat(BENIGN, stream=True)), of="p-hide",
                   modes=_MODES["duplex"],
                   answer=Answer(body=chat_stream_with_usage(SPLIT),
                                 headers=(("content-type", TYPES["sse"]),), cut=3))  # fmt: skip
