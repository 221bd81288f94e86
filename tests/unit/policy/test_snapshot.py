from __future__ import annotations

import dataclasses

import pytest

from sidecar.domain.cooperative import run_sync
from sidecar.domain.guardrail_settings import DeniedPattern, DeniedPatternsSettings
from sidecar.domain.policy import Guardrail, Policy
from sidecar.domain.principal import PolicyBinding
from sidecar.guardrails.detectors import language
from sidecar.guardrails.detectors import whole_text as max_tokens
from sidecar.guardrails.matching.database import CompileError
from sidecar.policy.compilation import compile_database, compile_in_subprocess
from sidecar.policy.snapshot import EffectivePolicy, MissingPolicy, build_snapshot, snapshot_steps
from tests.support.guardrails import parts_of, policy
from tests.support.many_rules import many_rules

CODES = policy(
    "  - {name: a, type: denied_patterns, patterns: [{name: CODE, regex: 'PRJ-[0-9]'}]}", "codes"
)
LARGE = {
    "  - {name: a, type: language, allowed: [en]}": language._identifier,
    "  - {name: a, type: max_tokens, max_tokens: 9}": max_tokens._counter,
}
"""A guardrail, and what reads the large tables that it judges by."""


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


def test_a_guardrails_tables_are_read_with_its_policy_and_not_before() -> None:
    """A worker without `language` and `max_tokens` has 150 MB less, and pays for none of it."""
    for read in LARGE.values():
        read.cache_clear()
    build_snapshot(())
    assert [read.cache_info().currsize for read in LARGE.values()] == [0, 0]
    for guardrail in LARGE:
        build_snapshot((policy(guardrail),))
    assert [read.cache_info().currsize for read in LARGE.values()] == [1, 1]


CODES_TEXT = """\
name: codes
guardrails: [{name: a, type: denied_patterns, patterns: [{name: CODE, regex: 'PRJ-[0-9]'}]}]
"""


async def test_policies_read_and_compiled_elsewhere_find_the_same() -> None:
    """What the other process sends back stands for the documents it was given."""
    compiled = await compile_in_subprocess([(CODES_TEXT, 7)])
    snapshot = run_sync(snapshot_steps(compiled, prepared_for=[PolicyBinding(team="codes")]))

    assert compiled.policies == (dataclasses.replace(CODES, version=7),)
    assert snapshot.bindings == (PolicyBinding(team="codes"),)
    found = snapshot.effective(PolicyBinding(key="codes"))
    assert isinstance(found, EffectivePolicy)
    (outcome,) = found.local.scan(parts_of(["PRJ-1"]))
    assert outcome.error_type is None
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CODES_TEXT.replace("PRJ", "secret("), "cannot be compiled together"),
        ("secret: 1", "cannot be read"),
    ],
    ids=["not an expression", "not a policy"],
)
async def test_the_compiling_process_tells_a_failure(text: str, words: str) -> None:
    """Its exit code is the answer; nothing of the document is repeated."""
    with pytest.raises(CompileError, match=words) as raised:
        await compile_in_subprocess([(text, 1)])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("count", [500, 10_000])
async def test_the_compiling_process_is_allowed_so_much_cpu_time(count: int) -> None:
    """It ends by itself, however many rules there are, and what it was at is told by its kind."""
    text = many_rules(count, name="many")
    with pytest.raises(CompileError, match="more CPU time to compile than is allowed"):
        await compile_in_subprocess([(text, 1)], cpu_seconds=1)


async def test_policies_without_expressions_need_no_database() -> None:
    """The matching engine cannot compile nothing; nothing is what is scanned for."""
    compiled = await compile_in_subprocess([("name: default", 1)])
    snapshot = run_sync(snapshot_steps(compiled))
    assert isinstance(snapshot.effective(PolicyBinding()), EffectivePolicy)
