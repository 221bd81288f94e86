from __future__ import annotations

import pytest

from sidecar.console.forms import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), (" , ", None), ("gpt-4o", ("gpt-4o",)), ("a, b\nc", ("a", "b", "c"))],
)
def test_words_are_separated_by_commas_and_blanks(
    text: str, expected: tuple[str, ...] | None
) -> None:
    assert words(text) == expected
