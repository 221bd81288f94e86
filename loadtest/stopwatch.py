"""Says where time goes: the own time of named functions, what they call taken out."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final


class Stopwatch:
    """Time between `reset` and `seconds`, each instant counted for exactly one stage.

    Whatever no named function accounts for is the *rest*. One thread; functions, not coroutines.
    """

    def __init__(self, rest: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._rest: Final = rest
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Begin anew, outside of every named function."""
        self._spent: dict[str, float] = {}
        self._running = [self._rest]
        self._since = self._clock()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every stage met since `reset`; they add up to all of it."""
        self._switch()
        return dict(self._spent)

    @contextmanager
    def on(self, stages: Iterable[tuple[Any, str, str]]) -> Iterator[None]:
        """Watch functions while the block lasts: their owner, their name, their stage."""
        with ExitStack() as undo:
            for owner, name, stage in stages:
                watched = getattr(owner, name)
                undo.callback(setattr, owner, name, watched)
                setattr(owner, name, self._timed(watched, stage))
            yield

    def _timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            self._switch()
            self._running.append(stage)
            try:
                return function(*args, **options)
            finally:
                self._switch()
                self._running.pop()

        return timed

    def _switch(self) -> None:
        """Count the time up to now for the stage that runs."""
        now = self._clock()
        stage = self._running[-1]
        self._spent[stage] = self._spent.get(stage, 0.0) + now - self._since
        self._since = now
