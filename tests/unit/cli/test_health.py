from __future__ import annotations

import pytest

from sidecar.cli.health import Question, WorkerState, holds

SERVING, NOT_SERVING, SILENT = WorkerState


@pytest.mark.parametrize(
    ("states", "yes"),
    [
        ((SERVING, SERVING), {Question.STARTED, Question.READY, Question.LIVE}),
        ((SERVING, SILENT), {Question.READY, Question.LIVE}),
        ((NOT_SERVING, SILENT), {Question.LIVE}),
        ((SILENT, SILENT), set()),
    ],
    ids=["all serve", "one is gone", "drains", "hopeless"],
)
def test_what_workers_say_answers_an_orchestrators_questions(
    states: tuple[WorkerState, ...], yes: set[Question]
) -> None:
    """A worker that drains is not to be killed, and one that is gone takes no others along."""
    assert {question for question in Question if holds(question, states)} == yes
