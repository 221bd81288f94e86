from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.apis.request_text import TextExtractor
from sidecar.apis.vocabulary import VOCABULARIES
from sidecar.domain.cooperative import run_sync
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Headers
from sidecar.domain.subject import Dialect
from sidecar.pipeline.explain import (
    MAX_PLACE_CHARACTERS,
    MAX_SEARCHED_BYTES,
    credential_message,
    path_message,
    places_of,
)
from tests.support.events import RequestRefused
from tests.support.pipeline import KEY, REQUEST_ID, World, headers

POLICY = """
name: default
guardrails:
  - {name: words, type: denied_terms, action: block, terms: [Bluebird]}
  - {name: pii, type: pii, action: redact}
"""
SIGNED = (
    b"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20270131/eu-west-1/bedrock/aws4_request, "
    b"SignedHeaders=host;x-amz-date, Signature=0123"
)
NAMES = VOCABULARIES[Dialect.OPENAI].field_names


async def _refusal(body: object, path: str = "/v1/chat/completions") -> dict[str, str]:
    checks = World(POLICY).exchange()
    verdict = await checks.judge_headers(headers(path), has_body=True)
    if not isinstance(verdict, RequestRefused):
        verdict = await checks.judge_body(json.dumps(body).encode())
    assert isinstance(verdict, RequestRefused)
    document = json.loads(verdict.refusal.body)
    error: dict[str, str] = document.get("error", document)
    return error


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("POST", "/chat/completions?a=b", "/v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1//chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/", "/v1/chat/completions"),
        ("POST", "/proxy/v1/messages", "/v1/messages"),
        ("GET", "/v1/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/deployments/a/embeddings", "/openai/deployments/a/embeddings"),
        ("GET", "/models", "/v1/models"),
        ("POST", "/v1/chat/completion", "/v1/chat/completions"),
        ("POST", "/message", "/v1/messages"),
        ("POST", "/openai/chat/completions", "/v1/chat/completions"),
        ("POST", "/mistral/v1/chat/completions", "/v1/chat/completions"),
        (
            "POST",
            "/vertex_ai/v1/projects/p/locations/l/publishers/google/models/g:generateContent",
            "/v1/projects/p/locations/l/publishers/google/models/g:generateContent",
        ),
    ],
)
def test_an_unknown_path_is_answered_with_the_one_that_was_meant(
    method: str, path: str, meant: str
) -> None:
    """A root that is missing, doubled or a proxy's; another method; slashes; a plural."""
    assert path_message(method, path).endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/models/m:batchGenerateContent",
        "/v1/egk_abc",
        "/%2e%2e/v1",
        "/a\nb",
        "",
        "/" * 99,
    ],
)
def test_a_path_like_no_other_is_refused_with_the_apis_and_the_operators_part(path: str) -> None:
    """The policy can let it pass; only plain words of a path are repeated."""
    message = path_message("POST", path)
    assert "It reads /v1/chat/completions, /v1/responses" in message
    assert message.endswith("the policy must say `unscanned: allow`; ask your operator.")
    assert "egk_" not in message
    assert message.isprintable()


@given(st.text(max_size=10), st.text())
def test_no_path_makes_a_message_longer_than_a_screen(method: str, path: str) -> None:
    """Nor one with characters that a terminal obeys."""
    message = path_message(method, path)
    assert len(message) < 1_000
    assert message.isprintable()


@pytest.mark.parametrize(
    ("key", "provider"),
    [
        (b"Bearer sk-proj-abc", "OpenAI or LiteLLM (sk-…)"),
        (b"sk-ant-api03-abc", "Anthropic (sk-ant-…)"),
        (b"AIzaSyabc", "Google (AIza…)"),
        (b"bearer  ABSKabc", "Amazon Bedrock (ABSK…)"),
    ],
)
def test_a_providers_own_key_is_recognised_and_not_repeated(key: bytes, provider: str) -> None:
    """The sentence names the provider; of the key it has the well-known beginning."""
    message = credential_message(ErrorKind.INVALID_API_KEY, Headers((("authorization", key),)))
    assert message is not None
    assert f"It looks like a key of {provider}: send your Egret key (egk_…)" in message
    assert "abc" not in message


