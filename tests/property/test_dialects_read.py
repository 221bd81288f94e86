from __future__ import annotations

import json
import random
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from sidecar.apis.request_text import read_request
from sidecar.apis.vocabulary import BEDROCK, COMMON, GEMINI, VOCABULARIES
from sidecar.domain.cooperative import run_sync
from sidecar.domain.http import Headers
from sidecar.domain.subject import Malformed, Route, Subject, TextPart
from sidecar.jsontext import tokens as json_text
from sidecar.jsontext.strict import JsonValue, parse
from sidecar.jsontext.tokens import Replacement
from tests.support.json_rendering import render, text_of
from tests.support.routes import route_of

TEXTS = st.text(
    st.one_of(st.sampled_from('ab"\\{[:\n'), st.characters(exclude_categories=["Cs"])), max_size=12
)
KEYS = st.one_of(
    TEXTS,
    st.sampled_from(
        sorted(
            (COMMON.field_names | GEMINI.field_names | BEDROCK.field_names)
            - {"model", "models", "stream", "messages", "contents", "input"}
        )
    ),
    st.sampled_from(["MESSAGES", "Content", "Type", "InlineData"]),
)
TYPES = st.sampled_from(
    [
        "text",
        "image",
        "image_url",
        "document",
        "tool_use",
        "file",
        "base64",
        "new",
        "redacted_thinking",
    ]
)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.one_of(TEXTS, TYPES, st.none(), st.booleans(), st.integers()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(
            lambda kind, fields: {"type": kind, **fields},
            TYPES,
            st.dictionaries(KEYS, inner, max_size=3),
        ),
    ),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.builds(
        lambda role, content, fields: {**fields, "role": role, "content": content},
        st.sampled_from(["user", "tool", "x"]),
        st.one_of(TEXTS, st.lists(VALUES, max_size=3)),
        st.dictionaries(KEYS, VALUES, max_size=2),
    ),
    max_size=3,
)
BODIES = st.builds(
    lambda fields, messages: {**fields, "messages": messages, "model": "m"},
    st.dictionaries(KEYS, VALUES, max_size=3),
    MESSAGES,
)
STYLES = st.integers(0, 2**32).map(random.Random)


MESSAGE_FIELDS = {
    route_of("/v1/chat/completions"): "messages",
    route_of("/v1/responses"): "input",
    route_of("/openai/deployments/d/chat/completions"): "messages",
    route_of("/v1/messages"): "messages",
    route_of("/v1beta/models/g:generateContent"): "contents",
    route_of("/model/m/converse"): "messages",
    route_of("/model/m/invoke"): "messages",
}
ROUTES = st.sampled_from(list(MESSAGE_FIELDS))


def _content_at(text: bytes, location: tuple[int, ...]) -> bytes:
    for index in location:
        token = list(json_text.string_tokens(text))[index]
        text = json_text.decode(text[token.start : token.end])
    return text


