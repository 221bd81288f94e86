from __future__ import annotations

import pytest

from loadtest.stopwatch import Stopwatch


class Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Read it."""
        return self.now

    def work(self, seconds: float) -> None:
        """Let seconds pass."""
        self.now += seconds


class Kitchen:
    """Two functions of which one calls the other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def cook(self) -> str:
        """Take 5 seconds, and those of chopping."""
        self._clock.work(3)
        self.chop()
        self._clock.work(2)
        return "soup"

    def chop(self) -> None:
        """Take 10 seconds."""
        self._clock.work(10)

    def burn(self) -> None:
        """Take a second and fail."""
        self._clock.work(1)
        raise RuntimeError("smoke")


STAGES = ((Kitchen, "cook", "cooking"), (Kitchen, "chop", "chopping"), (Kitchen, "burn", "fire"))


def test_every_second_counts_for_one_stage() -> None:
    """What a function calls is taken out of its own time; the rest is what nobody watched."""
    clock = Clock()
    watch = Stopwatch("rest", clock)
    kitchen = Kitchen(clock)
    with watch.on(STAGES):
        watch.reset()
        clock.work(4)
        assert kitchen.cook() == "soup"
        clock.work(0.5)
        assert watch.seconds() == {"rest": 4.5, "cooking": 5.0, "chopping": 10.0}


def test_a_function_that_raises_is_left_all_the_same() -> None:
    """Time after it is not counted for it."""
    clock = Clock()
    watch = Stopwatch("rest", clock)
    kitchen = Kitchen(clock)
    with watch.on(STAGES):
        with pytest.raises(RuntimeError, match="smoke"):
            kitchen.burn()
        clock.work(7)
        assert watch.seconds() == {"rest": 7.0, "fire": 1.0}


def test_nothing_stays_watched() -> None:
    """The functions are the old ones again after the block."""
    before = Kitchen.cook
    with Stopwatch("rest").on(STAGES):
        assert Kitchen.cook is not before
    assert Kitchen.cook is before
