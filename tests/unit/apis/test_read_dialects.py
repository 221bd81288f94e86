"""What is read of the newer APIs: each string once, media by kind, models wherever named."""

from __future__ import annotations

import json

import pytest

from sidecar.apis.request_text import read_request
from sidecar.domain.http import Headers
from sidecar.domain.subject import Malformed, Subject, Unreadable, UnscannedReason
from sidecar.jsontext.strict import JsonValue
from tests.support.routes import route_of

RESPONSES = "/v1/responses"
GENERATE = "/v1beta/models/gemini-2.5-pro:generateContent"
GOOGLE_CHAT = "/v1beta/openai/chat/completions"
VERTEX_CHAT = "/v1/projects/p/locations/eu/endpoints/openapi/chat/completions"
CONVERSE = "/model/anthropic.claude-v2%3A1/converse"
INVOKE = "/model/anthropic.claude-v2%3A1/invoke"
MESSAGES = "/v1/messages"
AZURE = "/openai/deployments/our-gpt/chat/completions?api-version=2024-10-21"
PNG = "iVBORw0KGgo" + "A" * 400 + "=="
HIDDEN_CHAT: dict[str, JsonValue] = {"messages": [{"role": "user", "content": "hi"}]}
HIDDEN = [{"role": "user", "parts": [{"text": "hi"}]}]


def _read(body: JsonValue, path: str) -> Subject | Unreadable | Malformed:
    return read_request(route_of(path), Headers(), json.dumps(body).encode())


def _subject(body: JsonValue, path: str) -> Subject:
    subject = _read(body, path)
    assert isinstance(subject, Subject)
    return subject


def _texts(subject: Subject) -> list[str]:
    return [part.content.decode() for part in subject.parts]


def _item(**fields: JsonValue) -> JsonValue:
    return {"model": "gpt-5", "input": [fields]}


def _parts(*parts: JsonValue) -> JsonValue:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


def _blocks(*blocks: JsonValue) -> dict[str, JsonValue]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def _result(tool: str, kind: str, **fields: JsonValue) -> JsonValue:
    content: JsonValue = {"type": f"{kind}_result", **fields}
    return _blocks({"type": f"{tool}_tool_result", "tool_use_id": "t", "content": content})


