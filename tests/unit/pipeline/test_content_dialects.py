"""Models named in paths, and refusals in each API's own words."""

from __future__ import annotations

import base64
import json
import random

import pytest

from sidecar.domain.http import Headers, Refusal
from sidecar.redaction.redact import own_number
from tests.support.events import RequestCleared, RequestRefused
from tests.support.pipeline import REQUEST_ID, World, headers

POLICY = """
name: default
allowed_models: ["gpt-5*", "gemini-2*", "anthropic.claude-*:0"]
guardrails: [{name: pii, type: pii, action: redact}]
unscanned: allow
"""
AZURE = "/openai/deployments/{}/chat/completions?api-version=2024-10-21"
GEMINI = "/v1beta/models/{}:streamGenerateContent?alt=sse"
BEDROCK = "/model/{}/converse"
BEDROCK_COUNT = "/model/m/count-tokens"
NOT_ALLOWED = f"This API key may not use the requested model. Request id: {REQUEST_ID}."
HELLO: dict[str, object] = {"messages": [], "contents": []}


async def _judged(path: str, body: object, *more: tuple[str, bytes]) -> Refusal | None:
    """Return the refusal of a request, None where it goes on."""
    checks = World(POLICY).exchange()
    verdict = await checks.judge_headers(headers(path, *more), has_body=True)
    if not isinstance(verdict, RequestRefused):
        verdict = await checks.judge_body(json.dumps(body).encode())
    if isinstance(verdict, RequestRefused):
        return verdict.refusal
    assert isinstance(verdict, RequestCleared)
    return None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (AZURE.format("gpt-5-eu"), HELLO),
        (AZURE.format("gpt-5-eu"), {**HELLO, "model": "gpt-5"}),
        (GEMINI.format("gemini-2.5-pro"), HELLO),
        (GEMINI.format("gemini-2.5-pro"), {**HELLO, "model": "models/gemini-2.5-pro"}),
        (BEDROCK.format("anthropic.claude-v2%3A0"), HELLO),
    ],
)
async def test_a_model_in_the_path_is_allowed_by_the_list(path: str, body: object) -> None:
    """A body may repeat it, or name another one that is allowed."""
    assert await _judged(path, body) is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (AZURE.format("o3"), HELLO),
        (AZURE.format("o3"), {**HELLO, "model": "gpt-5"}),
        (AZURE.format("gpt-5"), {**HELLO, "model": "o3"}),
        (GEMINI.format("other"), {**HELLO, "model": "models/gemini-2.5-pro"}),
        (GEMINI.format("gemini-2.5-pro"), {**HELLO, "model": "models/other"}),
        (BEDROCK.format("other.claude"), {**HELLO, "model": "anthropic.claude-v2:0"}),
        (BEDROCK.format("anthropic.claude-v2%3A1"), HELLO),
        ("/v1/responses", {"model": "gpt-5", "input": "a", "models": ["o3"]}),
        (
            "/v1/responses",
            {
                "model": "gpt-5",
                "input": "a",
                "tools": [{"type": "image_generation", "model": "i"}],
            },
        ),
        ("/v1/messages", {**HELLO, "model": "gpt-5", "fallbacks": [{"model": "o3"}]}),
        ("/v1/messages", {**HELLO, "model": "gpt-5", "fallbacks": "default"}),
    ],
)
async def test_neither_path_nor_body_can_name_a_model_past_the_list(
    path: str, body: object
) -> None:
    """Whichever of them a provider goes by, it was judged."""
    refusal = await _judged(path, body)
    assert refusal is not None
    assert (refusal.status, refusal.details) == (403, "egret_model_not_allowed")


