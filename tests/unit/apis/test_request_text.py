from __future__ import annotations

import base64
import json
import re
from functools import partial
from hashlib import sha512

import pytest

from sidecar.apis.request_text import (
    MOST_MEMBERS,
    SLICE_STRINGS,
    read_in_slices,
    read_request,
)
from sidecar.apis.routes import recognise
from sidecar.domain.http import Headers
from sidecar.domain.subject import (
    Malformed,
    Route,
    Subject,
    TextPart,
    Unreadable,
    UnscannedReason,
)
from sidecar.jsontext.strict import JsonValue
from tests.support.cpu_time import python_calls, python_lines
from tests.support.routes import route_of

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
CONVERSE = "/model/m/converse"
PNG = "iVBORw0KGgo" + "A" * 120 + "=="
BEDROCK_SOURCES: dict[str, JsonValue] = {
    "document": {"document": {"name": "d", "format": "txt", "source": {"text": "S"}}},
    "document in parts": {"document": {"name": "d", "source": {"content": [{"text": "S"}]}}},
    "context of a document": {"document": {"name": "d", "context": "S", "source": {"text": "t"}}},
    "search result": {"searchResult": {"source": "s", "title": "t", "content": [{"text": "S"}]}},
}


def _read(body: JsonValue, path: str = CHAT) -> Subject | Unreadable | Malformed:
    return read_request(route_of(path), Headers(), json.dumps(body).encode())


def _subject(body: JsonValue, path: str = CHAT) -> Subject:
    subject = _read(body, path)
    assert isinstance(subject, Subject)
    return subject


def _user(*content: JsonValue) -> JsonValue:
    return {"model": "m", "messages": [{"role": "user", "content": list(content)}]}


def _texts(subject: Subject) -> list[str]:
    return [part.content.decode() for part in subject.parts]


def test_a_chat_is_read_with_roles_and_locations() -> None:
    """Each text has its message's role, or the field's name, and the place of its token."""
    subject = _subject(
        {
            "model": "gpt-4o",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "héllo"}]},
            ],
            "stream": True,
        }
    )
    assert subject == Subject(
        model="gpt-4o",
        streamed=True,
        parts=(
            TextPart(b"gpt-4o", (1,), "model"),
            TextPart(b"Be brief.", (6,), "system"),
            TextPart("héllo".encode(), (13,), "user"),
        ),
    )


