from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from sidecar.apis.event_patterns import (
    MAX_FORM_BYTES,
    MAX_PATTERNS,
    MIN_ALIKE,
    EventPatternCache,
)
from sidecar.apis.response_text import AnswerEvent, Path, read_answer
from sidecar.jsontext.strict import JsonValue
from tests.support.answers import chat_chunk


def parsed_of(events: Iterable[object], *, model: str | None = None) -> list[bool]:
    """Tell of each event of one stream whether it was parsed: its path is then a new one."""
    reader = EventPatternCache(model)
    parsed: list[bool] = []
    known: list[Path | None] = []
    for event in events:
        read = reader.read(json.dumps(event).encode(), event="")
        assert isinstance(read, AnswerEvent)
        (text,) = read.texts
        parsed.append(all(text.channel is not one for one in known))
        known.append(text.channel)
    return parsed


def test_events_that_differ_in_their_text_are_parsed_three_times() -> None:
    """Then it is known what they look like; padding and numbers of their own change nothing."""
    plain = [chat_chunk({"content": f"word {number}"}) for number in range(50)]
    padded = [
        event | {"obfuscation": "x" * number, "created": number}
        for number, event in enumerate(plain)
    ]
    code = [chat_chunk({"content": f'\n\tprint("{number}\\\\n")'}) for number in range(50)]
    wanted = [True] * MIN_ALIKE + [False] * (50 - MIN_ALIKE)
    assert parsed_of(plain) == parsed_of(padded) == parsed_of(code) == wanted


def test_identifiers_and_counts_of_tokens_are_no_other_form() -> None:
    """An identifier is another in the next stream, Gemini's counts are in the next event."""
    plain = [chat_chunk({"content": "word"}) for _ in range(20)]
    named = [
        event
        | {"id": f"chatcmpl-{number}", "responseId": f"x_{number}"}
        | {"usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4 + number}}
        for number, event in enumerate(plain)
    ]
    assert parsed_of(named) == [True] * MIN_ALIKE + [False] * (20 - MIN_ALIKE)


def test_a_long_form_is_not_compiled() -> None:
    """It would hold up all other streams."""
    event = chat_chunk({"content": "word"}) | {"system_fingerprint": "f" * MAX_FORM_BYTES}
    assert all(parsed_of([event] * 10))


def test_where_events_keep_differing_no_more_patterns_are_made() -> None:
    """They would be a cost and no gain: even events that are alike are parsed from then on."""
    unlike = [
        chat_chunk({"content": "word"}) | {"usage": {"n": number}}
        for number in range(MIN_ALIKE * (MAX_PATTERNS + 1))
    ]
    alike = [chat_chunk({"content": "word"})] * 10
    assert all(parsed_of([*unlike, *alike]))


def test_a_stream_begins_with_the_patterns_of_its_model() -> None:
    """Also where the last stream has ended in another form; another model has none of them."""
    words = [chat_chunk({"content": f"word {number}"}) | {"id": "one"} for number in range(9)]
    thoughts = [chat_chunk({"reasoning_content": f"word {number}"}) for number in range(9)]
    again = [event | {"id": "two"} for event in words]
    assert parsed_of([*words, *thoughts], model="learned").count(True) == 2 * MIN_ALIKE
    assert parsed_of(again, model="learned") == [True] + [False] * 8  # its path is that learned
    assert parsed_of(again, model="other").count(True) == MIN_ALIKE


def test_an_event_without_text_that_repeats_the_last_one_is_not_parsed() -> None:
    """Some providers send thousands of empty deltas or pings; another name is another event."""
    reader = EventPatternCache()
    ping, empty = b'{"type":"ping"}', json.dumps(chat_chunk({"content": ""})).encode()
    _ = reader.read(json.dumps(chat_chunk({"content": "word"})).encode(), event="")
    for payload, event in ((ping, "ping"), (empty, ""), (ping, "ping"), (ping, "error")):
        read = reader.read(payload, event=event)
        assert read == read_answer(payload, event=event)
        assert reader.read(payload, event=event) is read


def test_the_first_event_of_streams_is_learned_when_it_comes_again() -> None:
    """It has the role and no text, and nothing else that is new."""
    role = chat_chunk({"role": "assistant", "content": ""})
    for number in range(4):
        reader = EventPatternCache("first")
        first, second, third = (
            json.dumps(role | {"id": f"chatcmpl-{number}{letter}"}).encode() for letter in "abc"
        )
        assert reader.read(first, event="") == read_answer(first)
        read = reader.read(second, event="")
        assert (read is reader.read(third, event="")) is (number > 0)


AUDIO = {"type": "response.output_audio.delta", "output_index": 0}


@pytest.mark.parametrize(
    ("around", "field", "event"),
    [
        pytest.param(AUDIO, "delta", "", id="by type"),
        pytest.param({"output_index": 0}, "delta", "response.audio.delta", id="by event name"),
        pytest.param({"event_type": "speech.audio.delta"}, "audio", "", id="of speech"),
        pytest.param({"type": "chunk"}, "bytes", "", id="of Bedrock"),
        pytest.param({}, "data", "", id="a file"),
    ],
)
@pytest.mark.parametrize("is_listed", [False, True])
def test_events_whose_text_may_be_a_payload_are_not_learned(
    around: dict[str, JsonValue], field: str, event: str, *, is_listed: bool
) -> None:
    """A provider that begins with other values would have its audio pass as text."""
    reader = EventPatternCache()
    for value in (*["not base64!"] * MIN_ALIKE, "QUJD" * 20):
        payload = json.dumps(around | {field: [value] if is_listed else value}).encode()
        assert reader.read(payload, event=event) == read_answer(payload, event=event)


def test_a_text_named_like_an_event_of_audio_is_learned() -> None:
    """It is the type of an event that decides, and the name of the field."""
    words = [
        {"choices": [{"index": 0, "delta": {"content": f"{number} {AUDIO['type']} chunk"}}]}
        for number in range(9)
    ]
    assert parsed_of(words).count(True) == MIN_ALIKE