def test_other_bad_keys_have_no_sentence_of_their_own() -> None:
    """It is not stated how a key of Egret is wrong."""
    bad = Headers((("authorization", b"Bearer egk_abc"),))
    assert credential_message(ErrorKind.INVALID_API_KEY, bad) is None


def test_an_aws_signature_is_answered_with_the_variable_to_set() -> None:
    """Its commas make it look like several credentials."""
    signed = Headers((("authorization", SIGNED),))
    message = credential_message(ErrorKind.CONFLICTING_CREDENTIALS, signed)
    assert message is not None
    assert message.startswith(
        "AWS signatures are not taken here: set AWS_BEARER_TOKEN_BEDROCK to your Egret key"
    )
    assert "AKIA" not in message


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ((("authorization", b"a"), ("x-api-key", b"b")), "'authorization', 'x-api-key'"),
        ((("api-key", b"a"), ("api-key", b"a")), "Header 'api-key' was sent more than once"),
    ],
)
def test_two_credentials_are_named_by_their_headers(
    fields: tuple[tuple[str, bytes], ...], part: str
) -> None:
    """Header names are those of the table, never a client's own text."""
    message = credential_message(ErrorKind.CONFLICTING_CREDENTIALS, Headers(fields))
    assert message is not None
    assert part in message


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"messages": [{"role": "user", "content": "hi"}] * 2 + [
            {"role": "user", "content": "Bluebird"}]}, "messages[2].content"),
        ({"messages": [], "tools": [{"type": "function", "function": {
            "name": "f", "description": "Bluebird"}}]}, "tools[0].function.description"),
        ({"messages": [], "metadata": {"team": 1, "Bluebird": 2}}, "metadata.*"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {
            "name": "f", "arguments": '{"a": "\\u0042luebird"}'}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
    ],
    ids=["message", "tool", "unknown name", "nested JSON"],
)  # fmt: skip
async def test_a_finding_is_refused_with_its_place(body: dict[str, object], place: str) -> None:
    """In the message and in OpenAI's `param`; a name that is not the API's shows as `*`."""
    error = await _refusal({"model": "gpt-5", **body})
    assert error["param"] == place
    assert (
        f"It contains: DENIED_TERM. Found in: {place}. Request id: {REQUEST_ID}."
        in (error["message"])
    )
    assert "bluebird" not in json.dumps(error).lower()


async def test_at_most_three_places_are_listed() -> None:
    """The others are counted."""
    messages = [{"role": "user", "content": f"Bluebird {number}"} for number in range(5)]
    error = await _refusal({"model": "gpt-5", "messages": messages})
    listed = "messages[0].content, messages[1].content, messages[2].content and 2 more."
    assert f"Found in: {listed}" in error["message"]


async def test_an_unknown_url_of_a_good_key_is_a_404_in_the_clients_dialect() -> None:
    """With the id, as every refusal."""
    error = await _refusal({}, path="/chat/completions")
    assert error["code"] == "unknown_url"
    assert "Did you mean /v1/chat/completions?" in error["message"]
    gemini = await _refusal({}, path="/v1beta/models")
    assert gemini["status"] == "NOT_FOUND"


async def test_a_provider_key_is_explained_on_the_way_of_a_request() -> None:
    """No look-up is made for it."""
    checks = World(POLICY).exchange()
    sent = headers("/v1/chat/completions", ("x-api-key", b"sk-ant-x"), key=None)
    verdict = await checks.judge_headers(sent, has_body=True)
    assert isinstance(verdict, RequestRefused)
    assert "a key of Anthropic" in json.loads(verdict.refusal.body)["error"]["message"]
    assert KEY.reveal() not in verdict.refusal.body.decode()