def test_a_message_of_role_and_content_alone_is_read_in_either_order() -> None:
    """An empty text is no part, and a role that no provider has is a text."""
    subject = _subject(
        {
            "messages": [
                {"content": "first", "role": "user"},
                {"role": "user", "content": ""},
                {"role": "unknown", "content": "second"},
                {"role": "assistant", "content": '{"said": "third\\u002e"}'},
            ],
        }
    )
    assert [(part.content, part.location, part.role) for part in subject.parts] == [
        (b"first", (2,), "user"),
        (b"unknown", (10,), "unknown"),
        (b"second", (12,), "unknown"),
        (b'{"said": "third\\u002e"}', (16,), "assistant"),
        (b"third.", (16, 1), "assistant"),
    ]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"type": "tool_result", "tool_use_id": "1", "content": "S"}, id="result"),
        pytest.param({"type": "function_call_output", "output": "S"}, id="output"),
        pytest.param({"type": "document", "source": {"type": "text", "data": "S"}}, id="document"),
        pytest.param({"type": "mcp_call", "arguments": "U", "output": "S"}, id="call of a server"),
        pytest.param({"type": "file_search_call", "results": [{"text": "S"}]}, id="search"),
        pytest.param({"functionResponse": {"name": "f", "response": {"x": "S"}}}, id="Gemini"),
        pytest.param({"function_response": {"response": {"x": "S"}}}, id="Gemini's other case"),
        pytest.param({"codeExecutionResult": {"output": "S"}}, id="Gemini's code"),
        pytest.param({"toolResult": {"toolUseId": "1", "content": [{"text": "S"}]}}, id="Bedrock"),
        *(
            pytest.param(one, id=f"Bedrock's {name}{where}")
            for name, content in BEDROCK_SOURCES.items()
            for where, one in (
                (" in a result", {"toolResult": {"toolUseId": "1", "content": [content]}}),
                ("", content),
            )
        ),
    ],
)
def test_what_a_tool_returned_is_no_users_word(said: dict[str, JsonValue]) -> None:
    """Dialects put it into a user's message; it has the role of a tool all the same."""
    path = CONVERSE if said.keys() & {"toolResult", "document", "searchResult"} else CHAT
    subject = _subject(_user(said, {"type": "text", "text": "U"}), path)
    roles = {part.content: part.role for part in subject.parts}
    assert (roles[b"S"], roles[b"U"], subject.unscanned) == ("tool", "user", ())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(CHAT, {"messages": [{"role": "tool", "content": "S"}]}, id="tool message"),
        pytest.param(CHAT, {"messages": [{"role": "x", "content": "S"}]}, id="unknown role"),
        pytest.param(CHAT, {"messages": [{"content": "S"}]}, id="no role"),
        pytest.param(CHAT, {"messages": [{"role": "S"}]}, id="the role itself"),
        pytest.param(CHAT, {"messages": [{"role": "user", "name": "S"}]}, id="name"),
        pytest.param(CHAT, {"messages": [], "MESSAGES": [{"content": "S"}]}, id="other case"),
        pytest.param(CHAT, {"messages": [], "x": {"y": ["S"]}}, id="unknown field"),
        pytest.param(CHAT, {"messages": [], "x": {"S": 1}}, id="unknown key"),
        pytest.param(CHAT, {"messages": [], "user": "S"}, id="user"),
        pytest.param(CHAT, {"messages": [], "stop": ["S"]}, id="stop"),
        pytest.param(
            CHAT, {"messages": [], "tools": [{"function": {"description": "S"}}]}, id="tool"
        ),
        pytest.param(CHAT, _user({"type": "refusal", "refusal": "S"}), id="refusal"),
        pytest.param(CHAT, _user({"type": "new", "stuff": {"more": "S"}}), id="unknown part"),
        pytest.param(CHAT, _user({"type": "S"}), id="type"),
        pytest.param(CHAT, _user({"type": "text", "text": "a", "data": "S"}), id="extra field"),
        pytest.param(CHAT, _user("S"), id="bare string in content"),
        pytest.param(
            MESSAGES, {"messages": [], "system": [{"type": "text", "text": "S"}]}, id="system"
        ),
        pytest.param(MESSAGES, _user({"type": "thinking", "thinking": "S"}), id="thinking"),
        pytest.param(MESSAGES, _user({"type": "redacted_thinking", "data": "S"}), id="redacted"),
        pytest.param(
            MESSAGES, _user({"type": "tool_use", "input": {"a": {"b": "S"}}}), id="input"
        ),
        pytest.param(MESSAGES, _user({"type": "tool_use", "input": {"S": 1}}), id="input key"),
        pytest.param(MESSAGES, _user({"type": "tool_result", "content": "S"}), id="tool_result"),
        pytest.param(
            MESSAGES,
            _user({"type": "document", "source": {"type": "text", "data": "S"}, "title": "t"}),
            id="text document",
        ),
        pytest.param("/v1/completions", {"prompt": "S"}, id="prompt"),
        pytest.param("/v1/completions", {"prompt": ["a", "S"], "suffix": "b"}, id="prompts"),
        pytest.param("/v1/embeddings", {"input": ["a", "S"]}, id="inputs"),
        pytest.param("/v1/messages/count_tokens", _user({"text": "S"}), id="count_tokens"),
    ],
)
def test_text_is_scanned_wherever_it_stands(path: str, body: JsonValue) -> None:
    """Every string, and every key of a client's own, is a part and nothing is unscanned."""
    subject = _subject(body, path)
    assert "S" in _texts(subject)
    assert subject.unscanned == ()


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        pytest.param(
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            UnscannedReason.IMAGE,
            id="OpenAI image",
        ),
        pytest.param(
            {"image_url": f"data:image/png;base64,{PNG}"}, UnscannedReason.IMAGE, id="no type"
        ),
        pytest.param(
            {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
            UnscannedReason.AUDIO,
            id="OpenAI audio",
        ),
        pytest.param(
            {"type": "file", "file": {"file_data": PNG, "filename": "a.pdf"}},
            UnscannedReason.FILE,
            id="OpenAI file",
        ),
        pytest.param(
            {"type": "image", "source": {"type": "base64", "data": PNG}},
            UnscannedReason.IMAGE,
            id="Anthropic image",
        ),
        pytest.param(
            {"type": "document", "source": {"type": "base64", "data": PNG}},
            UnscannedReason.FILE,
            id="Anthropic document",
        ),
        pytest.param(
            {
                "type": "tool_result",
                "content": [{"type": "image", "source": {"type": "base64", "data": PNG}}],
            },
            UnscannedReason.IMAGE,
            id="image in a tool result",
        ),
    ],
)
def test_base64_of_a_part_is_unscanned(part: JsonValue, reason: UnscannedReason) -> None:
    """Images, sound and files are counted by kind, and their base64 is no text."""
    subject = _subject(_user({"type": "text", "text": "Look:"}, part))
    assert subject.unscanned == (reason,)
    assert "Look:" in _texts(subject)
    assert not [text for text in _texts(subject) if PNG in text]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        pytest.param(
            {"type": "image_url", "image_url": {"url": "S"}}, UnscannedReason.IMAGE, id="URL"
        ),
        pytest.param(
            {"type": "image_url", "image_url": {"url": "u", "x": "S"}},
            UnscannedReason.IMAGE,
            id="beside the payload",
        ),
        pytest.param(
            {"type": "image_url", "image_url": {"url": PNG}, "text": "S"},
            UnscannedReason.IMAGE,
            id="text of an image part",
        ),
        pytest.param(
            {"type": "image", "source": {"type": "base64", "data": "S"}},
            UnscannedReason.IMAGE,
            id="text as payload",
        ),
        pytest.param(
            {"type": "input_audio", "input_audio": {"data": PNG, "format": "S"}},
            UnscannedReason.AUDIO,
            id="audio format",
        ),
        pytest.param({"type": "file", "file": {"file_id": "S"}}, UnscannedReason.FILE, id="id"),
        pytest.param(
            {"type": "container_upload", "file_id": "S"}, UnscannedReason.FILE, id="upload"
        ),
        pytest.param(
            {"Type": "image_url", "Image_URL": {"URL": "S"}}, UnscannedReason.IMAGE, id="case"
        ),
        pytest.param(
            {"type": "video_url", "video_url": {"url": "S"}}, UnscannedReason.FILE, id="video"
        ),
        pytest.param(
            {"type": "audio_url", "audio_url": {"url": "S"}}, UnscannedReason.AUDIO, id="sound"
        ),
        pytest.param(
            {"type": "document_url", "document_url": "S"}, UnscannedReason.FILE, id="document"
        ),
    ],
)
def test_other_strings_of_such_a_part_are_scanned(
    part: JsonValue, reason: UnscannedReason
) -> None:
    """Only base64 in the payload's own field is exempt, so a part cannot carry text past us."""
    subject = _subject(_user(part))
    assert "S" in _texts(subject)
    assert subject.unscanned == (reason,)


