from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from sidecar.domain.guardrail_settings import PiiSettings
from sidecar.domain.policy import (
    EVERYWHERE,
    Exemption,
    ExemptLevel,
    Guardrail,
    RequestScope,
    Scope,
)
from sidecar.domain.subject import Operation
from sidecar.policy.snapshot import (
    Applicability,
    applicability_of,
    applies_to_model,
    rollout_position,
)

KEY, TEAM = "abcdefghijkl", "acme/search"
LAST_DAY = date(2026, 12, 31)
LAST_SECOND = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def scoped(scope: Scope) -> Guardrail:
    return Guardrail("pii", PiiSettings(), scope=scope)


def asking(
    operation: Operation | None = Operation.CHAT, *, at: float = LAST_SECOND
) -> RequestScope:
    return RequestScope(operation=operation, key_id=KEY, team=TEAM, at=at)


def exempting(level: ExemptLevel, name: str) -> Scope:
    return Scope(exceptions=(Exemption(level, name, LAST_DAY, "migration"),))


EMBEDDINGS = Scope(routes=(Operation.EMBEDDINGS,))


@pytest.mark.parametrize(
    ("scope", "operation", "expected"),
    [
        pytest.param(EVERYWHERE, Operation.CHAT, Applicability.APPLIES, id="every request"),
        pytest.param(EMBEDDINGS, Operation.EMBEDDINGS, Applicability.APPLIES, id="its route"),
        pytest.param(EMBEDDINGS, Operation.CHAT, Applicability.OUT_OF_SCOPE, id="another route"),
        pytest.param(EMBEDDINGS, None, Applicability.APPLIES, id="a path nobody knows"),
        pytest.param(
            EMBEDDINGS, Operation.STORED_RESPONSE, Applicability.APPLIES, id="stored content"
        ),
        pytest.param(
            Scope(rollout=0), Operation.CHAT, Applicability.OUT_OF_SCOPE, id="rolled out to none"
        ),
        pytest.param(
            exempting(ExemptLevel.KEY, KEY), Operation.CHAT, Applicability.EXEMPT, id="its key"
        ),
        pytest.param(
            exempting(ExemptLevel.KEY, TEAM),
            Operation.CHAT,
            Applicability.APPLIES,
            id="another key",
        ),
        pytest.param(
            exempting(ExemptLevel.TEAM, TEAM), Operation.CHAT, Applicability.EXEMPT, id="its team"
        ),
        pytest.param(
            exempting(ExemptLevel.TEAM, "other/search"),
            Operation.CHAT,
            Applicability.APPLIES,
            id="a team of the same name elsewhere",
        ),
    ],
)
def test_a_guardrail_holds_for_the_requests_of_its_scope(
    scope: Scope, operation: Operation | None, expected: Applicability
) -> None:
    """By route, share of keys, and exception."""
    assert applicability_of(scoped(scope), asking(operation)) is expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [(LAST_SECOND, Applicability.EXEMPT), (LAST_SECOND + 1, Applicability.APPLIES)],
)
def test_an_exception_ends_with_its_day(at: float, expected: Applicability) -> None:
    """At midnight UTC the guardrail holds again, without anybody doing anything."""
    assert applicability_of(scoped(exempting(ExemptLevel.KEY, KEY)), asking(at=at)) is expected


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("gpt-5-mini", id="its model"),
        pytest.param("GPT-5-Mini", id="a provider may not mind the case"),
        pytest.param(None, id="no model"),
        pytest.param(" claude-opus", id="a provider may trim"),
        pytest.param("claude\u200b-opus", id="a provider may drop what is not seen"),
        pytest.param("claude%2Dopus", id="a provider may unescape"),
        pytest.param("", id="an empty name"),
        pytest.param("c" * 201, id="longer than any name"),
    ],
)
def test_a_model_that_could_be_read_otherwise_is_within_every_scope(model: str | None) -> None:
    """A client chooses the name: only a plain one can take it out of a scope."""
    assert applies_to_model(scoped(Scope(models=("Gpt-5*", "o3"))), model)


@pytest.mark.parametrize("model", ["claude-opus", "o3-mini", "openai/gpt-5", "ft:o3:acme_x"])
def test_a_plain_name_that_no_glob_matches_is_outside(model: str) -> None:
    """Globs match the whole name."""
    assert not applies_to_model(scoped(Scope(models=("Gpt-5*", "o3"))), model)


def test_a_roll_out_takes_about_its_share_and_keeps_it_as_it_grows() -> None:
    """A key's place depends on key and guardrail only, never on the request."""
    keys = [f"key{number:09}" for number in range(4_000)]

    def taken(rollout: int) -> set[str]:
        guardrail = scoped(Scope(rollout=rollout))
        return {
            key
            for key in keys
            if applicability_of(guardrail, RequestScope(None, key, TEAM, 0.0))
            is Applicability.APPLIES
        }

    tenth, half = taken(1_000), taken(5_000)

    assert tenth < half < taken(10_000) == set(keys)
    assert 300 < len(tenth) < 500
    assert [rollout_position("pii", key) for key in keys[:5]] == [
        rollout_position("pii", key) for key in keys[:5]
    ]
    assert [rollout_position("pii", key) for key in keys] != [
        rollout_position("dlp", key) for key in keys
    ]
