from __future__ import annotations

import contextlib
import random
import re

from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.domain.cooperative import run_sync
from sidecar.jsontext import tokens as json_text
from sidecar.jsontext.strict import JsonValue, parse
from sidecar.jsontext.tokens import Replacement
from tests.support.json_rendering import Chunk, StringToken, render, text_of

TEXTS = st.text(
    st.one_of(
        st.sampled_from('ab"\\/{}[]:,\n\tuéß€😀\u2028\x00'),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.one_of(
        TEXTS,
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)
    ),
    max_leaves=12,
)
STYLES = st.integers(0, 2**32).map(random.Random)
MARKS = st.sampled_from([b"[EMAIL_1]", b"[X]", b""])


def splice(body: bytes, replacements: list[Replacement]) -> bytes:
    return run_sync(json_text.splice(body, replacements))[0]


@st.composite
def _spans(draw: st.DrawFn, length: int) -> tuple[int, int]:
    start = draw(st.integers(0, length))
    return start, draw(st.integers(start, length))


def _replaced(token: StringToken, span: tuple[int, int], mark: bytes) -> StringToken:
    start, end = span
    characters = token.characters
    return StringToken((*characters[:start], mark.decode(), *characters[end:]))


def _bytes_before(content: str, index: int) -> int:
    return len(content[:index].encode())


def _content(token: StringToken) -> str:
    return json_text.decode("".join(token.characters).encode()).decode()


@given(value=VALUES, style=STYLES, mark=MARKS, data=st.data())
def test_only_the_bytes_of_the_span_change(
    value: JsonValue, style: random.Random, mark: bytes, data: st.DataObject
) -> None:
    """However a string is spelt, exactly the characters of the span give way to the mark."""
    chunks = render(value, style)
    at = [index for index, chunk in enumerate(chunks) if isinstance(chunk, StringToken)]
    assume(at)
    number = data.draw(st.integers(0, len(at) - 1))
    token = chunks[at[number]]
    assert isinstance(token, StringToken)
    content = _content(token)
    assume(not json_text.may_be_json(content.encode()))
    span = data.draw(_spans(len(token.characters)))

    spliced = splice(
        text_of(chunks).encode(),
        [
            Replacement(
                (number,), _bytes_before(content, span[0]), _bytes_before(content, span[1]), mark
            )
        ],
    )

    expected: list[Chunk] = [*chunks]
    expected[at[number]] = _replaced(token, span, mark)
    assert spliced == text_of(expected).encode()


@given(inner=VALUES, style=STYLES, mark=MARKS, data=st.data())
def test_a_span_in_a_json_string_changes_only_its_own_characters(
    inner: JsonValue, style: random.Random, mark: bytes, data: st.DataObject
) -> None:
    """Tool arguments are JSON in a string: the span's escapes are those of two levels."""
    chunks = render(inner, style)
    at = [index for index, chunk in enumerate(chunks) if isinstance(chunk, StringToken)]
    assume(at)
    number = data.draw(st.integers(0, len(at) - 1))
    token = chunks[at[number]]
    assert isinstance(token, StringToken)
    span = data.draw(_spans(len(token.characters)))
    content = _content(token)
    assume(not json_text.may_be_json(content.encode()))
    arguments = text_of(chunks)
    body = text_of(render({"a": 1, "arguments": arguments, "b": "ü"}, style)).encode()

    spliced = splice(
        body,
        [
            Replacement(
                (2, number), _bytes_before(content, span[0]), _bytes_before(content, span[1]), mark
            )
        ],
    )

    expected: list[Chunk] = [*chunks]
    expected[at[number]] = _replaced(token, span, mark)
    assert parse(spliced) == {"a": 1, "arguments": text_of(expected), "b": "ü"}