def test_variables_of_a_stored_prompt_are_texts_or_parts() -> None:
    """Their names are the prompt's own, `metadata` for one; a file among them is no text."""
    named: dict[str, JsonValue] = {
        "name": "A",
        "text": {"type": "input_text", "text": "B"},
        "metadata": {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
        "d": {"type": "input_file", "file_id": "C"},
    }
    read = _subject({"prompt": {"id": "pmpt_1", "variables": named}}, "/v1/responses")
    assert read.unscanned == (UnscannedReason.IMAGE, UnscannedReason.FILE)
    assert {*named, "A", "B", "C"} <= set(_texts(read))
    assert not [text for text in _texts(read) if PNG in text]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"prompt": "S", "image": PNG * 3}, UnscannedReason.UNKNOWN_SHAPE),
        ({"mediaSource": {"s3Location": {"uri": "S"}}}, UnscannedReason.FILE),
    ],
)
def test_media_of_models_behind_bedrock_are_unscanned(
    body: JsonValue, reason: UnscannedReason
) -> None:
    """Their own forms of requests go through InvokeModel as they are."""
    read = _subject(body, "/model/stability.x/invoke")
    assert read.unscanned == (reason,)
    assert "S" in _texts(read)


@pytest.mark.parametrize("more", [{"bytes": PNG}, {"url": "https://x.example"}])
def test_a_source_that_calls_itself_text_is_a_file_by_what_it_holds(more: JsonValue) -> None:
    """Bedrock's documents have no `type`: a service that ignores it would read the file."""
    assert isinstance(more, dict)
    part: JsonValue = {"document": {"format": "pdf", "source": {"type": "text", **more}}}
    assert _subject(_user(part), "/model/c/converse").unscanned == (UnscannedReason.FILE,)


def _counted(body: bytes) -> JsonValue:
    """Return a request to count the tokens of a request to InvokeModel."""
    return {"input": {"invokeModel": {"body": base64.b64encode(body).decode()}}}


def test_a_request_whose_tokens_are_counted_is_read_in_its_base64() -> None:
    """Bedrock takes the body of InvokeModel like that; its parts reach the model as one text."""
    image: JsonValue = {"type": "image", "source": {"type": "base64", "data": PNG}}
    inner = _user({"type": "text", "text": "a"}, image, {"type": "text", "text": "b"})
    read = _subject(_counted(json.dumps(inner).encode()), "/model/c/count-tokens")
    assert [(one.content, one.role) for one in read.parts if one.content in {b"a", b"b"}] == [
        (b"a", "user"),
        (b"b", "user"),
    ]
    assert [[read.parts[at].content for at in run] for run in read.runs] == [[b"a", b"b"]]
    assert read.unscanned == (UnscannedReason.IMAGE,)