async def test_an_unread_body_of_an_allowed_deployment_goes_on() -> None:
    """The path tells the model of an upload as well; a plain path does not."""
    form = ("content-type", b"multipart/form-data; boundary=x")
    path = "/openai/deployments/{}/audio/transcriptions"
    assert await _judged(path.format("gpt-5-voice"), "--x", form) is None
    for refused in (path.format("whisper"), "/v1/audio/transcriptions"):
        refusal = await _judged(refused, "--x", form)
        assert refusal is not None
        assert refusal.details == "egret_model_not_allowed"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            AZURE.format("o3"),
            {
                "error": {
                    "message": NOT_ALLOWED,
                    "type": "invalid_request_error",
                    "param": "model",
                    "code": "model_not_allowed",
                }
            },
        ),
        (
            GEMINI.format("other"),
            {
                "error": {
                    "code": 403,
                    "message": NOT_ALLOWED,
                    "status": "PERMISSION_DENIED",
                    "details": [
                        {
                            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                            "reason": "MODEL_NOT_ALLOWED",
                            "domain": "egret",
                        },
                        {
                            "@type": "type.googleapis.com/google.rpc.RequestInfo",
                            "requestId": REQUEST_ID,
                        },
                    ],
                }
            },
        ),
        (
            BEDROCK.format("other"),
            {"message": NOT_ALLOWED},
        ),
    ],
)
async def test_a_refusal_is_worded_as_the_api_words_its_own(path: str, body: object) -> None:
    """Unchanged client libraries raise the right error."""
    refusal = await _judged(path, HELLO)
    assert refusal is not None
    assert json.loads(refusal.body) == body
    is_typed = ("x-amzn-errortype", b"AccessDeniedException") in refusal.headers
    assert is_typed is path.startswith("/model/")


async def test_a_key_in_the_query_is_refused_in_googles_words() -> None:
    """Beside a good key in a header as well: it would be sent on."""
    refusal = await _judged(GEMINI.format("gemini-2.5-pro") + "&key=AIza", HELLO)
    assert refusal is not None
    assert refusal.status == 401
    assert json.loads(refusal.body)["error"]["status"] == "UNAUTHENTICATED"
    assert b"AIza" not in refusal.body


async def test_two_turns_of_a_stored_response_share_no_placeholder() -> None:
    """Of the second the provider gets the new text alone, and reads the first's placeholders."""
    bodies: list[bytes] = []
    for request in (REQUEST_ID, REQUEST_ID.replace("5", "6")):
        checks = World(POLICY).exchange()
        sent = dict(headers("/v1/responses").fields) | {"x-request-id": request.encode()}
        await checks.judge_headers(Headers(tuple(sent.items())), has_body=True)
        turn = {"model": "gpt-5", "previous_response_id": "r", "input": "ann@example.org"}
        verdict = await checks.judge_body(json.dumps(turn).encode())
        assert isinstance(verdict, RequestCleared)
        bodies.append(verdict.mutations.body or b"")
    assert all(b"[EMAIL_" in body for body in bodies)
    assert bodies[0] != bodies[1]


VERTEX_MODELS = "projects/p/locations/eu/publishers/google/models"
VERTEX = "/v1/projects/p/locations/eu"


@pytest.mark.parametrize(
    ("path", "body", "is_allowed"),
    [
        ("/v1/conversations", {"items": [{"role": "user", "content": "a"}]}, True),
        ("/v1/conversations/conv_1/items", {"items": [{"tools": [{"model": "o3"}]}]}, False),
        ("/v1/decisions", {"model": "gpt-5", "input": "a", "questions": []}, True),
        ("/v1/decisions", {"model": "o3", "input": "a", "questions": []}, False),
        ("/v1beta/cachedContents", {**HELLO, "model": "models/gemini-2.5-pro"}, True),
        ("/v1beta/cachedContents", {**HELLO, "model": "models/other"}, False),
        ("/v1beta/cachedContents", HELLO, False),
        (f"{VERTEX}/cachedContents", {**HELLO, "model": f"{VERTEX_MODELS}/gemini-2.5-pro"}, True),
        (f"{VERTEX}/cachedContents", {**HELLO, "model": f"{VERTEX_MODELS}/other"}, False),
        ("/v1beta/interactions", {"model": "gemini-2.5-pro", "input": "a"}, True),
        ("/v1beta/interactions", {"model": "other", "input": "a"}, False),
        ("/v1beta/interactions", {"agent": "gemini-2-agent", "input": "a"}, True),
        ("/v1beta/interactions", {"agent": "deep-research", "input": "a"}, False),
        (
            "/v1beta/interactions",
            {"model": "gemini-2.5-pro", "agent": "deep", "input": "a"},
            False,
        ),
    ],
)
async def test_content_is_stored_for_allowed_models_alone(
    path: str, body: object, *, is_allowed: bool
) -> None:
    """A conversation needs none; a tool in it may name one."""
    refusal = await _judged(path, body)
    assert (refusal is None) is is_allowed
    assert refusal is None or refusal.details == "egret_model_not_allowed"


