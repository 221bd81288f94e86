"""An event that is not parsed says what it would say if it were."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.apis.event_patterns import EventPatternCache
from sidecar.apis.response_structure import framer_of
from sidecar.apis.response_text import read_answer
from tests.support.answers import APIS, chat_chunk

WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["so", " the", " é😀", "", '"', "\\", "\n", "a" * 70, "\u2028", "}", "]}"]
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    ),
    min_size=4,
    max_size=12,
)
MODELS = count()
FORMATS = st.sampled_from([{"separators": (",", ":"), "ensure_ascii": False}, {}])


@settings(max_examples=150, deadline=None)
@given(api=st.sampled_from(sorted(APIS)), words=WORDS)
def test_every_event_of_every_api_is_read_as_if_alone(api: str, words: list[str]) -> None:
    """Whatever the events and streams before it taught."""
    framer = framer_of(APIS[api].form)
    assert framer is not None
    frames = [*framer.feed(APIS[api].stream(words)), *framer.finish()]
    for reader in (EventPatternCache(), *(EventPatternCache("of any API") for _ in range(3))):
        for frame in frames:
            assert reader.read(frame.payload, event=frame.event) == read_answer(
                frame.payload, event=frame.event
            )


EXTRAS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "obfuscation": st.text('abcXYZ019é"', max_size=5),
        "created": st.integers(-1, 10**19),
        "id": st.text('abcXYZ019-_.é"', max_size=5),
        "usageMetadata": st.builds(lambda count: {"totalTokenCount": count}, st.integers(-1, 99)),
        "args": st.builds(
            lambda word, count: [{"id": word}, {"totalTokenCount": count}, count],
            st.text("ab1-", max_size=3),
            st.integers(0, 10**18),
        ),
        "sequence_number": st.integers(0, 300),
        "usage": st.sampled_from([None, {"p": 1}]),
        "note": st.sampled_from(["", "bob@example.com"]),
        "index": st.integers(0, 2),
    },
)
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, st.sampled_from(["a", " b", "é", 'q"', "\u0007"])),
    st.sampled_from(
        [
            {},
            {"role": "assistant"},
            {"content": "a", "refusal": "b"},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]},
            {"audio": {"data": "A" * 80}},
            {"audio": {"data": "not base64, but text"}},
            {"audio": {"data": ["A" * 80]}},
            {"audio": {"data": ["not base64, but text"]}},
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    events=st.lists(st.tuples(DELTAS, EXTRAS, st.integers(0, 1)), min_size=4, max_size=14),
    written=FORMATS,
    names=st.lists(st.sampled_from(["", "ping"]), min_size=14, max_size=14),
)
def test_what_changes_beside_the_text_is_noticed(
    events: list[tuple[dict[str, Any], dict[str, Any], int]],
    written: dict[str, Any],
    names: list[str],
) -> None:
    """Padding and numbers may; any other member, field, choice or name may not unseen."""
    payloads = [
        json.dumps(chat_chunk(delta, index) | extra, **written).encode()
        for delta, extra, index in events
    ]
    model = f"model {next(MODELS)}"
    # Each later stream has the patterns of those before it.
    for begin in (0, 0, 3, 1):
        reader = EventPatternCache(model)
        for payload, name in zip(payloads[begin:], names, strict=False):
            assert reader.read(payload, event=name) == read_answer(payload, event=name)


@settings(max_examples=300, deadline=None)
@given(
    delta=DELTAS,
    learned=EXTRAS,
    later=st.lists(EXTRAS, min_size=1, max_size=4),
    written=FORMATS,
)
def test_a_first_event_of_a_form_that_was_learned_is_read_as_if_alone(
    delta: dict[str, Any],
    learned: dict[str, Any],
    later: list[dict[str, Any]],
    written: dict[str, Any],
) -> None:
    """Two streams have begun alike, with or without text; those after them with other members."""
    model = f"model {next(MODELS)}"
    for extra in (learned, learned, *later):
        payload = json.dumps(chat_chunk(delta) | extra, **written).encode()
        reader = EventPatternCache(model)
        for _ in range(2):
            assert reader.read(payload, event="") == read_answer(payload)


@given(
    texts=st.lists(st.binary(max_size=6), min_size=1, max_size=6),
    padding=st.sampled_from([b"", b"ab", b"\xff", b'a","b":"c', b"a\\u0062"]),
)
def test_bytes_that_are_no_json_are_never_taken_for_it(texts: list[bytes], padding: bytes) -> None:
    """A control character, half a character, a quote: whoever reads it next may read otherwise."""
    before = b'{"choices":[{"index":0,"delta":{"content":"'
    reader = EventPatternCache()
    for text in (b"a", b"b", b"c", b"d", *texts):
        payload = before + text + b'"}}],"obfuscation":"' + padding + b'"}'
        assert reader.read(payload, event="") == read_answer(payload, event="")