@pytest.mark.parametrize(
    "body",
    [
        _counted(b"\x1f\x8b"),
        _counted(b"[]"),
        _counted(b'{"messages": [], "messages": []}'),
        {"input": {"invokeModel": {"body": "e30", "x": "y"}}},
        {"input": {"invokeModel": {"body": "e30_"}}},
        {"input": {"invokeModel": {"body": {"messages": []}}}},
    ],
)
def test_base64_of_anything_else_is_not_read(body: JsonValue) -> None:
    """A compressed body, for one, or one that two parsers read differently."""
    assert _subject(body, "/model/c/count-tokens").unscanned == (UnscannedReason.UNKNOWN_SHAPE,)


def test_all_kinds_in_one_part_are_counted() -> None:
    """A part with two payloads does not hide one behind the other."""
    part: JsonValue = {
        "type": "text",
        "image_url": {"url": "http://x.example"},
        "input_audio": {"data": PNG},
    }
    assert set(_subject(_user(part)).unscanned) == {UnscannedReason.IMAGE, UnscannedReason.AUDIO}


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"type": "video", "video": {"bytes": PNG * 3}}, id="unknown type"),
        pytest.param({"type": "text", "text": "a", "images": [PNG * 3]}, id="unknown field"),
        pytest.param({"inline_data": {"data": PNG * 3}}, id="Gemini's shape"),
    ],
)
def test_base64_of_an_unknown_shape_is_scanned_and_unscanned(part: JsonValue) -> None:
    """What looks like a payload nobody knows is judged as text and counted as unreadable."""
    subject = _subject(_user(part))
    assert subject.unscanned == (UnscannedReason.UNKNOWN_SHAPE,)
    assert [text for text in _texts(subject) if PNG in text]


MEDIUM = base64.b64encode(b"".join(sha512(b"%d" % n).digest() for n in range(9))).decode()


@pytest.mark.parametrize(
    "written",
    [
        pytest.param("iVBORw0KGgo= " + "A" * 300, id="a blank"),
        pytest.param("data:image/png;base64, " + "A" * 300, id="address"),
        pytest.param(" ".join(re.findall("...", MEDIUM)), id="blanks all over"),
        pytest.param("é".join(re.findall("...", MEDIUM)), id="letters of no alphabet all over"),
        pytest.param(
            "A song of mine: " * 100 + "*".join(re.findall("...", MEDIUM * 4)), id="text"
        ),
    ],
)
def test_characters_that_decoders_skip_hide_no_base64(written: str) -> None:
    """Many decoders skip what is no base64, wherever it stands."""
    subject = _subject(_user({"type": "text", "text": "a", "images": [written]}))
    assert subject.unscanned == (UnscannedReason.UNKNOWN_SHAPE,)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("The provider reads it, and ANSWERS in 200 ms. " * 50, id="prose"),
        pytest.param("SELECT id, NAME FROM T1 WHERE X2 = 'B7'; " * 50, id="code"),
        pytest.param(
            " ".join(f"{n:032x}" for n in range(1 << 120, (1 << 120) + 99)), id="digests"
        ),
        pytest.param(", ".join(map(str, range(10**6, 10**6 + 999))), id="numbers"),
        pytest.param(" ".join(re.findall("...", MEDIUM))[:300], id="no more than a few tokens"),
    ],
)
def test_long_text_of_an_unknown_field_is_no_base64(text: str) -> None:
    """Though it holds little but letters and digits."""
    assert _subject(_user({"type": "text", "text": "a", "note": text})).unscanned == ()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            _user({"type": "thinking", "thinking": "hm", "signature": PNG * 9}), id="thinking"
        ),
        pytest.param(_user({"type": "redacted_thinking", "data": PNG * 9}), id="sealed thinking"),
        pytest.param(
            _user({"type": "tool_use", "name": "w", "input": {"type": "file", "body": PNG * 9}}),
            id="tool input",
        ),
        pytest.param(
            {
                "messages": [],
                "audio": {"voice": "alloy", "format": "wav"},
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "parameters": {
                                "properties": {"image_url": {"type": "string", "url": "x"}}
                            }
                        },
                    }
                ],
            },
            id="settings and schemas",
        ),
        pytest.param(_user({"type": "text", "text": PNG * 9}), id="base64 as text"),
    ],
)
def test_ordinary_requests_have_nothing_unscanned(body: JsonValue) -> None:
    """Agents that send thinking, tool calls and schemas back are not blocked for their shape."""
    assert _subject(body, MESSAGES).unscanned == ()


def test_escapes_in_tool_arguments_hide_nothing() -> None:
    """JSON text in a string is judged as it stands and as it reads."""
    arguments = r'{"q":"\u0041KIA","n":"[\"\\u0042\"]","p":"plain"}'
    subject = _subject(
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"arguments": arguments}}]}
            ]
        }
    )
    assert [(part.content, part.location) for part in subject.parts] == [
        (arguments.encode(), (6,)),
        (b"AKIA", (6, 1)),
        (rb'["\u0042"]', (6, 3)),
        (b"B", (6, 3, 0)),
    ]


