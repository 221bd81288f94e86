"""Conversations that go wrong: messages out of turn, unreadable ones, early ends, faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from tests.contract.recorded.apis import as_json, chat
from tests.contract.recorded.conversation import (
    BUFFERED,
    DUPLEX,
    Answer,
    Conversation,
    Crowd,
    Exchange,
    HalfClose,
    Modes,
    Pause,
    Read,
    Reset,
    Script,
    Send,
    Sql,
    Step,
    opening_message,
    request_body,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
)
from tests.contract.recorded.requests import BENIGN, EMAIL, SECRET, asked, exchange

_ASKED: Final = asked("a script's request")
_KEYLESS: Final = asked("a script's keyless request", credential=())
_FREE: Final = asked("a script's free request", of="p-free")
_JUDGED: Final = asked("a script's judged request", of="p-out-redact")
_BODY: Final = as_json(chat(BENIGN))
_ANSWER: Final = Answer(body=as_json({"choices": [{"message": {"content": EMAIL}}]}))

OPEN: Final = Send(opening_message(_ASKED), "request_headers")
OPEN_KEYLESS: Final = Send(opening_message(_KEYLESS), "request_headers")
OPEN_FREE: Final = Send(opening_message(_FREE), "request_headers")
OPEN_JUDGED: Final = Send(opening_message(_JUDGED), "request_headers")
BODY: Final = Send(request_body(_BODY, ends=True), "request_body")
HALF: Final = Send(request_body(_BODY[:20], ends=False), "request_body, the first half")
REST: Final = Send(request_body(_BODY[20:], ends=True), "request_body, the rest")
NOTHING: Final = Send(request_body(b"", ends=True), "request_body, empty, the end")
EMPTY: Final = Send(request_body(b"", ends=False), "request_body, empty")
TRAILERS: Final = Send(request_trailers(), "request_trailers")
HEADERS_BACK: Final = Send(response_headers(_ANSWER), "response_headers")
BODY_BACK: Final = Send(response_body(_ANSWER.body, ends=True), "response_body")
HALF_BACK: Final = Send(response_body(_ANSWER.body[:20], ends=False), "response_body, a half")
TRAILERS_BACK: Final = Send(response_trailers(), "response_trailers")


def _opening(exchange: Exchange, **modes: object) -> Send:
    return Send(
        opening_message(replace(exchange, modes=Modes(**modes))),  # type: ignore[arg-type] # a table's
        "request_headers",
    )


_DUPLEX: Final = _opening(_ASKED, request_body=DUPLEX)
_BUFFERED: Final = _opening(_ASKED, request_body=BUFFERED)
_BUFFERED_BACK: Final = _opening(
    _JUDGED, request_body=BUFFERED, response_body=BUFFERED, response_headers=True
)


def _raw(**fields: object) -> bytes:
    return ext.ProcessingRequest(**fields).SerializeToString()  # type: ignore[arg-type] # a table's


def _unknown_mode() -> bytes:
    message = ext.ProcessingRequest.FromString(OPEN.message)
    message.protocol_config.request_body_mode = 99  # type: ignore[assignment] # enums are open
    return message.SerializeToString()


def _plain_values() -> bytes:
    message = ext.ProcessingRequest.FromString(OPEN.message)
    for header in message.request_headers.headers.headers:
        header.value, header.raw_value = header.raw_value.decode(), b""
    return message.SerializeToString()


SCRIPTS: Final[dict[str, tuple[Step, ...]]] = {
    "nothing at all": (HalfClose(),),
    "an unreadable message": (Send(b"\xff\xff\xff", "garbage"),),
    "an empty message": (Send(b"", "an empty message"),),
    "an unreadable second message": (OPEN, Read(), Send(b"\xff", "garbage")),
    "an empty second message": (OPEN, Read(), Send(b"", "an empty message")),
    "an unreadable message after a free request": (OPEN_FREE, Send(b"\xff", "garbage")),
    "an unknown body mode": (Send(_unknown_mode(), "request_headers"),),
    "headers without raw values": (Send(_plain_values(), "request_headers"), Read(), BODY),
    "a body without headers": (BODY,),
    "trailers without headers": (TRAILERS,),
    "an answer without a request": (HEADERS_BACK,),
    "a body of an answer without a request": (BODY_BACK,),
    "headers twice": (OPEN, Read(), OPEN),
    "headers twice, without a configuration": (OPEN, Read(), Send(
        opening_message(replace(_ASKED, modes=Modes(is_told=False))), "request_headers")),
    "the end of the body twice": (OPEN, Read(), BODY, NOTHING),
    "the end of a body in halves twice": (OPEN, Read(), HALF, REST, NOTHING, NOTHING),
    "an empty piece, then the body": (OPEN, Read(), EMPTY, BODY),
    "an empty body": (OPEN, Read(), NOTHING),
    "a body, then trailers": (OPEN, Read(), BODY, TRAILERS),
    "half a body, then trailers": (OPEN, Read(), HALF, TRAILERS),
    "half a body, then a half-close": (OPEN, Read(), HALF, HalfClose()),
    "a half-close for the body": (OPEN, Read(), HalfClose()),
    "a half-close with the headers": (OPEN, HalfClose()),
    "a half-close with the headers of a free request": (OPEN_FREE, HalfClose()),
    "a half-close with keyless headers": (OPEN_KEYLESS, HalfClose()),
    "a half-close with the body": (OPEN, Read(), BODY, HalfClose()),
    "an answer for the body": (OPEN, Read(), HEADERS_BACK),
    "an answer for the rest of the body": (OPEN, Read(), HALF, HEADERS_BACK),
    "an answer's body for the body": (OPEN, Read(), BODY_BACK),
    "duplex: a body in halves": (_DUPLEX, HALF, REST),
    "duplex: the end twice": (_DUPLEX, HALF, REST, NOTHING),
    "duplex: half a body and a half-close": (_DUPLEX, HALF, HalfClose()),
    "duplex: half a body and trailers": (_DUPLEX, HALF, TRAILERS),
    "duplex: an answer within the body": (_DUPLEX, HALF, HEADERS_BACK),
    "buffered: the body too early": (_BUFFERED, Read(), HALF, REST),
    "buffered: a half-close for the body": (_BUFFERED, Read(), HalfClose()),
    "buffered: a body without its end": (_BUFFERED, Read(), HALF),
    "buffered: a body, then trailers": (_BUFFERED, Read(), Send(
        request_body(_BODY, ends=False), "request_body, no end"), Read(), TRAILERS),
    "buffered: an answer for the body": (_BUFFERED, Read(), HEADERS_BACK),
    "judged: a body before its headers": (OPEN_JUDGED, Read(), BODY, Read(2), BODY_BACK),
    "judged: headers of an answer twice": (
        OPEN_JUDGED, Read(), BODY, Read(2), HEADERS_BACK, HEADERS_BACK),
    "judged: no answer, a half-close": (OPEN_JUDGED, Read(), BODY, Read(2), HalfClose()),
    "judged: no answer, a reset": (OPEN_JUDGED, Read(), BODY, Read(2), Reset()),
    "judged: half an answer, a half-close": (
        OPEN_JUDGED, Read(), BODY, Read(2), HEADERS_BACK, HALF_BACK, HalfClose()),
    "judged: half an answer, then trailers": (
        OPEN_JUDGED, Read(), BODY, Read(2), HEADERS_BACK, HALF_BACK, TRAILERS_BACK),
    "judged: half an answer, then garbage": (
        OPEN_JUDGED, Read(), BODY, Read(2), HEADERS_BACK, HALF_BACK, Send(b"\xff", "garbage")),
    "judged: trailers before a body": (
        OPEN_JUDGED, Read(), BODY, Read(2), HEADERS_BACK, TRAILERS_BACK),
    "judged: the end of an answer twice": (
        OPEN_JUDGED, Read(), BODY, Read(2), HEADERS_BACK, BODY_BACK, BODY_BACK),
    "judged, buffered: half an answer": (
        _BUFFERED_BACK, Read(), BODY, Read(), HEADERS_BACK, Read(), HALF_BACK),
    "judged, buffered: a half-close": (
        _BUFFERED_BACK, Read(), BODY, Read(), HEADERS_BACK, Read(), HalfClose()),
}  # fmt: skip


def every_fault() -> Iterator[Conversation]:
    """Protocol violations and early ends."""
    for name, steps in SCRIPTS.items():
        yield Script(name=name, steps=steps)
    yield Script(
        name="no request is set, only a configuration",
        steps=(Send(_raw(observability_mode=True), "no request"),),
    )


_MEANWHILE: Final[dict[str, tuple[Step, ...]]] = {
    "nothing": (),
    "a half-close": (HalfClose(),),
    "a reset": (Pause(), Reset()),
    "a local reply": (HEADERS_BACK,),
    "a local reply and its body": (HEADERS_BACK, BODY_BACK),
    "an unreadable message": (Send(b"\xff\xff", "garbage"),),
    "headers once more": (OPEN,),
    "trailers": (TRAILERS,),
    "the end of the body once more": (NOTHING,),
}  # fmt: skip


def while_a_key_is_loaded() -> Iterator[Conversation]:
    """Messages that come while the store is asked for the key: each time for another key."""
    yield Script(
        name="slow: the store answers after half a second",
        steps=(
            Sql(
                "ALTER TABLE api_keys RENAME TO api_keys_away;"
                " CREATE VIEW api_keys AS SELECT k.* FROM api_keys_away AS k,"
                " (SELECT pg_sleep(0.5)) AS s"
            ),
            *(OPEN_KEYLESS, Read()),
        ),
    )
    duplex = {"a body": (BODY,), "half a body": (HALF,), "half a body, a half-close": (
        HALF, HalfClose()), "a body, trailers": (HALF, TRAILERS)}  # fmt: skip
    steps = [(Modes(), name, some) for name, some in _MEANWHILE.items()]
    steps += [(Modes(request_body=DUPLEX), name, some) for name, some in duplex.items()]
    steps += [(Modes(request_body=BUFFERED), "a buffered body", (BODY,))]
    for number, (modes, name, some) in enumerate(steps):
        asking = asked(f"slow: {name} while a key is loaded", of=f"slow-{number}", modes=modes)
        opening = Send(opening_message(asking), "request_headers")
        yield Script(name=asking.name, steps=(opening, *some))


def while_content_is_checked() -> Iterator[Conversation]:
    """Messages that come while a webhook is asked, of the request and of the answer."""
    for name, some in _MEANWHILE.items():
        asking = asked(f"slow: {name} while a request is checked", of="p-hook-slow")
        opening = Send(opening_message(asking), "request_headers")
        yield Script(name=asking.name, steps=(opening, Read(), BODY, *some))
        asking = asked(f"slow: {name} while an answer is checked", of="p-hook-slow-out")
        opening = Send(opening_message(asking), "request_headers")
        steps = (opening, Read(), BODY, Read(2), HEADERS_BACK, BODY_BACK, *some)
        yield Script(name=asking.name, steps=steps)


def bounds() -> Iterator[Conversation]:
    """Bodies too long and too slow, too many requests, too much held; small bounds are set."""
    yield asked("small: fits")
    for mode, modes in (("default", Modes()), ("duplex", Modes(request_body=DUPLEX)),
                        ("buffered", Modes(request_body=BUFFERED))):  # fmt: skip
        long = as_json(chat("a" * 3_000))
        yield exchange(f"small: too long in {mode}", body=long, cut=4, modes=modes)
    answer = Answer(body=_ANSWER.body + b" " * 3_000, cut=3)
    yield asked("small: an answer too long", of="p-out-redact", answer=answer)
    yield Script(name="small: a body too slow", steps=(OPEN, Read(), HALF, Read()))
    yield Script(name="small: no body at all", steps=(OPEN, Read(2)))
    yield Script(name="small: a slow body for Anthropic", steps=(
        Send(opening_message(asked("s", api="messages")), "request_headers"), Read(), HALF, Read()
    ))  # fmt: skip
    for name, played in {
        "small: one too many": asked("small: one too many"),
        "small: one too many, keyless": asked("small: one too many, keyless", credential=()),
        "small: one too many, Anthropic": asked("small: one too many, Anthropic", api="messages"),
        "small: one too many, Google": asked("small: one too many, Google", api="gemini"),
    }.items():
        yield Crowd(name=name, waiting=2, played=played)
    yield asked("small: room again")


def outage() -> Iterator[Conversation]:
    """A store that answers no more: known keys go on, unknown ones get a 503."""
    yield asked("outage: before")
    yield asked("outage: a key to be forgotten", of="p-none")
    yield Script(
        name="outage: the table is away",
        steps=(
            Sql("ALTER TABLE api_keys RENAME TO api_keys_away"),
            *(OPEN_KEYLESS, Read()),
        ),
    )
    yield asked("outage: a known key", SECRET)
    for api in ("chat", "messages", "gemini", "converse", "azure chat"):
        yield asked(f"outage: an unknown key, {api}", api=api, of="p-block")
    yield Script(
        name="outage: the table is back",
        steps=(Sql("ALTER TABLE api_keys_away RENAME TO api_keys"), OPEN_KEYLESS, Read()),
    )
    yield asked("outage: an unknown key again", of="p-block")
    yield Script(
        name="outage: a key is revoked",
        steps=(
            Sql("UPDATE api_keys SET revoked_at = '2026-01-01' WHERE name = 'plain'"),
            *(OPEN_KEYLESS, Read()),
        ),
    )
    yield asked("outage: the revoked key")
