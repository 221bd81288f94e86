"""Combines the health of all workers into answers to an orchestrator's probes."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import assert_never


class WorkerState(enum.Enum):
    """The health that one worker reports."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    """It starts or drains."""
    SILENT = "silent"


class Question(enum.Enum):
    """An orchestrator's probe of all workers together.

    STARTED: all of them serve, so that Envoy may be started.
    READY: one of them serves, so that requests may come; Envoy leaves out the others.
    LIVE: one of them answers, even if it drains, so that a restart would not help.
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