def test_broken_json_text_is_looked_into_too() -> None:
    """Arguments with a key twice, and no end, do not get their escapes past us."""
    subject = _subject(_user(r'{"a":"x","a":"\u0041KIA'))
    assert "AKIA" in _texts(subject)


def test_json_text_is_looked_into_four_times() -> None:
    """Deeper nesting is judged as the text it is."""
    text = '"\\u0041"'
    for _ in range(6):
        text = json.dumps(text)
    subject = _subject(_user(text))
    assert max(len(part.location) for part in subject.parts) == 5


def test_long_numbers_are_parts() -> None:
    """A card number without quotes is found; settings and the seed are left alone.

    An exponent makes no text of hundreds of digits: ten thousands of them took seconds to search.
    """
    subject = _subject(
        {
            "seed": 4111111111111111,
            "max_tokens": 1000000,
            "messages": [
                {
                    "content": [
                        {
                            "type": "tool_use",
                            "input": {"card": 4111111111111111, "x": 1.5e9, "y": [-1e308, 10**41]},
                        }
                    ]
                }
            ],
        },
        MESSAGES,
    )
    numbers = [part for part in subject.parts if part.location[0] < 0]
    assert [(part.content, part.location) for part in numbers] == [
        (b"4111111111111111", (-3,)),
        (b"1500000000", (-4,)),
        (b"-1e+308", (-5,)),
        (b"1" + b"0" * 41, (-6,)),
    ]


def test_a_long_list_of_numbers_is_read_without_a_call_each() -> None:
    """A batch of 490,000 tokens held a worker for a quarter of a second."""
    flat: list[JsonValue] = [None, 0.5, True, *range(1_000)]
    many: list[JsonValue] = [flat]
    for tokens in (flat, many):
        body: JsonValue = {"input": tokens, "metadata": [10**9]}
        assert python_calls(partial(_subject, body, "/v1/embeddings")) < 500
        (number,) = _subject(body, "/v1/embeddings").parts
        assert number.location == (-1 - 1_001,)


_TURNS: list[JsonValue] = [{"role": "user", "content": "a", "name": "b"}] * 3_000
_KEYS: dict[str, JsonValue] = {f"key {number}": "a" for number in range(9_000)}
_CALLS: list[JsonValue] = [{"type": "function", "function": {"parameters": _KEYS}}]
_MIXED: list[JsonValue] = [*range(9_000), "a", None, 10**9] * 2
_HEAVY: list[dict[str, JsonValue]] = [
    {"messages": _TURNS},
    {"messages": [{"role": "user", "content": ["a"] * 9_000}]},
    {"messages": [], "tools": _CALLS},
    {"messages": [], **_KEYS},
    {"messages": [], "metadata": [[["a"] * 200] * 9, {}] * 9},
    {"messages": [], "metadata": _MIXED},
]


@pytest.mark.parametrize("body", _HEAVY)
def test_a_heavy_body_is_read_in_slices(body: JsonValue) -> None:
    """Reading one held a worker for a quarter of a second, in which all other requests waited."""
    text = json.dumps(body).encode()
    steps = read_in_slices(route_of(), Headers(), text)
    slices = [python_calls(lambda: next(steps, None)) for _ in range(text.count(b","))]
    *most, _ = sorted(slices)  # one slice looks for the models that all messages name
    assert max(most) < 9 * SLICE_STRINGS < sum(most)


@pytest.mark.parametrize("is_within", [False, True])
def test_an_object_of_very_many_members_is_refused_before_its_kind_is_looked_for(
    *, is_within: bool
) -> None:
    """To look at half a million names for media held a worker for 200 ms."""
    members: dict[str, JsonValue] = {f"{number:x}": 1 for number in range(MOST_MEMBERS + 1)}
    body: JsonValue = {"messages": [], "x": members} if is_within else {**members, "messages": []}
    steps = read_in_slices(route_of(), Headers(), json.dumps(body).encode())
    assert python_lines(lambda: next(steps, None)) < 1_000
    assert python_lines(lambda: next(steps, None)) < 30 * SLICE_STRINGS
    read = read_request(route_of(), Headers(), json.dumps(body).encode())
    assert read == Malformed("The body holds more than 50000 texts.")


