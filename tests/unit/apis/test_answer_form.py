from __future__ import annotations

import pytest

from sidecar.apis.response_structure import AnswerForm, answer_form, framer_of
from sidecar.domain.http import Headers
from sidecar.domain.subject import (
    Operation,
    Unreadable,
    UnscannedReason,
)

FORMS = {
    b"text/event-stream": AnswerForm.SSE,
    b"text/event-stream; charset=utf-8": AnswerForm.SSE,
    b'Text/Event-Stream;charset="UTF-8"': AnswerForm.SSE,
    b"application/json": AnswerForm.JSON,
    b"application/problem+json": AnswerForm.JSON,
    b"application/vnd.amazon.eventstream": AnswerForm.EVENT_STREAM,
    b"text/html; charset=us-ascii": AnswerForm.TEXT,
    b"text/plain": AnswerForm.TEXT,
    b"text/javascript; charset=utf-8": UnscannedReason.UNKNOWN_SHAPE,
    b"application/javascript": UnscannedReason.UNKNOWN_SHAPE,
    b"text/html; charset=iso-8859-1": UnscannedReason.CHARSET,
    b"text/html; charset*0=utf-7": UnscannedReason.CHARSET,
    b"text/html; Charset*1=utf-16": UnscannedReason.CHARSET,
    b"text/html; charset*2*=us-ascii'en'utf-16": UnscannedReason.CHARSET,
    b"text/html; charset*1=utf-8; charsets=utf-16": AnswerForm.TEXT,
    b"audio/mpeg": UnscannedReason.UNKNOWN_SHAPE,
    b"application/octet-stream": UnscannedReason.UNKNOWN_SHAPE,
    b"application/json, text/html": UnscannedReason.UNKNOWN_SHAPE,
    b"": UnscannedReason.UNKNOWN_SHAPE,
}


@pytest.mark.parametrize("content_type", FORMS)
def test_the_content_type_says_how_an_answer_is_read(content_type: bytes) -> None:
    """Whether the request asked for a stream does not matter: errors come whole."""
    headers = Headers((("content-type", content_type),))
    form = answer_form(headers, path="/v1/chat/completions?x=1")
    wanted = FORMS[content_type]
    assert form == (Unreadable(wanted) if isinstance(wanted, UnscannedReason) else wanted)


@pytest.mark.parametrize(
    "fields",
    [(), (("content-type", b"application/json"), ("content-type", b"text/event-stream"))],
    ids=["none", "two"],
)
def test_an_answer_without_one_content_type_is_unread(
    fields: tuple[tuple[str, bytes], ...],
) -> None:
    """A client could read it in a way that we did not."""
    assert answer_form(Headers(fields), path="/") == Unreadable(UnscannedReason.UNKNOWN_SHAPE)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"identity, gzip", b"zstd"])
def test_a_compressed_answer_is_unread(encoding: bytes) -> None:
    """Identity was asked for; a provider that compresses all the same is not let through."""
    headers = Headers((("content-type", b"application/json"), ("content-encoding", encoding)))
    assert answer_form(headers, path="/") == Unreadable(UnscannedReason.ENCODED_BODY)


def test_an_answer_that_says_identity_is_read() -> None:
    """It is not compressed."""
    headers = Headers((("content-type", b"application/json"), ("content-encoding", b" Identity")))
    assert answer_form(headers, path="/") is AnswerForm.JSON


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", AnswerForm.JSON_ARRAY),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=json", AnswerForm.JSON_ARRAY),
        ("/v1beta/models/gemini-2.5-pro:generateContent", AnswerForm.JSON),
    ],
)
def test_gemini_streams_an_array_where_no_events_were_asked_for(
    path: str, form: AnswerForm
) -> None:
    """Its content type is that of a whole document."""
    assert answer_form(Headers((("content-type", b"application/json"),)), path=path) is form


def test_only_what_is_streamed_has_a_framer() -> None:
    """The rest is one event."""
    assert {form for form in AnswerForm if framer_of(form) is not None} == {
        form for form in AnswerForm if form.is_streamed
    }


def test_answers_without_a_model_s_words_are_not_judged() -> None:
    """Vectors, counts and lists; of an unknown route the request was judged as unscanned."""
    judged = {operation for operation in Operation if operation.spec.has_model_text}
    assert {Operation.CHAT, Operation.TEXT_COMPLETION} <= judged
    assert not judged & {Operation.EMBEDDINGS, Operation.COUNT_TOKENS, Operation.LIST_MODELS}
