from __future__ import annotations

import json

import pytest

from loadtest.texts import benign_text, chat_body, hostile_texts


@pytest.mark.parametrize("size", [1, 100, 8192])
def test_a_benign_text_has_its_size_and_is_the_same_every_time(size: int) -> None:
    """Two runs measure the same thing."""
    assert len(benign_text(size).encode()) == size
    assert benign_text(size) == benign_text(size)
    assert benign_text(size).isascii()


def test_seeds_make_different_texts() -> None:
    """Otherwise there would be no use for them."""
    assert benign_text(200, seed=1) != benign_text(200, seed=2)


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