def test_a_truth_value_is_no_number() -> None:
    """`true` is not counted among the numbers, not even as a seed."""
    subject = _subject({"seed": True, "messages": [], "x": [False, 123456789]})
    assert subject.parts[-1] == TextPart(b"123456789", (-1,), "unknown")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/v1/embeddings", {"input": [1, 2, 3]}, id="one list"),
        pytest.param("/v1/embeddings", {"input": ["a", [1, 2]]}, id="a list among texts"),
        pytest.param("/v1/completions", {"prompt": [[1], [2]]}, id="lists"),
    ],
)
def test_token_arrays_are_unscanned(path: str, body: JsonValue) -> None:
    """Numbers in the place of text are a model's own tokens, which cannot be read here."""
    assert _subject(body, path).unscanned == (UnscannedReason.UNKNOWN_SHAPE,)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, {}, "`messages`"),
        (CHAT, {"messages": "x"}, "`messages`"),
        (CHAT, {"messages": ["x"]}, "`messages`"),
        (CHAT, {"messages": [{"role": 1}]}, "`role`"),
        (CHAT, {"messages": [{"role": "user", "content": {"x": 1}}]}, "`content`"),
        (CHAT, {"messages": [], "model": ["m"]}, "`model`"),
        (CHAT, {"messages": [], "model": None}, "`model`"),
        (CHAT, {"messages": [], "model": "a", "MODEL": "b"}, "`model`"),
        (CHAT, {"messages": [], "\u017ftream": True}, "`stream`"),
        (CHAT, {"messages": [], "stream": "true"}, "`stream`"),
        (CHAT, {"messages": [], "stream": []}, "`stream`"),
        (CHAT, {"messages": [], "stream": 1}, "`stream`"),
        (MESSAGES, {"system": "x"}, "`messages`"),
        ("/v1/completions", {"prompt": None}, "`prompt`"),
        ("/v1/embeddings", {"input": {"a": "b"}}, "`input`"),
        (CHAT, ["messages"], "object"),
        (CHAT, "messages", "object"),
    ],
)
def test_a_wrong_shape_is_malformed_and_names_the_field(
    path: str, body: JsonValue, field: str
) -> None:
    """A field that is acted on must be what the API says; the answer says which is not."""
    malformed = _read(body, path)
    assert isinstance(malformed, Malformed)
    assert field in malformed.problem


def test_too_many_texts_are_malformed() -> None:
    """A body made to keep a worker busy is refused, not scanned in part."""
    body: JsonValue = {"input": ["a"] * 50_001}
    assert _read(body, "/v1/embeddings") == Malformed("The body holds more than 50000 texts.")


def test_too_many_values_are_malformed() -> None:
    """What is no text keeps a worker busy as well."""
    body: JsonValue = {"messages": [{"file": {}}] * 50_001}
    malformed = _read(body, CHAT)
    assert isinstance(malformed, Malformed)
    assert "more than 100000 objects and arrays" in malformed.problem


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([("content-encoding", b"gzip")], UnscannedReason.ENCODED_BODY),
        ([("content-encoding", b"identity, br")], UnscannedReason.ENCODED_BODY),
        (
            [("content-encoding", b"identity"), ("content-encoding", b"gzip")],
            UnscannedReason.ENCODED_BODY,
        ),
        ([("content-type", b"application/json; charset=utf-16")], UnscannedReason.CHARSET),
        ([("content-type", b'application/json;charset="latin1"')], UnscannedReason.CHARSET),
        (
            [("content-type", b"application/json;charset=utf-8;charset=utf-7")],
            UnscannedReason.CHARSET,
        ),
        ([("content-type", b'application/json;a="b;charset=x"')], UnscannedReason.CHARSET),
        ([("content-type", b"application/json;charset*=utf-8''utf-7")], UnscannedReason.CHARSET),
        ([("content-type", b"application/json;charset*0=utf-7")], UnscannedReason.CHARSET),
        ([("content-type", b"application/json;CHARSET*1=utf-16")], UnscannedReason.CHARSET),
        ([("content-type", b"application/json;charset*00=utf-16")], UnscannedReason.CHARSET),
        ([("content-type", b"application/json;charset *=utf-16")], UnscannedReason.CHARSET),
        (
            [("content-type", b"application/json;charset*2*=us-ascii'en'utf-16")],
            UnscannedReason.CHARSET,
        ),
        (
            [("content-type", b"application/json"), ("content-type", b"text/plain")],
            UnscannedReason.CHARSET,
        ),
        ([("content-type", b"text/plain")], UnscannedReason.UNKNOWN_SHAPE),
        ([("content-type", b"application/json, text/plain")], UnscannedReason.UNKNOWN_SHAPE),
        ([("content-type", b"multipart/form-data; boundary=x")], UnscannedReason.UNKNOWN_SHAPE),
    ],
)
def test_a_body_not_declared_as_plain_json_is_unreadable(
    fields: list[tuple[str, bytes]], reason: UnscannedReason
) -> None:
    """The upstream goes by these headers; a body they make mean something else is not parsed."""
    assert read_request(route_of(), Headers(tuple(fields)), b"\x1f\x8b") == Unreadable(reason)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("content-encoding", b"identity")],
        [("content-type", b"application/json")],
        [("content-type", b"Application/JSON; Charset=UTF-8")],
        [("content-type", b"application/vnd.api+json")],
        [("content-type", b"application/json"), ("content-type", b"application/json")],
    ],
)
def test_json_in_utf_8_is_read(fields: list[tuple[str, bytes]]) -> None:
    """The usual ways to declare JSON, and none at all, are accepted."""
    subject = read_request(route_of(), Headers(tuple(fields)), b'{"messages":[]}')
    assert subject == Subject(model=None, streamed=False, parts=())


