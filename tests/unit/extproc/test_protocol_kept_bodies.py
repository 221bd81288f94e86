"""Long bodies that Envoy keeps while they are judged: BUFFERED by an override in the answer."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Headers
from sidecar.extproc.codec import BodyMode
from sidecar.extproc.phases import Event, Phase
from sidecar.extproc.protocol import (
    MIN_BUFFERED_BYTES,
    ExtProcProtocol,
    ProtocolViolationError,
    RefusedError,
)
from sidecar.extproc.stream import OverloadGuard
from tests.support import events as on
from tests.support.conversation import REFUSAL, body, message_of, opened, trailers, with_modes

LIMIT = 1 << 20
STATED = str(LIMIT)
LENGTH = 200_000
PATH = b"/v1/chat/completions"
BODY = b"x" * LENGTH


def fields(*more: tuple[str, bytes], path: bytes = PATH, length: bytes = b"200000") -> Headers:
    """Return the headers of a request with a body of this length."""
    lengths = (("content-length", length),) if length else ()
    return Headers(((":method", b"POST"), (":path", path), *lengths, *more))


class Kept:
    """A protocol that has received headers; `asked` are the answers to them."""

    def __init__(
        self,
        headers: Headers | None = None,
        *,
        request: BodyMode = BodyMode.NONE,
        guard: OverloadGuard | None = None,
        may_keep: bool = True,
        **options: Any,
    ) -> None:
        self.guard = guard or OverloadGuard(max_exchanges=8, max_held_bytes=1 << 24)
        self.obeyed: set[str] = options.pop("obeyed", {STATED})
        given: dict[str, Any] = {"max_body_bytes": LIMIT, "wants_answer_headers": False}
        given["buffer"] = STATED
        given.update(options)
        self.protocol = ExtProcProtocol(room=self.guard, obeyed=self.obeyed, **given)
        message = message_of(on.RequestHeadersReceived(headers or fields(), end_of_stream=False))
        with_modes(message, opened(request))
        self.protocol.receive(message.SerializeToString())
        self.protocol.require_body(("authorization",), may_keep=may_keep)
        self.asked = self.sent()

    def sent(self) -> list[ext.ProcessingResponse]:
        """Return the answers owed, and clear them."""
        sent, self.protocol.outgoing = self.protocol.outgoing, []
        parts = [b"".join(one) if isinstance(one, tuple) else one for one in sent]
        return [ext.ProcessingResponse.FromString(one) for one in parts]

    def receive(self, event: on.Event) -> Event:
        """Receive the message of *event*."""
        return self.protocol.receive(message_of(event).SerializeToString())

    @property
    def is_kept(self) -> bool:
        """Whether Envoy was asked to keep the body; else it was asked to stream it."""
        (answer,) = self.asked
        mode = answer.mode_override.request_body_mode
        if mode == modes.ProcessingMode.BUFFERED:
            assert answer.HasField("request_headers")
            return True
        assert mode == modes.ProcessingMode.FULL_DUPLEX_STREAMED
        assert not answer.HasField("request_headers")
        return False


def test_envoy_keeps_a_long_body_and_gets_an_empty_answer() -> None:
    """Credentials leave at once, and nothing of the body comes back."""
    talk = Kept()
    (asked,) = talk.asked
    assert talk.is_kept
    assert asked.mode_override.response_header_mode == modes.ProcessingMode.SKIP
    assert asked.mode_override.request_trailer_mode == modes.ProcessingMode.SEND
    assert list(asked.request_headers.response.header_mutation.remove_headers) == ["authorization"]
    assert talk.receive(body(BODY, ends=True)) is Event.REQUEST_BODY
    assert talk.protocol.body() == BODY
    talk.protocol.forward(removed=("authorization",))
    (answer,) = talk.sent()
    assert answer == ext.ProcessingResponse(
        request_body=ext.BodyResponse(
            response=ext.CommonResponse(header_mutation=ext.HeaderMutation())
        )
    )
    assert talk.protocol.phase is Phase.ENDED


def test_a_redacted_body_is_sent_with_its_length() -> None:
    """Envoy refuses a body of another length than the header says."""
    talk = Kept()
    talk.receive(body(BODY, ends=True))
    talk.protocol.forward(body=b"short", added=(("x-egret-model", b"m"),), clear_route_cache=True)
    (sent,) = talk.sent()
    response = sent.request_body.response
    headers = {
        one.header.key: one.header.raw_value for one in response.header_mutation.set_headers
    }
    assert (response.body_mutation.body, response.clear_route_cache) == (b"short", True)
    assert headers == {"content-length": b"5", "x-egret-model": b"m"}


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param({"headers": fields(length=b"")}, id="no length"),
        pytest.param({"headers": fields(("content-length", b"200000"))}, id="two lengths"),
        pytest.param({"headers": fields(length=b"+200000")}, id="a sign"),
        pytest.param({"headers": fields(length="٢٠٠٠٠٠".encode())}, id="other digits"),
        pytest.param({"headers": fields(length=b"0200000")}, id="a leading zero"),
        pytest.param({"headers": fields(length=b"200000,200000")}, id="a list"),
        pytest.param({"headers": fields(length=b"%d" % (LIMIT + 1))}, id="over the buffer"),
        pytest.param(
            {"headers": fields(length=b"%d" % (MIN_BUFFERED_BYTES - 1))}, id="short: no cheaper"
        ),
        pytest.param({"headers": fields(("transfer-encoding", b"chunked"))}, id="chunked"),
        pytest.param({"headers": fields(path=b"*")}, id="a path without a slash"),
        pytest.param({"max_body_bytes": LENGTH - 1}, id="longer than Egret takes"),
        pytest.param({"buffer": ""}, id="a filter that states no buffer"),
        pytest.param({"buffer": "1 MiB"}, id="a buffer that is no number"),
        pytest.param({"buffer": "-1"}, id="a negative buffer"),
        pytest.param({"wants_answer_headers": True}, id="timing headers by Egret"),
        pytest.param({"may_keep": False}, id="the answer may be needed"),
        pytest.param(
            {"guard": OverloadGuard(max_exchanges=8, max_held_bytes=2 * LENGTH - 1)},
            id="less than half of the room left",
        ),
        pytest.param(
            {"headers": fields(("x-egret-body-buffer-bytes", b"9999999")), "buffer": ""},
            id="the client states a buffer",
        ),
    ],
)
def test_every_other_body_is_streamed(talk: dict[str, Any]) -> None:
    """In doubt as well: a streamed body needs no buffer."""
    assert not Kept(**talk).is_kept


@pytest.mark.parametrize("size", [MIN_BUFFERED_BYTES, LIMIT])
def test_both_bounds_are_inclusive(size: int) -> None:
    """Envoy answers 413 from one byte more on."""
    assert Kept(fields(length=b"%d" % size)).is_kept


def test_a_configured_mode_stays() -> None:
    """Envoy says how it sends the body, and needs no override."""
    (answer,) = Kept(request=BodyMode.BUFFERED).asked
    assert not answer.HasField("mode_override")


@pytest.mark.parametrize(("path", "sent"), [(PATH, PATH[1:]), (b"///v1/x?q=/", b"v1/x?q=/")])
def test_the_first_request_has_a_path_without_a_route_until_its_body_has_come(
    path: bytes, sent: bytes
) -> None:
    """An Envoy that ignores the override would let it go on, unjudged."""
    talk = Kept(fields(path=path), obeyed=set())
    (asked,) = talk.asked
    headers = asked.request_headers.response
    assert [
        (one.header.key, one.header.raw_value) for one in headers.header_mutation.set_headers
    ] == [(":path", sent)]
    assert headers.clear_route_cache
    assert talk.obeyed == set()
    talk.receive(body(BODY, ends=True))
    assert talk.obeyed == {STATED}
    talk.protocol.forward(added=((":path", b"/renamed"),) if path != PATH else ())
    (answer,) = talk.sent()
    response = answer.request_body.response
    paths = [one.header.raw_value for one in response.header_mutation.set_headers]
    assert paths[-1] == (path if path == PATH else b"/renamed")
    assert response.clear_route_cache


def test_another_filters_obedience_is_no_proof() -> None:
    """Of the same Envoy, with another buffer."""
    assert Kept(obeyed={"1048575"}).asked[0].request_headers.response.clear_route_cache


def test_the_length_counts_as_held_while_the_body_comes_and_once() -> None:
    """The guard sees Envoy's memory as the worker's, until the verdict."""
    talk = Kept()
    assert talk.guard.held_bytes == LENGTH
    talk.receive(body(BODY[:-1], ends=True))
    assert talk.guard.held_bytes == LENGTH - 1
    talk.protocol.forward()
    assert talk.guard.held_bytes == 0


def test_a_client_that_leaves_gives_its_room_back() -> None:
    """Envoy half-closes; the headers had their answer, the body never came."""
    talk = Kept(obeyed=set())
    talk.protocol.half_close()
    assert (talk.guard.held_bytes, talk.obeyed) == (0, set())
    protocol = talk.protocol
    assert (protocol.phase, protocol.is_answered, protocol.is_aborted) == (
        Phase.ENDED,
        False,
        False,
    )


@pytest.mark.parametrize("event", [body(BODY), trailers()])
def test_a_request_with_trailers_is_refused(event: on.Event) -> None:
    """As it is if its body is streamed."""
    talk = Kept()
    with pytest.raises(RefusedError) as refused:
        talk.receive(event)
    assert refused.value.kind is ErrorKind.REQUEST_TRAILERS
    talk.protocol.refuse(REFUSAL)
    assert talk.sent()[-1].HasField("immediate_response")


def test_a_body_that_came_is_refused_like_any_other() -> None:
    """Envoy drops what it keeps."""
    talk = Kept()
    talk.receive(body(BODY, ends=True))
    talk.protocol.refuse(REFUSAL)
    assert talk.sent()[-1].immediate_response.status.code == REFUSAL.status
    assert talk.guard.held_bytes == 0


def test_an_answer_cannot_be_asked_for_later() -> None:
    """Envoy ignores an override in the answer to a body: the answer would pass unjudged."""
    talk = Kept()
    talk.receive(body(BODY, ends=True))
    assert not talk.protocol.may_judge_answer
    with pytest.raises(RefusedError):
        talk.protocol.forward(judges_answer=True)


def test_a_second_body_is_a_violation() -> None:
    """One message is all of it."""
    talk = Kept()
    talk.receive(body(BODY, ends=True))
    with pytest.raises(ProtocolViolationError):
        talk.receive(body(BODY, ends=True))
