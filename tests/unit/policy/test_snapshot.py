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
from sidecar.guardrails.registry import CORE
from sidecar.policy import snapshot as snapshots
from sidecar.policy.compilation import CompiledPolicy, compile_in_subprocess, compile_policy
from sidecar.policy.snapshot import (
    EffectivePolicy,
    MissingPolicy,
    PolicySnapshot,
    build_snapshot,
    snapshot_steps,
)
from tests.support.guardrails import parts_of, policy
from tests.support.many_rules import many_rules

CODES_OF = "  - {{name: a, type: denied_patterns, patterns: [{{name: CODE, regex: '{}-[0-9]'}}]}}"
CODES = policy(CODES_OF.format("PRJ"), "codes")
LARGE = {
    "  - {name: a, type: language, allowed: [en]}": language._model,
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
    compiled = await compile_in_subprocess([CODES_TEXT])
    snapshot = run_sync(snapshot_steps(compiled, prepared_for=[PolicyBinding(team="codes")]))

    assert [one.policy for one in compiled] == [CODES]
    assert snapshot.bindings == (PolicyBinding(team="codes"),)
    found = snapshot.effective(PolicyBinding(key="codes"))
    assert isinstance(found, EffectivePolicy)
    (outcome,) = found.local.scan(parts_of(["PRJ-1"]))
    assert outcome.failure is None
    assert [one.type for one in outcome.findings] == ["CODE"]


def with_database(database: bytes) -> CompiledPolicy:
    """Return a policy that no other test compiles, with *database* in place of its own."""
    compiled = compile_policy(policy(CODES_OF.format("REFUSED"), "refused"))
    ((expressions, _),) = compiled.databases
    return dataclasses.replace(compiled, databases=((expressions, database),))


@pytest.mark.parametrize("database", [b"", b"junk", compile_policy(CODES).databases[0][1]])
def test_a_database_of_other_policies_is_refused(database: bytes) -> None:
    """Ids of another database would name the wrong rules."""
    with pytest.raises(CompileError):
        run_sync(snapshot_steps([with_database(database)]))


def test_a_database_cut_short_is_refused() -> None:
    """A digest alone does not make a database."""
    ((_, whole),) = compile_policy(policy(CODES_OF.format("REFUSED"))).databases
    with pytest.raises(CompileError):
        run_sync(snapshot_steps([with_database(whole[:40])]))


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
        await compile_in_subprocess([text])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("count", [500, 10_000])
async def test_the_compiling_process_is_allowed_so_much_cpu_time(count: int) -> None:
    """It ends by itself, however many rules there are, and what it was at is told by its kind."""
    text = many_rules(count, name="many")
    with pytest.raises(CompileError, match="more CPU time to compile than is allowed"):
        await compile_in_subprocess([text], cpu_seconds=1)


async def test_policies_without_expressions_need_no_database() -> None:
    """The matching engine cannot compile nothing; nothing is what is scanned for."""
    compiled = await compile_in_subprocess(["name: default"])
    snapshot = run_sync(snapshot_steps(compiled))
    assert isinstance(snapshot.effective(PolicyBinding()), EffectivePolicy)


def of(snapshot: PolicySnapshot, key: str, **above: str) -> EffectivePolicy:
    found = snapshot.effective(PolicyBinding(key=key, **above))
    assert isinstance(found, EffectivePolicy)
    return found


def test_policies_of_equal_content_share_their_scans() -> None:
    """However many teams have the same rules, a worker holds these once."""
    again = policy(CODES_OF.format("PRJ"), "again")
    snapshot = build_snapshot((CODES, again, policy(CODES_OF.format("OTHER"), "other")))

    assert of(snapshot, "codes").local is of(snapshot, "again").local
    assert of(snapshot, "codes").answers.local is of(snapshot, "other").answers.local
    assert of(snapshot, "codes").local is not of(snapshot, "other").local


def test_a_policy_is_searched_by_its_own_expressions_and_those_of_every_policy_alone() -> None:
    """Patterns of other teams cost a request nothing, and mandatory ones of its own hold."""
    mandatory = policy(
        CODES_OF.format("ORG").replace("name: a,", "name: b, mandatory: true,"), "org"
    )
    snapshot = build_snapshot((CODES, mandatory, policy(CODES_OF.format("OTHER"), "other")))
    own, both = of(snapshot, "codes").local, of(snapshot, "codes", organization="org").local

    assert [len(one._database.ids) - len(CORE) for one in (own, both)] == [1, 2]
    found = both.scan(parts_of(["PRJ-1 and ORG-1 and OTHER-1"]))
    assert [len(one.findings) for one in found] == [1, 1]


def test_a_change_leaves_what_other_policies_have_in_force() -> None:
    """Only bindings of a changed policy are worked out again, those above and below included."""
    demanding = CODES_OF.replace("name: a,", "name: a, mandatory: true,")
    before = build_snapshot(
        [
            policy(demanding.format(name.upper()), name)
            for name in ("first", "second", "org", "gone")
        ]
    )
    kept = of(before, "first")
    bindings = (PolicyBinding("second"), PolicyBinding("first", organization="org"))
    changed = [before.effective(one) for one in bindings]
    of(before, "gone")

    compiled = [
        compile_policy(dataclasses.replace(policy(demanding.format("NEW"), name), version=2))
        for name in ("second", "org")
    ]
    steps = snapshot_steps(compiled, before=before, without=["gone"], prepared_for=before.bindings)
    after = run_sync(steps)

    assert of(after, "first") is kept
    assert all(after.effective(one) is not was for one, was in zip(bindings, changed, strict=True))
    assert [one.name for one in after.policies] == ["default", "first", "org", "second"]
    assert after.effective(PolicyBinding("gone")) == MissingPolicy("gone")
    assert [one.type for one in of(after, "second").local.scan(parts_of(["NEW-1"]))[0].findings]


def test_a_stored_default_that_is_removed_gives_way_to_the_built_in_one() -> None:
    """Also for bindings that were looked up before."""
    before = build_snapshot((Policy("default", 4),))
    before.effective(PolicyBinding())

    after = run_sync(snapshot_steps([], before=before, without=["default"]))

    found = after.effective(PolicyBinding())
    assert isinstance(found, EffectivePolicy)
    assert (found.version, found.needs_body) == (0, True)


def test_bindings_beyond_the_bound_drop_the_oldest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more owners than are remembered, most of their policies stay at hand."""
    monkeypatch.setattr(snapshots, "MAX_REMEMBERED", 3)
    snapshot = build_snapshot((CODES,))
    bindings = [PolicyBinding(f"absent-{number}") for number in range(5)]
    for binding in bindings:
        snapshot.effective(binding)

    assert snapshot.bindings == tuple(bindings[2:])


def test_policies_that_differ_share_the_rules_that_they_have_in_common() -> None:
    """Thousands of teams have the same built-in guardrails beside a few patterns of their own."""
    common = "  - {name: s, type: secrets}\n"
    snapshot = build_snapshot(
        [policy(common + CODES_OF.format(name.upper()), name) for name in ("one", "two")]
    )
    one, two = (of(snapshot, name).local for name in ("one", "two"))

    assert one._checks[0] is two._checks[0]
    assert one._checks[1] is not two._checks[1]
    assert one._rule_ids is two._rule_ids
