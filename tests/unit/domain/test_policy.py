"""Policies and the scope of a guardrail."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from sidecar.domain.guardrail_settings import PiiSettings
from sidecar.domain.policy import (
    EVERYWHERE,
    Exemption,
    ExemptLevel,
    Guardrail,
    Scope,
    Stage,
    judges_input,
    name_beside,
)
from sidecar.domain.subject import Operation
from sidecar.policy.fields import GuardrailName

LAST_DAY = Exemption(ExemptLevel.KEY, "k1a2b3c4d5e6", date(2026, 11, 30), "a migration")


def test_an_exception_ends_with_its_day_in_utc() -> None:
    """The day itself is included."""
    assert LAST_DAY.ends_at == datetime(2026, 12, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("scope", "on_key", "on_headers"),
    [
        (EVERYWHERE, False, False),
        (Scope(models=("gpt-*",)), False, False),
        (Scope(routes=(Operation.CHAT,)), False, True),
        (Scope(rollout=1_000), True, True),
        (Scope(exceptions=(LAST_DAY,)), True, True),
    ],
    ids=["all requests", "models", "routes", "a share of keys", "an exception"],
)
def test_a_scope_depends_on_the_key_the_headers_or_neither(
    scope: Scope, *, on_key: bool, on_headers: bool
) -> None:
    """A model is known with the body only."""
    assert (scope.depends_on_key, scope.depends_on_caller) == (on_key, on_headers)


def test_a_guardrail_of_answers_does_not_check_requests() -> None:
    """One of both sides does."""
    stages = [judges_input(Guardrail("pii", PiiSettings(), stage=stage)) for stage in Stage]

    assert dict(zip(Stage, stages, strict=True)) == {
        Stage.INPUT: True,
        Stage.OUTPUT: False,
        Stage.BOTH: True,
    }


def test_a_name_beside_a_mandatory_guardrail_cannot_be_given_by_a_document() -> None:
    assert name_beside("pii", "search-team") == "pii.search-team"
    with pytest.raises(ValidationError):
        TypeAdapter(GuardrailName).validate_python(name_beside("pii", "search-team"))