TEXTS = [
    (RESPONSES, {"input": "S"}),
    (RESPONSES, {"input": [{"role": "user", "content": "S"}]}),
    (RESPONSES, _item(role="user", content=[{"type": "input_text", "text": "S"}])),
    (RESPONSES, _item(type="function_call", call_id="c", name="f", arguments="S")),
    (RESPONSES, _item(type="function_call_output", call_id="c", output="S")),
    (RESPONSES, _item(type="reasoning", summary=[{"type": "summary_text", "text": "S"}])),
    (RESPONSES, _item(type="custom_tool_call", name="f", input="S")),
    (RESPONSES, _item(type="web_search_call", action={"type": "search", "query": "S"})),
    (RESPONSES, {"input": "a", "instructions": "S"}),
    (RESPONSES, {"prompt": {"id": "p", "variables": {"name": "S"}}}),
    (RESPONSES, {"prompt": {"id": "p", "variables": {"S": "a"}}}),
    (RESPONSES, {"input": "a", "tools": [{"type": "function", "description": "S"}]}),
    (RESPONSES, {"input": "a", "tools": [{"type": "function", "parameters": {"S": 1}}]}),
    (RESPONSES, {"input": "a", "text": {"format": {"type": "json_schema", "schema": {"S": 1}}}}),
    (RESPONSES, {"input": "a", "metadata": {"k": "S"}}),
    ("/v1/moderations", {"input": ["a", "S"]}),
    ("/v1/images/generations", {"prompt": "S"}),
    ("/v1/images/edits", {"prompt": "S"}),
    ("/v1/audio/speech", {"input": "S", "voice": "alloy"}),
    ("/v1/audio/speech", {"input": "a", "instructions": "S"}),
    (AZURE, _blocks({"type": "text", "text": "S"})),
    (GENERATE, _parts({"text": "S"})),
    (GENERATE, {"contents": {"parts": {"text": "S"}}}),
    (GENERATE, {"contents": HIDDEN, "systemInstruction": {"parts": [{"text": "S"}]}}),
    (GENERATE, {"contents": HIDDEN, "system_instruction": {"parts": {"text": "S"}}}),
    (GENERATE, _parts({"functionCall": {"name": "f", "args": {"a": "S"}}})),
    (GENERATE, _parts({"functionCall": {"name": "f", "args": {"S": 1}}})),
    (GENERATE, _parts({"functionResponse": {"name": "f", "response": {"a": ["S"]}}})),
    (GENERATE, _parts({"function_response": {"name": "f", "response": {"S": 1}}})),
    (GENERATE, _parts({"executableCode": {"language": "PYTHON", "code": "S"}})),
    (GENERATE, _parts({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "S"}})),
    (GENERATE, {"contents": HIDDEN, "tools": [{"functionDeclarations": [{"description": "S"}]}]}),
    (GENERATE, {"contents": HIDDEN, "generationConfig": {"stopSequences": ["S"]}}),
    (GENERATE, {"contents": HIDDEN, "generationConfig": {"responseSchema": {"S": 1}}}),
    (GENERATE, {"contents": HIDDEN, "cachedContent": "S"}),
    (GENERATE, {"contents": HIDDEN, "labels": {"S": "a"}}),
    (GENERATE, {"contents": HIDDEN, "Contents": [{"parts": [{"text": "S"}]}]}),
    ("/v1/models/g:countTokens", {"generateContentRequest": _parts({"text": "S"})}),
    ("/v1beta/models/g:embedContent", {"content": {"parts": [{"text": "S"}]}, "title": "t"}),
    ("/v1beta/models/g:batchEmbedContents", {"requests": [{"content": {"parts": {"text": "S"}}}]}),
    (CONVERSE, _blocks({"text": "S"})),
    (CONVERSE, {"system": [{"text": "S"}]}),
    (CONVERSE, {"promptVariables": {"name": {"text": "S"}}}),
    (CONVERSE, _blocks({"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": "S"}}})),
    (CONVERSE, _blocks({"toolUse": {"toolUseId": "t", "name": "f", "input": {"S": 1}}})),
    (CONVERSE, _blocks({"toolResult": {"toolUseId": "t", "content": [{"json": {"S": 1}}]}})),
    (CONVERSE, _blocks({"toolResult": {"toolUseId": "t", "content": [{"text": "S"}]}})),
    (CONVERSE, _blocks({"guardContent": {"text": {"text": "S"}}})),
    (CONVERSE, _blocks({"reasoningContent": {"reasoningText": {"text": "S"}}})),
    (CONVERSE, _blocks({"document": {"format": "txt", "name": "S", "source": {"text": "a"}}})),
    (CONVERSE, _blocks({"document": {"format": "txt", "name": "a", "source": {"text": "S"}}})),
    (CONVERSE, {"toolConfig": {"tools": [{"toolSpec": {"inputSchema": {"json": {"S": 1}}}}]}}),
    (CONVERSE, {"additionalModelRequestFields": {"top_k": "S"}}),
    (INVOKE, {"anthropic_version": "v", **_blocks({"type": "text", "text": "S"})}),
    (INVOKE, {"inputText": "S"}),
    (INVOKE, {"prompt": "S", "max_gen_len": 9}),
]


@pytest.mark.parametrize(("path", "body"), TEXTS)
def test_text_is_read_wherever_it_stands(path: str, body: JsonValue) -> None:
    """Every string, and every name of a client's own, is a part; nothing of it is unscanned."""
    subject = _subject(body, path)
    assert "S" in _texts(subject)
    assert subject.unscanned == ()


IMAGE, AUDIO, FILE = UnscannedReason.IMAGE, UnscannedReason.AUDIO, UnscannedReason.FILE


URL = "https://a.test/x"
CONTAINER = {"type": "auto", "file_ids": ["file-1"]}


