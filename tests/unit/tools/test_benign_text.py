from __future__ import annotations

import pytest
from egret_tools.benign_text import benign_text


@pytest.mark.parametrize("size", [1, 100, 8192])
def test_a_benign_text_has_its_size_and_is_the_same_every_time(size: int) -> None:
    """Two runs measure the same thing."""
    assert len(benign_text(size).encode()) == size
    assert benign_text(size) == benign_text(size)
    assert benign_text(size).isascii()


def test_seeds_make_different_texts() -> None:
    """Otherwise there would be no use for them."""
    assert benign_text(200, seed=1) != benign_text(200, seed=2)
