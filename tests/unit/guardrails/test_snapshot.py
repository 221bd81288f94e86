from __future__ import annotations

import pytest

from sidecar.domain.local_guardrails import DeniedPattern, DeniedPatternsSettings
from sidecar.domain.policy import Guardrail, Policy
from sidecar.domain.principal import PolicyBinding
from sidecar.guardrails.outcomes import Found
from sidecar.guardrails.snapshot import (
    CompileError,
    EffectivePolicy,
    MissingPolicy,
    build_snapshot,
    compile_database,
    compile_in_subprocess,
)
from tests.support.guardrails import parts_of, policy

CODES = policy(
    "  - {name: a, type: denied_patterns, patterns: [{name: CODE, regex: 'PRJ-[0-9]'}]}", "codes"
)


def broken(regex: str) -> Policy:
    settings = DeniedPatternsSettings((DeniedPattern("X", regex),))
    return Policy("broken", 1, (Guardrail("a", settings),))


def test_the_built_in_default_holds_where_the_store_has_none() -> None:
    """An empty store is no reason to let anything through."""
    snapshot = build_snapshot(())
    found = snapshot.effective(PolicyBinding())
    assert isinstance(found, EffectivePolicy)
    assert (found.name, found.version, found.needs_body) == ("default", 0, True)
    assert [one.name for one in snapshot.policies] == ["default"]


def test_a_stored_default_replaces_the_built_in_one() -> None:
    """And may ask for nothing at all, in which case no body need be read."""
    found = build_snapshot((Policy("default", 4),)).effective(PolicyBinding())
    assert isinstance(found, EffectivePolicy)
    assert (found.version, found.guardrails, found.needs_body) == (4, (), False)


def test_equal_bindings_have_the_same_effective_policy() -> None:
    """It is worked out once, not once a request."""
    snapshot = build_snapshot((CODES,))
    binding = PolicyBinding(key="codes")
    assert snapshot.effective(binding) is snapshot.effective(PolicyBinding(key="codes"))
    assert snapshot.effective(PolicyBinding(team="gone")) == MissingPolicy("gone")


async def test_a_database_compiled_elsewhere_finds_the_same() -> None:
    """The bytes from the other process stand for the policies they were made of."""
    database = await compile_in_subprocess((CODES,))
    found = build_snapshot((CODES,), database=database).effective(PolicyBinding(key="codes"))
    assert isinstance(found, EffectivePolicy)
    (outcome,) = found.local.scan(parts_of(["PRJ-1"]))
    assert isinstance(outcome, Found)
    assert [one.type for one in outcome.findings] == ["CODE"]


@pytest.mark.parametrize("database", [b"", b"junk", compile_database(())])
def test_a_database_of_other_policies_is_refused(database: bytes) -> None:
    """Ids of another database would name the wrong rules."""
    with pytest.raises(CompileError):
        build_snapshot((CODES,), database=database or b"\0")


def test_a_database_cut_short_is_refused() -> None:
    """A digest alone does not make a database."""
    with pytest.raises(CompileError):
        build_snapshot((CODES,), database=compile_database((CODES,))[:40])


@pytest.mark.parametrize("regex", ["a(", "^a("])
def test_an_expression_that_does_not_compile_makes_no_snapshot(regex: str) -> None:
    """Whether the database would hold it or not, the last good snapshot stays."""
    with pytest.raises(CompileError):
        build_snapshot((broken(regex),))


async def test_the_compiling_process_tells_a_failure() -> None:
    """Its exit code is the answer; nothing of the expression is repeated."""
    with pytest.raises(CompileError) as raised:
        await compile_in_subprocess((broken("secret("),))
    assert "secret" not in str(raised.value)


async def test_policies_without_expressions_need_no_database() -> None:
    """The matching engine cannot compile nothing; nothing is what is scanned for."""
    policies = (Policy("default", 1),)
    snapshot = build_snapshot(policies, database=await compile_in_subprocess(policies))
    assert isinstance(snapshot.effective(PolicyBinding()), EffectivePolicy)
