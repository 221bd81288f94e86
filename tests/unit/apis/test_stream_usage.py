from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.apis.stream_usage import ask_for_usage, can_ask_for_usage
from tests.support.memory import peak_bytes
from tests.support.routes import route_of


@pytest.mark.parametrize(
    ("body", "asking"),
    [
        (
            b'{"stream":true}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b' {"stream" : true, "n":1 }\n',
            b' {"stream" : true, "n":1 ,"stream_options":{"include_usage":true}}\n',
        ),
        (
            b'{"stream_options": {"include_usage" : false, "x":[1,{"y":2}]},"stream":true}',
            b'{"stream_options": {"include_usage" : true, "x":[1,{"y":2}]},"stream":true}',
        ),
        (
            b'{"stream_options":{ },"stream":true}',
            b'{"stream_options":{"include_usage":true },"stream":true}',
        ),
        (
            b'{"stream_options":{"a":"}"},"stream":true}',
            b'{"stream_options":{"include_usage":true,"a":"}"},"stream":true}',
        ),
        (
            b'{"stream_options":null,"stream":true}',
            b'{"stream_options":{"include_usage":true},"stream":true}',
        ),
        (
            b'{"stream\\u005foptions":{"include\\u005fusage":0},"stream":true}',
            b'{"stream\\u005foptions":{"include\\u005fusage":true},"stream":true}',
        ),
        (b'{"stream_options":[],"stream":true}', b'{"stream_options":[],"stream":true}'),
    ],
)
def test_a_stream_is_made_to_ask_and_nothing_else_is_touched(body: bytes, asking: bytes) -> None:
    """To the byte: a provider's prompt cache may depend on each."""
    assert ask_for_usage(body) == asking


@pytest.mark.parametrize(
    "text", ['"stream_options":{"include_usage":false}', "\\", '\\"', "}", "stream_options", "é"]
)
def test_what_a_text_says_is_no_option(text: str) -> None:
    """Nor is the member of another object."""
    fields = {
        "messages": [
            {"role": "user", "content": text, "stream_options": {"include_usage": False}}
        ],
        "stream": True,
    }
    body = json.dumps(fields).encode()

    assert json.loads(ask_for_usage(body)) == {
        **fields,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("levels", range(12))
def test_an_option_is_found_behind_values_of_any_depth(levels: int) -> None:
    """However many brackets stand in each other, and beside each other."""
    deep = b'[{"a":' * levels + b'"]}"' + b',"b":[0,{}]},[]]' * levels
    body = b'{"x":' + deep + b',"stream_options":{"y":' + deep + b',"include_usage":false}}'
    assert ask_for_usage(body) == body.replace(b"false", b"true")


@pytest.mark.parametrize("item", [b"{}", b'{"file":{}}', b"0", b'"a"', b'{"a":[[[[[[]]]]]]}'])
def test_asking_takes_no_memory_for_what_a_member_holds(item: bytes) -> None:
    """Somebody may send millions of tokens; the body is written anew once, and that is all."""
    body = b'{"messages":[' + b",".join([item] * 20_000) + b'],"stream":true}'
    assert peak_bytes(lambda: ask_for_usage(body)) < 4 * len(body) + 20_000


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    fields=st.dictionaries(st.text(), _JSON, max_size=4),
    options=st.none() | st.dictionaries(st.text() | st.just("include_usage"), _JSON, max_size=3),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_any_body_asks_afterwards_and_says_all_else_as_before(
    fields: dict[str, object], options: object, indent: int | None, *, ascii_only: bool
) -> None:
    """Whatever a client's JSON looks like."""
    fields = {**fields, "stream_options": options, "stream": True}
    body = json.dumps(fields, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    asking = json.loads(ask_for_usage(body).decode("utf-8", "surrogatepass"))

    wanted = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    assert asking == {**fields, "stream_options": wanted}


@pytest.mark.parametrize(
    ("path", "can"),
    [
        ("/v1/chat/completions", True),
        ("/v1/completions", True),
        ("/openai/deployments/gpt/chat/completions", True),
        ("/v1/responses", False),
        ("/v1/images/generations", False),
        ("/v1/messages", False),
        ("/v1beta/models/gemini-pro:streamGenerateContent", False),
    ],
)
def test_only_streams_that_tell_on_demand_are_asked(path: str, *, can: bool) -> None:
    """Elsewhere the option is unknown, and would be refused."""
    assert can_ask_for_usage(route_of(path)) is can
