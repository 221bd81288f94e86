from __future__ import annotations

import json
from typing import Any

import pytest
from egret_tools.conversations import Shape, conversation, even_conversation


def messages(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["messages"]
    return found


def texts(body: bytes) -> list[str]:
    return [one["content"] for one in messages(body)]


@pytest.mark.parametrize("size", [4 * 1024, 64 * 1024])
def test_an_even_conversation_has_its_size_in_forty_messages_of_one_length(size: int) -> None:
    """The rest of the division is in the system prompt."""
    talk = even_conversation(size, seed=5, turns=2)
    assert len(talk.body(1)) == size
    system, *others = map(len, texts(talk.body(1)))
    assert others == [others[0]] * 39
    assert 0 <= system - others[0] < 40
    assert len(texts(talk.body(2))) == 42


def test_a_conversation_too_small_for_its_messages_is_refused() -> None:
    """A conversation of empty messages would measure nothing."""
    with pytest.raises(ValueError, match="no room for 40 messages"):
        even_conversation(1_000, seed=1)


@pytest.mark.parametrize("shape", [one for one in Shape if one not in {Shape.CLOCK, Shape.WINDOW}])
def test_each_turn_repeats_all_messages_before_it_and_adds_two(shape: Shape) -> None:
    """As clients send them, and ends with a message that the model is to answer."""
    talk = conversation(shape, seed=3, turns=4)
    assert talk.turns == 4
    before = messages(talk.body(1))
    for turn in range(2, 5):
        now = messages(talk.body(turn))
        assert now[: len(before)] == before
        assert len(now) == len(before) + 2
        assert now[-1]["role"] in {"user", "tool"}
        before = now


@pytest.mark.parametrize("shape", Shape)
def test_a_seed_makes_one_conversation_and_others_share_no_text_with_it(shape: Shape) -> None:
    """But for the system prompt of an agent, which its users share."""
    ours, same, theirs = (
        texts(conversation(shape, seed=one, turns=6).body(6)) for one in (3, 3, 4)
    )
    assert ours == same
    shared = set(ours) & set(theirs)
    assert shared == ({ours[0]} if shape in {Shape.AGENT, Shape.CLOCK} else set())


def test_each_result_of_a_tool_belongs_to_the_call_before_it() -> None:
    """The tools are those of the request."""
    request = json.loads(conversation(Shape.AGENT, seed=1, turns=5).body(5))
    names = {one["function"]["name"] for one in request["tools"]}
    calls = [one["tool_calls"][0] for one in request["messages"] if "tool_calls" in one]
    results = [one for one in request["messages"] if one["role"] == "tool"]
    assert [one["id"] for one in calls] == [one["tool_call_id"] for one in results]
    assert {one["function"]["name"] for one in calls} <= names
    assert all("path" in json.loads(one["function"]["arguments"]) for one in calls)


def test_an_edited_conversation_differs_in_one_character_of_every_message() -> None:
    """No message is one that was sent before."""
    talk = even_conversation(8_192, seed=2, turns=2)
    before, after = texts(talk.body(2)), texts(talk.edited().body(2))
    assert [len(one) for one in before] == [len(one) for one in after]
    assert all(
        one[0] != other[0] and one[1:] == other[1:]
        for one, other in zip(before, after, strict=True)
    )


def test_a_conversation_may_lose_its_oldest_messages_and_get_another_system_prompt() -> None:
    """As clients do that keep to a context window, or say the time of day."""
    talk = even_conversation(8_192, seed=2, turns=2)
    before = texts(talk.body(2))
    assert texts(talk.without_oldest(10).body(2)) == [before[0], *before[11:]]
    system, *others = texts(talk.with_new_prompt().body(2))
    assert system != before[0]
    assert others == before[1:]


def test_a_clock_changes_the_system_prompt_of_each_turn_and_nothing_else() -> None:
    """As a prompt with the time of day does."""
    talk = conversation(Shape.CLOCK, seed=1, turns=3)
    second, third = (texts(talk.body(turn)) for turn in (2, 3))
    assert (second[0][-6:], third[0][-6:]) == ("00:02.", "00:03.")
    assert second[1:] == third[1 : len(second)]


def test_a_window_keeps_the_system_prompt_and_the_last_messages() -> None:
    """Each turn drops as many as it adds."""
    talk = conversation(Shape.WINDOW, seed=1, turns=3)
    first, third = (texts(talk.body(turn)) for turn in (1, 3))
    assert len(first) == len(third) == 40
    assert third[:36] == [first[0], *first[5:]]
