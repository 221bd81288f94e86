from __future__ import annotations

import json

import pytest

from loadtest.texts import chat_body, hostile_texts


def test_a_chat_body_has_its_size_and_is_a_request() -> None:
    """Its text fills what the frame leaves."""
    body = chat_body(900)
    assert len(body) == 900
    assert [one["role"] for one in json.loads(body)["messages"]] == ["system", "user"]


def test_a_chat_body_has_room_for_its_frame() -> None:
    """A smaller one is refused rather than cut."""
    with pytest.raises(ValueError, match="without any text"):
        chat_body(20)


def test_hostile_texts_have_nearly_the_size_asked_for() -> None:
    """A character that the cut would break is left out."""
    texts = hostile_texts(1000)
    assert {name for name, text in texts.items() if not 996 <= len(text.encode()) <= 1000} == set()
    assert len(texts) > 10