MEDIA = [
    (RESPONSES, {"input": "", "tools": [{"container": CONTAINER}]}, FILE),
    (AZURE, _blocks({"type": "image", "image": URL}), IMAGE),
    (AZURE, _blocks({"type": "video", "video": [URL, "data:image/png;base64,"]}), FILE),
    (AZURE, _blocks({"type": "video", "video": {"url": "oss"}}), FILE),
    (AZURE, _blocks({"type": "image_url", "image_url": [URL]}), IMAGE),
    (MESSAGES, _blocks({"type": "document", "source": [{"type": "url", "url": URL}]}), FILE),
    (GENERATE, _parts({"inlineData": [{"mimeType": "image/png", "data": PNG}]}), FILE),
    (AZURE, _blocks({"type": "input_audio", "input_audio": URL}), AUDIO),
    ("/v1/embeddings", {"input": [{"image": "gs://a/b"}]}, IMAGE),
    ("/v1/images/generations", {"prompt": "", "image": [URL]}, IMAGE),
    (
        RESPONSES,
        _item(content=[{"type": "input_image", "image_url": "data:image/png;base64," + PNG}]),
        IMAGE,
    ),
    (RESPONSES, _item(content=[{"type": "input_image", "file_id": "file-1"}]), FILE),
    (
        RESPONSES,
        _item(type="file_search_call", results=[{"type": "input_file", "file_id": "file-1"}]),
        FILE,
    ),
    (
        RESPONSES,
        _item(content=[{"type": "input_file", "filename": "a.pdf", "file_data": PNG}]),
        FILE,
    ),
    (RESPONSES, _item(content=[{"type": "input_file", "file_url": "https://a.test/x.pdf"}]), FILE),
    (
        RESPONSES,
        _item(content=[{"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}]),
        AUDIO,
    ),
    (RESPONSES, _item(type="computer_call_output", output={"type": "x", "image_url": "u"}), IMAGE),
    (GENERATE, _parts({"inlineData": {"mimeType": "image/png", "data": PNG}}), IMAGE),
    (GENERATE, _parts({"inline_data": {"mime_type": "audio/wav", "data": PNG}}), AUDIO),
    (GENERATE, _parts({"inlineData": {"mimeType": "application/pdf", "data": PNG}}), FILE),
    (GENERATE, _parts({"fileData": {"mimeType": "video/mp4", "fileUri": "https://a.test"}}), FILE),
    (GENERATE, _parts({"file_data": {"file_uri": "gs://a/b"}}), FILE),
    (CONVERSE, _blocks({"image": {"format": "png", "source": {"bytes": PNG}}}), IMAGE),
    (CONVERSE, _blocks({"audio": {"format": "mp3", "source": {"bytes": PNG}}}), AUDIO),
    (
        CONVERSE,
        _blocks({"document": {"format": "pdf", "name": "a", "source": {"bytes": PNG}}}),
        FILE,
    ),
    (
        CONVERSE,
        _blocks({"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://a"}}}}),
        FILE,
    ),
    (
        CONVERSE,
        _blocks(
            {"toolResult": {"content": [{"image": {"format": "png", "source": {"bytes": PNG}}}]}}
        ),
        IMAGE,
    ),
    (
        INVOKE,
        _blocks({"type": "image", "source": {"type": "base64", "data": PNG}}),
        IMAGE,
    ),
]


@pytest.mark.parametrize(("path", "body", "reason"), MEDIA)
def test_what_is_not_text_is_unscanned(
    path: str, body: JsonValue, reason: UnscannedReason
) -> None:
    """By kind, where it says its kind; its base64 is no text."""
    subject = _subject(body, path)
    assert subject.unscanned == (reason,)
    assert not [text for text in _texts(subject) if PNG in text]