BLOCKING = """
name: default
guardrails:
  - {name: words, type: denied_terms, terms: [Bluebird], routes: [chat, generate_content]}
"""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/conversations", {"items": [{"role": "user", "content": "Bluebird"}]}),
        (
            "/v1/conversations/conv_1/items",
            {"items": [{"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "Blue"}, {"type": "input_text", "text": "bird"}
            ]}]},
        ),
        ("/v1/conversations/conv_1", {"metadata": {"topic": "Bluebird"}}),
        ("/v1/decisions", {"model": "m", "input": "a", "questions": [{"text": "Bluebird"}]}),
        ("/openai/v1/conversations", {"items": [{"type": "reasoning", "summary": "Bluebird"}]}),
        ("/v1beta/cachedContents", {"model": "models/m", "systemInstruction": "Bluebird"}),
        ("/v1beta/cachedContents/c-1", {"displayName": "Bluebird"}),
    ],
)  # fmt: skip
async def test_stored_text_is_searched_by_the_guardrails_of_every_operation(
    path: str, body: object
) -> None:
    """A later chat reads it, and names only its id."""
    checks = World(BLOCKING).exchange()
    method = "PATCH" if path.endswith("c-1") else "POST"
    await checks.judge_headers(headers(path, method=method), has_body=True)
    verdict = await checks.judge_body(json.dumps(body).encode())
    assert isinstance(verdict, RequestRefused)
    assert verdict.refusal.details == "egret_content_blocked"


REDACTING = "{name: default, guardrails: [{name: pii, type: pii, action: redact}]}"


async def test_items_of_a_stored_conversation_have_placeholders_of_their_own() -> None:
    """The provider has the earlier items, in which `[EMAIL_1]` is another person."""
    checks = World(REDACTING).exchange()
    await checks.judge_headers(headers("/v1/conversations/conv_1/items"), has_body=True)
    items = [{"role": "user", "content": "bob@example.com"}]
    verdict = await checks.judge_body(json.dumps({"items": items}).encode())
    assert isinstance(verdict, RequestCleared)
    said: str = json.loads(verdict.mutations.body or b"")["items"][0]["content"]
    assert said == f"[EMAIL_{own_number(REQUEST_ID) + 1}]"


async def test_findings_are_replaced_within_the_base64_of_a_request_to_count() -> None:
    """An address that is split over two texts is replaced piece by piece, and a number as one."""
    texts = [{"type": "text", "text": text} for text in ("Ask bob@exam", "ple.com.")]
    inner = {"messages": [{"role": "user", "content": texts}], "x": {"card": 4111111111111111}}
    encoded = base64.b64encode(json.dumps(inner).encode()).decode()
    checks = World(REDACTING).exchange()
    await checks.judge_headers(headers(BEDROCK_COUNT), has_body=True)
    body = json.dumps({"input": {"invokeModel": {"body": encoded}}}).encode()
    verdict = await checks.judge_body(body)
    assert isinstance(verdict, RequestCleared)
    sent = json.loads(verdict.mutations.body or b"")["input"]["invokeModel"]["body"]
    changed = json.loads(base64.b64decode(sent, validate=True))
    said = "".join(one["text"] for one in changed["messages"][0]["content"])
    assert "bob" not in said
    assert "ple.com" not in said
    assert changed["x"] == {"card": "[CREDIT_CARD_1]"}


_RANDOM = random.Random(7)  # noqa: S311 - no secret
SEALED = base64.b64encode(
    _RANDOM.randbytes(6_000) + b"\xff\xfea@bcd.io\xfe\xff" + _RANDOM.randbytes(6_000)
).decode()
USER = {"role": "user", "content": "Hello."}


def _by_assistant(part: object) -> dict[str, object]:
    return {"messages": [USER, {"role": "assistant", "content": [part]}, USER]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": [{"type": "reasoning", "encrypted_content": SEALED}]}),
        ("/v1/messages", _by_assistant({"type": "thinking", "thinking": "", "signature": SEALED})),
        ("/v1/messages", _by_assistant({"type": "redacted_thinking", "data": SEALED})),
        (
            GEMINI.format("gemini-2.5-pro"),
            {"contents": [{"role": "model", "parts": [{"thoughtSignature": SEALED}]}]},
        ),
    ],
)
async def test_reasoning_that_a_provider_sealed_leaves_as_it_came(path: str, body: object) -> None:
    """Eight bytes that read as an address turn up among random ones; the rest would be lost."""
    checks = World(REDACTING).exchange()
    await checks.judge_headers(headers(path), has_body=True)
    verdict = await checks.judge_body(json.dumps(body).encode())
    assert isinstance(verdict, RequestCleared)
    assert verdict.mutations.body is None