@pytest.mark.parametrize(
    ("header", "fix"),
    [
        (("content-encoding", b"gzip"), "Send the body without 'content-encoding'."),
        (("content-type", b"application/json; charset=utf-16"), "Send JSON in UTF-8."),
        (
            ("content-type", b"application/x-www-form-urlencoded"),
            "Send JSON, with 'content-type: application/json'.",
        ),
    ],
)
async def test_a_header_that_keeps_a_body_from_being_read_is_explained(
    header: tuple[str, bytes], fix: str
) -> None:
    """Curl without a content type sends a form."""
    checks = World(POLICY).exchange()
    verdict = await checks.judge_headers(headers("/v1/chat/completions", header), has_body=True)
    if not isinstance(verdict, RequestRefused):
        verdict = await checks.judge_body(b"{}")
    assert isinstance(verdict, RequestRefused)
    error = json.loads(verdict.refusal.body)["error"]
    assert error["code"] == "unscanned_content"
    assert f"does not let such content pass. {fix} Request id: " in error["message"]


async def test_an_unreadable_part_of_readable_json_has_no_fix_of_headers() -> None:
    """Base64 in a field that no API has, for example."""
    error = await _refusal({"model": "m", "messages": [], "future": "QUJD" * 999})
    assert error["code"] == "unscanned_content"
    assert "Send " not in error["message"]


@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2], [3]]], ids=["one text", "several texts"])
async def test_tokens_in_place_of_text_are_explained(tokens: list[object]) -> None:
    """LangChain sends embeddings like that unless it is set up not to."""
    error = await _refusal({"model": "m", "input": tokens}, path="/v1/embeddings")
    assert error["code"] == "unscanned_content"
    assert "Send texts in place of arrays of tokens" in error["message"]
    assert "check_embedding_ctx_length=False" in error["message"]


def test_a_body_too_large_to_be_read_again_has_no_places() -> None:
    """It would keep the worker for longer than the answer is worth."""
    body = b'{"a": "%s"}' % (b"x" * MAX_SEARCHED_BYTES)
    assert places_of(body, [(1,)], names=NAMES) == []
    assert places_of(b"{", [(1,)], names=NAMES) == []


def test_a_body_of_too_many_values_has_no_places() -> None:
    """To walk through half a million numbers held all other requests for 150 ms."""
    body = json.dumps({"input": "a, b" * 5_000, "metadata": [1] * 9_000}).encode()
    assert places_of(body, [(1,)], names=NAMES) == ["input"]
    heavy = body.replace(b"]", b", 1" * 2_000 + b"]")
    assert places_of(heavy, [(1,)], names=NAMES) == []


def test_a_place_deep_in_a_body_is_cut() -> None:
    """However deep the body is."""
    body = b'{"messages":' * 60 + b'"x"' + b"}" * 60
    (place,) = places_of(body, [(60,)], names=NAMES)
    assert len(place) == MAX_PLACE_CHARACTERS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["messages", "content", "seed", "text", "x", "type"]), inner
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "tools", "seed", "y"]), JSON))
def test_every_text_that_was_read_is_found_again(document: dict[str, object]) -> None:
    """The count of strings and numbers is that of the reader, whatever the body holds."""
    extractor = TextExtractor(VOCABULARIES[Dialect.OPENAI])
    run_sync(extractor.document(json.loads(json.dumps(document))))
    body = json.dumps(document).encode()
    for part in extractor.parts:
        (place,) = places_of(body, [part.location], names=frozenset({"y", "x", *NAMES}))
        value = _at(document, place)
        shown = str(value) if isinstance(value, (str, int)) else place.rpartition(".")[2]
        if len(part.location) == 1:
            key = place.rpartition(".")[2]
            assert part.content.decode() in {shown, key}


def _at(document: object, place: str) -> object:
    for step in place.replace("[", ".[").split("."):
        if isinstance(document, list) and step.startswith("["):
            document = document[int(step[1:-1])]
        elif isinstance(document, dict):
            document = document[step]
    return document