def test_in_another_case_it_is_unscanned_and_text_as_well() -> None:
    """Should a provider take the name in any case: nothing is hidden either way."""
    subject = _subject(_parts({"InlineData": {"MimeType": "image/png", "Data": PNG}}), GENERATE)
    assert FILE in subject.unscanned
    assert PNG in _texts(subject)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            _blocks({"type": "image_url", "image_url": None, "Image_URL": {"url": "https://h/x"}}),
            IMAGE,
        ),
        (
            _blocks({"type": "image_url", "Image_URL": {"url": "https://h/x"}, "IMAGE_URL": None}),
            IMAGE,
        ),
        (
            _blocks({"image_url": {"detail": "low"}, "Image_URL": {"url": "https://h/x"}}),
            IMAGE,
        ),
        (HIDDEN_CHAT | {"Image": "https://h/x.png"}, IMAGE),
        (HIDDEN_CHAT | {"prompt": "hi", "Prompt": [1, 2]}, UnscannedReason.UNKNOWN_SHAPE),
        (HIDDEN_CHAT | {"PROMPT": [[1, 2]]}, UnscannedReason.UNKNOWN_SHAPE),
    ],
)
def test_beside_the_usual_name_another_case_is_noticed(
    body: JsonValue, reason: UnscannedReason
) -> None:
    """A provider that ignores case may take the last of them."""
    assert reason in _subject(body, "/v1/chat/completions").unscanned


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (GENERATE, _parts({"text": "a", "thoughtSignature": PNG})),
        (
            GENERATE,
            {
                "contents": HIDDEN,
                "generationConfig": {"topP": 1, "thinkingConfig": {"thinkingBudget": 0}},
            },
        ),
        (
            CONVERSE,
            _blocks(
                {"reasoningContent": {"redactedContent": PNG}}, {"cachePoint": {"type": "default"}}
            ),
        ),
        (RESPONSES, _item(type="reasoning", summary=[], encrypted_content=PNG)),
        (RESPONSES, _item(type="compaction", encrypted_content=PNG)),
        (RESPONSES, _item(type="program", code="a", fingerprint=PNG)),
        (RESPONSES, _item(type="shell_call_output", output=[{"stdout": PNG, "stderr": ""}])),
        (MESSAGES, _result("code_execution", "encrypted_code_execution", encrypted_stdout=PNG)),
        (MESSAGES, _result("advisor", "advisor_redacted", encrypted_content=PNG)),
        (MESSAGES, {**_blocks(), "fallback_credit_token": {"token": PNG}}),
        (GENERATE, _parts({"toolResponse": {"toolType": "SEARCH", "response": {"a": PNG}}})),
        (CONVERSE, _blocks({"searchResult": {"source": "a", "content": [{"text": PNG}]}})),
        (
            RESPONSES,
            _item(
                type="message",
                content=[
                    {
                        "type": "output_text",
                        "text": "a",
                        "annotations": [
                            {"type": "file_citation", "file_id": "file-1", "index": 1},
                            {"type": "url_citation", "url": URL, "title": "a"},
                        ],
                    }
                ],
            ),
        ),
        (
            MESSAGES,
            _blocks(
                {
                    "type": "text",
                    "text": "a",
                    "citations": [
                        {"type": "web_search_result_location", "url": URL, "encrypted_index": PNG}
                    ],
                }
            ),
        ),
        (
            RESPONSES,
            _item(
                type="file_search_call",
                results=[{"file_id": "file-1", "text": "a", "score": 0.5, "attributes": {}}],
            ),
        ),
        (
            MESSAGES,
            _blocks(
                {
                    "type": "bash_code_execution_tool_result",
                    "content": {
                        "type": "bash_code_execution_result",
                        "content": [{"type": "bash_code_execution_output", "file_id": "file-1"}],
                    },
                }
            ),
        ),
        (AZURE, _blocks({"type": "text", "text": "a", "image": "of a house", "audio": ["a"]})),
        (RESPONSES, {"input": "a", "tools": [{"container": {"type": "auto", "file_ids": []}}]}),
        (
            RESPONSES,
            {"input": "a", "tools": [{"type": "web_search"}], "store": False, "background": False},
        ),
    ],
)
def test_ordinary_requests_have_nothing_unscanned(path: str, body: JsonValue) -> None:
    """What only the provider that made it can read, and settings, block nobody."""
    subject = _subject(body, path)
    assert subject.unscanned == ()


