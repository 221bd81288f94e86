"""What workers say of themselves, and what an orchestrator makes of it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import assert_never


class WorkerState(enum.Enum):
    """What one worker says of itself."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    """It starts or drains."""
    SILENT = "silent"


class Question(enum.Enum):
    """What an orchestrator wants to know of all workers together.

    STARTED: may whoever sends requests be started? All of them serve.
    READY: may requests come? One of them serves; Envoy leaves out the others.
    LIVE: is there hope without a restart? One of them answers, be it that it drains.
    """

    STARTED = "started"
    READY = "ready"
    LIVE = "live"


def holds(question: Question, states: Sequence[WorkerState]) -> bool:
    """Answer *question* by the states of the workers."""
    match question:
        case Question.STARTED:
            return all(state is WorkerState.SERVING for state in states)
        case Question.READY:
            return any(state is WorkerState.SERVING for state in states)
        case Question.LIVE:
            return any(state is not WorkerState.SILENT for state in states)
        case _:
            assert_never(question)