def test_a_request_without_body_is_an_empty_subject() -> None:
    """Listing models sends no content; a body there would be of no known shape."""
    route = recognise("GET", "/v1/models")
    assert isinstance(route, Route)
    empty = Subject(model=None, streamed=False, parts=())
    assert read_request(route, Headers(), b"") == empty
    assert read_request(route, Headers(), b"{}") == Unreadable(UnscannedReason.UNKNOWN_SHAPE)


def test_a_malformed_body_is_handed_on() -> None:
    """The problem that the JSON parser names is the answer."""
    body = b'{"messages":[],"messages":[]}'
    assert read_request(route_of(), Headers(), body) == Malformed(
        "The body has the same key twice in one object."
    )


@pytest.mark.parametrize(
    ("fields", "tools"),
    [
        ({"tools": [{"type": "function", "function": {"name": "web_search"}}]}, ()),
        ({"tools": [{"name": "web_search", "input_schema": {}}]}, ()),
        ({"tools": [{"type": "web_search_20260209", "name": "web_search"}]}, ("web_search",)),
        ({"tools": [{"type": "web_fetch_20250910"}, {"type": "code_execution"}]}, ()),
        (
            {
                "tools": [
                    {"type": "web_search_preview_2025_03_11"},
                    {"type": "code_execution_20250825"},
                    {"type": "web_search"},
                ]
            },
            ("web_search", "code"),
        ),
        (
            {"tools": [{"type": "file_search"}, {"type": "image_generation"}, {"type": 7}, 7]},
            ("file_search", "image"),
        ),
        ({"tools": [{"googleSearch": {}}, {"google_maps": {}}]}, ("web_search", "maps")),
        ({"web_search_options": {}}, ("web_search",)),
        ({"tools": "web_search"}, ()),
    ],
)
def test_tools_that_a_provider_bills_beside_tokens_are_named(
    fields: dict[str, JsonValue], tools: tuple[str, ...]
) -> None:
    """A client's own tools cost nothing there, whatever their names."""
    body: JsonValue = {"model": "m", "messages": [{"role": "user", "content": "a"}], **fields}
    assert _subject(body).billed_tools == tools


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({}, None),
        ({"service_tier": "priority"}, "priority"),
        ({"service_tier": "fast"}, "priority"),
        ({"service_tier": "FLEX"}, "flex"),
        ({"serviceTier": {"type": "priority"}}, "priority"),
        ({"service_tier": "flex", "serviceTier": "priority"}, "priority"),
        ({"service_tier": "auto"}, None),
        ({"service_tier": ["priority"], "serviceTier": {"type": 7}}, None),
        ({"service_tier": "ultrafast"}, "ultrafast"),
        ({"service_tier": "SERVICE_TIER_PRIORITY"}, "priority"),
        ({"speed": "fast"}, "priority"),
        ({"speed": "standard"}, None),
        ({"speed": 1.5}, None),
    ],
)
def test_the_tier_of_a_request_is_read_if_it_has_prices_of_its_own(
    fields: dict[str, JsonValue], tier: str | None
) -> None:
    """OpenAI's, Google's, Anthropic's fast mode, Bedrock's in an object; of two the dearer."""
    body: JsonValue = {"model": "m", "messages": [{"role": "user", "content": "a"}], **fields}
    assert _subject(body).service_tier == tier


INVOKE = "/model/anthropic.claude-sonnet-5/invoke"
VERTEX = "/v1/projects/p/locations/global/publishers/google/models/gemini-3-pro:generateContent"
OF_INVOKE = "x-amzn-bedrock-service-tier"
OF_VERTEX = "x-vertex-ai-llm-shared-request-type"