@pytest.mark.parametrize(
    ("path", "body", "model", "others"),
    [
        (RESPONSES, {"input": "a"}, None, ()),
        (RESPONSES, {"model": "gpt-5", "input": "a"}, "gpt-5", ()),
        (RESPONSES, {"model": "gpt-5", "input": "a", "models": ["o3", "o3"]}, "gpt-5", ("o3",)),
        (RESPONSES, {"model": "o1", "input": "a", "models": ["o1", "o3"]}, "o1", ("o1", "o3")),
        (RESPONSES, {"input": "a", "models": ["o3"]}, None, ("o3",)),
        (AZURE, {"messages": []}, "our-gpt", ()),
        (AZURE, {"messages": [], "model": "our-gpt"}, "our-gpt", ()),
        (AZURE, {"messages": [], "model": "other"}, "our-gpt", ("other",)),
        (GOOGLE_CHAT, {"messages": [], "model": "gemini-2.5-pro"}, "gemini-2.5-pro", ()),
        (GOOGLE_CHAT, {"messages": [], "model": "models/gemini-2.5-pro"}, "gemini-2.5-pro", ()),
        (GOOGLE_CHAT, {"messages": [], "model": "tunedModels/ours"}, "tunedModels/ours", ()),
        (
            GOOGLE_CHAT,
            {"messages": [], "model": "models/g", "models": ["g", "models/other"]},
            "g",
            ("g", "other"),
        ),
        (VERTEX_CHAT, {"messages": [], "model": "google/gemini-2.5-pro"}, "gemini-2.5-pro", ()),
        (VERTEX_CHAT, {"messages": [], "model": "meta/llama"}, "meta/llama", ()),
        ("/v1beta/interactions", {"agent": "models/deep", "input": "a"}, "deep", ()),
        (
            VERTEX_CHAT,
            {
                "messages": [],
                "model": "projects/p/locations/eu/publishers/google/models/gemini-2.5-pro",
            },
            "gemini-2.5-pro",
            (),
        ),
        ("/v1/chat/completions", {"messages": [], "model": "models/ours"}, "models/ours", ()),
        ("/v1/chat/completions", {"messages": [], "model": "google/gemma"}, "google/gemma", ()),
        (GENERATE, {"contents": []}, "gemini-2.5-pro", ()),
        (GENERATE, {"contents": [], "model": "models/gemini-2.5-pro"}, "gemini-2.5-pro", ()),
        (GENERATE, {"contents": [], "model": "models/other"}, "gemini-2.5-pro", ("other",)),
        (
            "/v1/models/g:countTokens",
            {"generateContentRequest": {"model": "models/other"}},
            "g",
            ("other",),
        ),
        (
            "/v1/models/g:batchEmbedContents",
            {"requests": [{"model": "models/g"}, {"model": "models/other"}, 1]},
            "g",
            ("other",),
        ),
        (
            GENERATE,
            {
                "contents": [],
                "generationConfig": {"routingConfig": {"manualMode": {"modelName": "other"}}},
            },
            "gemini-2.5-pro",
            ("other",),
        ),
        (
            GENERATE,
            {
                "contents": [],
                "generation_config": {"routing_config": {"manual_mode": {"model_name": "other"}}},
                "tools": [
                    {
                        "retrieval": {
                            "vertexRagStore": {
                                "ragRetrievalConfig": {
                                    "ranking": {"llmRanker": {"modelName": "ranker"}}
                                }
                            }
                        }
                    }
                ],
            },
            "gemini-2.5-pro",
            ("other", "ranker"),
        ),
        (CONVERSE, {"messages": []}, "anthropic.claude-v2:1", ()),
        (INVOKE, {"model": "other"}, "anthropic.claude-v2:1", ("other",)),
    ],
)
def test_every_model_a_request_names_is_told(
    path: str, body: JsonValue, model: str | None, others: tuple[str, ...]
) -> None:
    """The path comes first, and a body cannot name another one unjudged."""
    subject = _subject(body, path)
    assert (subject.model, subject.other_models) == (model, others)


@pytest.mark.parametrize(
    ("path", "body", "streamed"),
    [
        (GENERATE, {"contents": []}, False),
        (GENERATE.replace("generate", "streamGenerate"), {"contents": []}, True),
        (CONVERSE, {}, False),
        (CONVERSE + "-stream", {}, True),
        (RESPONSES, {"input": "a", "stream": True}, True),
    ],
)
def test_a_stream_is_known_by_path_or_body(path: str, body: JsonValue, *, streamed: bool) -> None:
    """Each API says it in its own place."""
    assert _subject(body, path).streamed is streamed


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (RESPONSES, {"input": {"a": 1}}, "`input`"),
        (GENERATE, {}, "`contents`"),
        (GENERATE, {"contents": "S"}, "`contents`"),
        ("/v1/models/g:embedContent", {}, "`content`"),
        ("/v1/models/g:batchEmbedContents", {"content": {}}, "`requests`"),
        (CONVERSE, {"messages": "S"}, "`messages`"),
        (AZURE, {}, "`messages`"),
        (RESPONSES, {"input": "a", "Models": ["x"]}, "`models`"),
        (INVOKE, {"MODEL": "x"}, "`model`"),
        (MESSAGES, {"messages": [], "Fallbacks": ["x"]}, "`fallbacks`"),
        (MESSAGES, {"messages": [], "TOOLS": []}, "`tools`"),
        ("/v1/images/generations", {}, "`prompt`"),
        ("/v1/moderations", {}, "`input`"),
    ],
)
def test_a_wrong_shape_is_malformed_and_names_the_field(
    path: str, body: JsonValue, field: str
) -> None:
    """So that we and the provider read the same request."""
    malformed = _read(body, path)
    assert isinstance(malformed, Malformed)
    assert field in malformed.problem


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v1/images/edits", UnscannedReason.IMAGE),
        ("/openai/deployments/d/images/edits", UnscannedReason.IMAGE),
        ("/v1/audio/transcriptions", UnscannedReason.AUDIO),
        ("/v1/chat/completions", UnscannedReason.UNKNOWN_SHAPE),
    ],
)
def test_uploads_are_unreadable_by_kind(path: str, reason: UnscannedReason) -> None:
    """A form of several parts is not looked into; the policy says what becomes of it."""
    headers = Headers((("content-type", b"multipart/form-data; boundary=x"),))
    assert read_request(route_of(path), headers, b"--x") == Unreadable(reason)


