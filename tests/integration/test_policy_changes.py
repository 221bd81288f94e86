"""New versions of policies for callers that are no terminal; the API's tests have the rest."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from sidecar.admin.owners import ChangeRefusedError, InvalidValueError
from sidecar.admin.policy_changes import (
    apply_plan,
    document_with_mode,
    plan_change,
    read_policies,
    shown_policy,
    stored_policy,
)
from sidecar.domain.policy import Mode
from sidecar.storage.postgres_policies import StoredPolicy
from tests.support.command_line import Egret
from tests.support.postgres import Database

POLICY = "name: strict\nguardrails: [{name: a, type: pii}]\n"


async def test_of_two_plans_of_one_state_the_second_is_refused(database: Database) -> None:
    """Nothing is overwritten that its author has not seen."""
    async with database.connect() as connection:
        documents = await read_policies(POLICY)
        first, second = [await plan_change(connection, documents) for _ in range(2)]

        assert await apply_plan(connection, first, note=None) == {"strict": 1}
        with pytest.raises(ChangeRefusedError):
            await apply_plan(connection, second, note=None)


@pytest.mark.parametrize(
    ("fields", "extra"),
    [("type: language, allowed: [en]", "language"), ("type: max_tokens, max_tokens: 5", "tokens")],
)
async def test_a_guardrail_whose_package_is_missing_is_refused_with_its_extra(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: str, extra: str
) -> None:
    """By the API and on the command line: workers like this one would refuse every request."""
    text = f"name: strict\nguardrails: [{{name: a, {fields}}}]\n"
    (tmp_path / "policy.yaml").write_text(text)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    async with database.connect() as connection:
        with pytest.raises(InvalidValueError, match=f"needs the extra {extra}"):
            await plan_change(connection, await read_policies(text))
    apply = ("policy", "apply", "-f", f"{tmp_path}/policy.yaml", "--yes")
    ran = await asyncio.to_thread(Egret(database.dsn), *apply)
    assert (ran.code, f"needs the extra {extra}" in ran.err) == (1, True), ran.err
    monkeypatch.undo()
    assert (await asyncio.to_thread(Egret(database.dsn), *apply)).code == 0


async def test_a_stored_text_that_this_egret_cannot_read_is_named(database: Database) -> None:
    """It is not a fault."""
    broken = StoredPolicy("strict", 3, "name: [")

    for work in (shown_policy, lambda one: document_with_mode(one, "a", Mode.SHADOW)):
        with pytest.raises(ChangeRefusedError, match="version 3 of strict"):
            work(broken)
    async with database.connect() as connection:
        built_in = await stored_policy(connection, "default")
    assert built_in is not None
    assert built_in.version == 0