@pytest.mark.parametrize(
    ("path", "header", "values", "tier"),
    [
        (INVOKE, OF_INVOKE, [b"priority"], "priority"),
        (INVOKE, OF_INVOKE, [b"flex", b" Priority"], "priority"),
        (INVOKE, OF_INVOKE, [b"flex"], None),
        (INVOKE, OF_VERTEX, [b"priority"], None),
        (VERTEX, OF_VERTEX, [b"priority"], "priority"),
        ("/v1/projects/p/locations/l/endpoints/openapi/chat/completions", OF_VERTEX, [b"priority"],
         "priority"),
        ("/model/m/converse", OF_INVOKE, [b"priority"], None),
        ("/v1/chat/completions", OF_INVOKE, [b"priority"], None),
    ],
)  # fmt: skip
def test_a_dearer_tier_that_a_header_names_counts(
    path: str, header: str, values: list[bytes], tier: str | None
) -> None:
    """A cheaper one does not: a provider that ignores it bills the full price."""
    said: JsonValue = [{"role": "user", "parts": [{"text": "a"}], "content": []}]
    body = json.dumps({"messages": said, "contents": said}).encode()
    headers = Headers(tuple([(header, value) for value in values]))
    subject = read_request(route_of(path), headers, body)
    assert isinstance(subject, Subject)
    assert subject.service_tier == tier


INTERACTIONS = "/v1beta/interactions"


def test_an_interaction_is_read_in_each_form_of_its_input() -> None:
    """A text, a part, parts, steps; thoughts and calls that come back are text or sealed."""
    replayed: JsonValue = [
        {"type": "user_input", "content": [{"type": "text", "text": "a"}]},
        {"type": "thought", "signature": PNG * 9, "summary": [{"type": "text", "text": "b"}]},
        {"type": "function_call", "id": "1", "name": "w", "arguments": {"data": PNG, "uri": "x"}},
        {"type": "function_result", "call_id": "1", "result": [{"type": "text", "text": "c"}]},
    ]
    part: JsonValue = {"type": "text", "text": "a"}
    forms: list[JsonValue] = ["a", part, [part], replayed]
    subjects = [_subject({"model": "m", "input": given}, INTERACTIONS) for given in forms]
    for subject in subjects:
        assert b"a" in [one.content for one in subject.parts]
        assert (subject.unscanned, subject.model, subject.in_background) == ((), "m", False)
    roles = {one.content: one.role for one in subjects[-1].parts}
    assert roles[b"c"] == "tool"


def test_the_steps_of_an_interaction_have_the_role_of_who_speaks() -> None:
    """Neighbours of one role reach the model as one text, as messages of one role do."""
    steps: JsonValue = [
        {"type": "user_input", "content": [{"type": "text", "text": "a"}]},
        {"type": "user_input", "content": "b"},
        {"type": "model_output", "content": [{"type": "text", "text": "c"}]},
        {"type": "function_call", "id": "1", "name": "d", "arguments": {}},
        {"type": "text", "text": "e"},
        {"type": "image", "uri": "f"},
        {"type": "text", "text": "g"},
    ]
    subject = _subject({"model": "m", "input": steps}, INTERACTIONS)
    texts = [one.content.decode() for one in subject.parts]
    roles = {text: one.role for text, one in zip(texts, subject.parts, strict=True)}
    expected = {"a": "user", "b": "user", "c": "model", "d": "unknown", "e": "user", "g": "user"}
    assert {text: roles[text] for text in expected} == expected
    assert [[texts[at] for at in run] for run in subject.runs] == [["a", "b"], ["e", "g"]]


@pytest.mark.parametrize(
    ("message", "role"),
    [
        ({"parts": [{"text": "S"}]}, "user"),
        ({"role": None, "parts": [{"text": "S"}]}, "user"),
        ({"role": "USER", "parts": [{"text": "S"}]}, "user"),
        ({"role": "Model", "parts": [{"text": "S"}]}, "model"),
        ({"role": "else", "parts": [{"text": "S"}]}, "unknown"),
    ],
)
def test_content_of_google_s_without_a_role_is_the_user_s(message: JsonValue, role: str) -> None:
    """Google takes it as such; a role counts in any case of its letters."""
    subject = _subject({"contents": [message]}, "/v1beta/models/m:generateContent")
    assert [one.role for one in subject.parts if one.content == b"S"] == [role]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "image", "data": PNG}, UnscannedReason.FILE),
        ({"type": "image", "uri": "gs://a/b", "mime_type": "image/png"}, UnscannedReason.IMAGE),
        ({"type": "document", "uri": "https://example.com/a.pdf"}, UnscannedReason.FILE),
    ],
)
def test_media_of_an_interaction_are_unscanned(part: JsonValue, reason: UnscannedReason) -> None:
    """By their bytes and by their address, in a step and alone."""
    forms: list[JsonValue] = [part, [part], [{"type": "user_input", "content": [part]}]]
    for given in forms:
        assert _subject({"model": "m", "input": given}, INTERACTIONS).unscanned == (reason,)


def test_an_interaction_in_the_background_is_known_as_one() -> None:
    """Its answer states no counts."""
    subject = _subject({"agent": "deep", "input": "a", "background": True}, INTERACTIONS)
    assert (subject.model, subject.in_background) == ("deep", True)