def _runs(body: JsonValue, path: str) -> list[str]:
    subject = _subject(body, path)
    return ["|".join(_texts(subject)[index] for index in run) for run in subject.runs]


def test_texts_that_the_model_reads_as_one_are_told() -> None:
    """The parts of a message, and what one role says in a row; nothing across roles."""
    body: JsonValue = {
        "system": [{"type": "text", "text": "s1"}, {"type": "text", "text": "s2"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "u1"}, {"text": "u2"}]},
            {"role": "user", "content": "u3"},
            {"role": "assistant", "content": [{"type": "text", "text": "a1"}]},
            {"role": "user", "content": "u4", "name": "n"},
        ],
        "stop_sequences": ["x", "y"],
    }
    assert _runs(body, "/v1/messages") == ["s1|s2", "u1|u2|u3"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            RESPONSES,
            _item(
                role="user",
                content=[{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
            ),
        ),
        (
            RESPONSES,
            {"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        ),
        (GENERATE, _parts({"text": "a"}, {"inlineData": {"data": PNG}}, {"text": "b"})),
        (
            GENERATE,
            {"contents": [], "systemInstruction": {"parts": [{"text": "a"}, {"text": "b"}]}},
        ),
        ("/v1/models/g:embedContent", {"content": {"parts": [{"text": "a"}, {"text": "b"}]}}),
        (CONVERSE, _blocks({"text": "a"}, {"text": "b"})),
        ("/v1/chat/completions", _blocks("a", "b")),
        (GENERATE, {"contents": {"parts": [{"text": "a"}, {"text": "b"}]}}),
        (
            "/v1/models/g:countTokens",
            {
                "generateContentRequest": {
                    "contents": [{"parts": [{"text": "a"}, {"text": "b"}]}],
                }
            },
        ),
        (
            "/v1/models/g:countTokens",
            {
                "generateContentRequest": {
                    "systemInstruction": {"parts": [{"text": "a"}, {"text": "b"}]},
                }
            },
        ),
        (
            "/v1/models/g:batchEmbedContents",
            {
                "requests": [
                    {"content": {"parts": [{"text": "a"}, {"text": "b"}]}},
                    {"content": {"parts": [{"text": "c"}]}},
                ]
            },
        ),
        (
            "/model/c/count-tokens",
            {"input": {"converse": _blocks({"text": "a"}, {"text": "b"})}},
        ),
        (
            "/model/c/count-tokens",
            {"input": {"converse": {"system": [{"text": "a"}, {"text": "b"}], "messages": []}}},
        ),
        (
            "/v1/chat/completions",
            {
                "messages": [],
                "prediction": {
                    "type": "content",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
            },
        ),
    ],
)
def test_runs_are_known_in_every_dialect(path: str, body: JsonValue) -> None:
    """An image between two pieces does not part them."""
    assert _runs(body, path) == ["a|b"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": ["a", "b"]}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/chat/completions", _blocks({"type": "text", "text": "a"})),
        (GENERATE, _parts({"functionCall": {"args": {"text": "a", "content": "b"}}})),
        ("/v1/messages", _blocks({"type": "tool_use", "input": {"text": "a", "content": "b"}})),
    ],
)
def test_texts_that_stand_by_themselves_are_no_run(path: str, body: JsonValue) -> None:
    """Inputs to embed one by one, tool arguments, a message of one part."""
    assert _subject(body, path).runs == ()
