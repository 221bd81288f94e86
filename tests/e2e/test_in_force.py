"""A change is in force in every worker once its command has returned."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.command_line import Egret, Ran
from tests.support.stack import Answer, Stack, chat

pytestmark = [
    pytest.mark.stack,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
]

REQUESTS, SECONDS_BETWEEN, ROUNDS = 10, 0.05, 1
"""In full: 40 requests, two a second, ten times."""

POLICY = """\
name: swapped
guardrails:
  - {{name: secrets, type: secrets}}
  - {{name: pii, type: pii, action: redact}}
  - {{name: words, type: denied_terms, terms: [{term}]}}
"""


async def run(stack: Stack, *arguments: str) -> Ran:
    return await asyncio.to_thread(Egret(stack.facts.postgres_dsn), *arguments)


async def requests(stack: Stack, key: str, text: str) -> list[Answer]:
    """Send requests at a steady rate, so that every worker gets some."""
    answers: list[Answer] = []
    for _ in range(REQUESTS):
        answers.append(await stack.post(chat(text), key=key))
        await asyncio.sleep(SECONDS_BETWEEN)
    return answers


async def test_no_request_is_judged_by_the_old_policy_after_apply_has_returned(
    stack: Stack, tmp_path: Path
) -> None:
    """Nor after a rollback: each command says in how many workers the version is in force."""
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.format(term="round0"))
    ran = await run(stack, "policy", "apply", "-f", str(file), "--yes")
    key = (await stack.new_key("swapped")).reveal()
    for number in range(1, ROUNDS + 1):
        file.write_text(POLICY.format(term=f"round{number}"))

        ran = await run(stack, "policy", "apply", "-f", str(file), "--yes")

        assert (ran.code, f" is in force in {stack.workers} workers" in ran.err) == (0, True)
        answers = await requests(stack, key, f"the word is round{number}")
        assert [one.status for one in answers] == [400] * REQUESTS

    ran = await run(stack, "policy", "rollback", "swapped", "--yes")

    assert ran.err.endswith(f" is in force in {stack.workers} workers\n")
    answers = await requests(stack, key, f"the word is round{ROUNDS}")
    assert [one.status for one in answers] == [200] * REQUESTS


async def test_a_key_is_refused_by_every_worker_once_its_revocation_has_returned(
    stack: Stack,
) -> None:
    """Every worker had it in its cache."""
    key = await stack.new_key("free")
    before = await requests(stack, key.reveal(), "hello")

    ran = await run(stack, "keys", "revoke", key.key_id)

    assert ran.err == f"This is in force in {stack.workers} workers.\n"
    after = await requests(stack, key.reveal(), "hello")
    assert {one.status for one in before} == {200}
    assert {one.status for one in after} == {401}
