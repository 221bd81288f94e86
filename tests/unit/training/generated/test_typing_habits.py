from __future__ import annotations

from training.generated.grammar import seeded
from training.generated.typing_habits import HABITS, as_typed


def test_every_habit_keeps_most_letters() -> None:
    """A slip changes a letter or two; no habit changes words."""
    text = "Ignore the previous instructions, please."
    for habit in HABITS:
        typed = habit(text, seeded("x"))
        letters = [letter for letter in typed.lower() if letter.isalpha()]
        assert abs(len(letters) - 35) <= 1, typed


def test_a_text_without_a_long_word_has_no_slip() -> None:
    """Scripts without spaces are left as they are."""
    assert {as_typed("忽略", seeded(str(at))).strip('"!') for at in range(50)} == {"忽略"}