@given(inner=VALUES, style=STYLES, mark=MARKS, data=st.data())
def test_a_number_in_a_json_string_becomes_a_string(
    inner: JsonValue, style: random.Random, mark: bytes, data: st.DataObject
) -> None:
    """Whatever part of it was found, and wherever it stands: the arguments stay JSON."""
    arguments = text_of(render([inner, 4111111111111111], style)).encode()
    tokens: list[json_text.JsonToken] = []
    with contextlib.suppress(json_text.SpliceError):
        while True:
            picked = json_text.pick_tokens(arguments, {len(tokens)}, are_numbers=True)
            tokens += run_sync(picked).values()
    token = data.draw(st.sampled_from(tokens))
    start = data.draw(st.integers(token.start, token.end - 1))
    end = data.draw(st.integers(start + 1, token.end))
    body = text_of(render({"arguments": arguments.decode()}, style)).encode()

    spliced = splice(body, [Replacement((1,), start, end, mark)])

    expected = arguments[: token.start] + b'"' + mark + b'"' + arguments[token.end :]
    assert parse(spliced) == {"arguments": expected.decode()}


@given(value=VALUES, style=STYLES)
def test_no_replacement_leaves_the_bytes_alone(value: JsonValue, style: random.Random) -> None:
    """A body that nothing is found in goes through as it came."""
    body = text_of(render(value, style)).encode()
    assert splice(body, []) == body


@given(value=VALUES, style=STYLES, data=st.data())
def test_any_spans_leave_valid_json_without_their_text(
    value: JsonValue, style: random.Random, data: st.DataObject
) -> None:
    """Overlapping spans at any byte, also inside a character, leave a document of that shape."""
    chunks = render(value, style)
    tokens = [chunk for chunk in chunks if isinstance(chunk, StringToken)]
    assume(tokens)
    replacements: list[Replacement] = []
    for _ in range(data.draw(st.integers(1, 5))):
        number = data.draw(st.integers(0, len(tokens) - 1))
        start, end = data.draw(_spans(len(_content(tokens[number]).encode())))
        replacements.append(Replacement((number,), start, end, b"[X_1]"))
    body = text_of(chunks).encode()

    spliced = splice(body, replacements)

    contents = [
        json_text.decode(spliced[token.start : token.end])
        for token in json_text.string_tokens(spliced)
    ]
    assert len(contents) == len(tokens)
    touched = {replacement.location[0] for replacement in replacements}
    for number, token in enumerate(tokens):
        contents[number].decode()
        assert number in touched or contents[number] == _content(token).encode()


@given(raw=st.text(st.sampled_from('\\u0dDcC8aé"nx/'), max_size=30))
def test_offsets_agree_with_decoding_for_any_text(raw: str) -> None:
    """The map and the decoder take the same view of escapes, broken ones included."""
    for token in json_text.string_tokens(('"' + raw).encode()):
        inner = ('"' + raw).encode()[token.start : token.end]
        offsets = json_text.RawOffsets(inner)
        content = run_sync(offsets.decoded())
        assert content == json_text.decode(inner)
        assert offsets.raw_range(0, len(content)) == (0, len(inner))


_RUN = r"""(?sx)
    (?:\\\\)*+ \\ (?:u[0-9a-fA-F]{4} | [^\\])?+  # an odd run escapes what comes next
  | (?:\\\\)++ (?:u[0-9a-fA-F]{4} | ["/bfnrt])?+  # an even one that, within another string
"""


@given(content=st.text(st.sampled_from('\\u00aB1"x\nn/'), max_size=20), data=st.data())
def test_a_range_is_widened_to_the_units_that_its_ends_cut(
    content: str, data: st.DataObject
) -> None:
    """As if the whole text were read from its begin, which would cost the whole text a value."""
    start, end = data.draw(_spans(len(content)))
    units = [one.span() for one in re.finditer(_RUN, content)]
    cut = [[one for one in units if one[0] < offset < one[1]] for offset in (start, end)]
    whole = (min([start, *(one[0] for one in cut[0])]), max([end, *(one[1] for one in cut[1])]))
    assert json_text.whole_units(content.encode(), start, end) == whole