def _strings(value: JsonValue, names: frozenset[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in names:
                yield key
            if key not in {"type", "role"}:
                yield from _strings(item, names)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, names)


def _read(body: dict[str, JsonValue], style: random.Random, route: Route) -> tuple[bytes, Subject]:
    """Read *body*, its messages under the name that the route's API has for them."""
    name = MESSAGE_FIELDS[route]
    renamed = {name if key == "messages" else key: value for key, value in body.items()}
    raw = text_of(render(renamed, style)).encode()
    subject = read_request(route, Headers(), raw)
    assert isinstance(subject, Subject)
    return raw, subject


def _names(route: Route) -> frozenset[str]:
    return VOCABULARIES[route.dialect].field_names


def _is_string(part: TextPart) -> bool:
    return part.location[0] >= 0


@given(body=BODIES, style=STYLES, route=ROUTES)
def test_every_string_is_a_part(
    body: dict[str, JsonValue], style: random.Random, route: Route
) -> None:
    """No place of a document, known or unknown, keeps a string from being judged."""
    _, subject = _read(body, style, route)
    wanted = {text.encode() for text in _strings(body, _names(route)) if text}
    assert wanted - {b"messages"} <= {part.content for part in subject.parts}


@given(body=BODIES, style=STYLES, route=ROUTES)
def test_a_part_is_found_again_at_its_location(
    body: dict[str, JsonValue], style: random.Random, route: Route
) -> None:
    """Locations count the tokens of the raw body, whatever its spelling."""
    raw, subject = _read(body, style, route)
    for part in filter(_is_string, subject.parts):
        assert _content_at(raw, part.location) == part.content


@given(body=BODIES, inner=BODIES, style=STYLES, route=ROUTES)
def test_every_string_inside_tool_arguments_is_shown_plainly(
    body: JsonValue, inner: JsonValue, style: random.Random, route: Route
) -> None:
    """Escapes in JSON text inside a string hide nothing: some part has the decoded text."""
    arguments = text_of(render(inner, style))
    message: JsonValue = {
        "role": "assistant",
        "tool_calls": [{"function": {"arguments": arguments}}],
    }
    raw, subject = _read({"messages": [message], "x": body}, style, route)
    contents = b"\n".join(part.content for part in subject.parts)
    for text in _strings(inner, _names(route)):
        assert text.encode() in contents
    for part in filter(_is_string, subject.parts):
        assert _content_at(raw, part.location) == part.content


@given(body=BODIES, inner=BODIES, style=STYLES, route=ROUTES)
def test_replacing_every_part_leaves_no_text(
    body: JsonValue, inner: JsonValue, style: random.Random, route: Route
) -> None:
    """What is read can be spliced: with all parts replaced, only marks are left in the body."""
    raw, subject = _read(
        {"messages": [], "x": [body, text_of(render(inner, style))]}, style, route
    )
    replacements = [
        Replacement(part.location, 0, len(part.content), b"[MARK_%d]" % number)
        for number, part in enumerate(subject.parts)
    ]
    spliced: JsonValue = json.loads(run_sync(json_text.splice(raw, replacements))[0])
    left = [text for text in _strings(spliced, _names(route)) if text]
    assert left
    assert [text for text in left if not text.startswith("[MARK_")] == []


@given(value=VALUES, style=STYLES)
def test_any_document_is_read_as_the_standard_library_reads_it(
    value: JsonValue, style: random.Random
) -> None:
    """Strictness refuses documents and never changes what one says."""
    raw = text_of(render(value, style)).encode()
    assert parse(raw) == json.loads(raw)


@given(raw=st.one_of(st.binary(max_size=60), TEXTS.map(str.encode)), route=ROUTES)
def test_no_bytes_make_reading_raise(raw: bytes, route: Route) -> None:
    """Rubbish is malformed, not an error of ours."""
    assert isinstance(read_request(route, Headers(), raw), (Subject, Malformed))


OTHER_ROUTES = [
    route_of("/v1/completions"),
    route_of("/v1/embeddings"),
    route_of("/v1/images/generations"),
    route_of("/v1/models/g:embedContent"),
    route_of("/v1/models/g:batchEmbedContents"),
    route_of("/v1/models/g:countTokens"),
]
WHOLE_FIELDS = (
    *("prompt", "input", "messages", "contents", "content", "requests", "models"),
    "generateContentRequest",
)


@given(value=VALUES)
def test_any_json_is_read_or_refused(value: JsonValue) -> None:
    """A document of an unexpected shape is malformed or scanned, and never raises."""
    for route in (*MESSAGE_FIELDS, *OTHER_ROUTES):
        for body in (value, dict.fromkeys(WHOLE_FIELDS, value)):
            raw = json.dumps(body).encode()
            assert isinstance(read_request(route, Headers(), raw), (Subject, Malformed))


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=40,
    )
)
def test_a_long_list_of_numbers_is_read_as_short_ones_are(numbers: list[JsonValue]) -> None:
    """Numbers are counted alike, and the long ones found in the same places."""
    route, headers = route_of("/v1/embeddings"), Headers()
    bodies = (
        {"input": held, "metadata": [10**9]} for held in (numbers, [[one] for one in numbers])
    )
    whole, single = (read_request(route, headers, json.dumps(body).encode()) for body in bodies)
    assert whole == single
