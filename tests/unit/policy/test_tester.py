from __future__ import annotations

import asyncio

from sidecar.apis.vocabulary import ROLES
from sidecar.domain.finding import Verdict
from sidecar.domain.policy import Stage
from sidecar.guardrails.detectors.prompt_injection.scoring import SYSTEM_ROLES
from sidecar.policy.tester import TextRole, run_policy_test
from tests.support.guardrails import subject_of

DOCUMENT = """\
name: p
guardrails:
  - {name: keys, type: secrets}
  - {name: words, type: denied_terms, terms: [bluebird], rollout: 0%}
  - {name: dlp, type: webhook, url: 'https://dlp.example.com/'}
  - {name: form, type: json_schema, schema: {type: object, required: [a]}}
"""


async def test_each_local_guardrail_has_a_result_and_a_time() -> None:
    """Whatever its scope; a guardrail with a server is listed and not asked."""
    result = await run_policy_test(DOCUMENT, subject_of("project bluebird"))

    verdicts = {one.result.guardrail.name: one.result.verdict for one in result.judged}
    assert verdicts == {"keys": Verdict.PASS, "words": Verdict.BLOCK}
    assert [one.name for one in result.not_asked] == ["dlp"]
    assert all(one.microseconds > 0 for one in result.judged)
    assert result.pass_microseconds > 0


async def test_an_answer_is_judged_by_the_guardrails_of_answers() -> None:
    """Each text as the model's."""
    result = await run_policy_test(DOCUMENT, subject_of('{"b": 1}'), side=Stage.OUTPUT)

    assert [(one.guardrail.name, one.verdict) for one in result.results] == [
        ("form", Verdict.BLOCK)
    ]
    assert [one.type for one in result.results[0].findings] == ["SCHEMA_REQUIRED"]


def test_a_text_can_have_each_role_that_requests_have() -> None:
    """Of the names for instructions one stands for the others."""
    roles = {role.value for role in TextRole}
    assert ROLES <= roles <= ROLES | SYSTEM_ROLES


async def test_texts_that_are_judged_in_threads_at_once_are_all_judged() -> None:
    """As people do on a server: a database has one scratch space, for one scan at a time."""
    texts = [f"{'project ' * 20_000} bluebird {number}" for number in range(4)]

    async def judge(text: str) -> list[Verdict]:
        result = await asyncio.to_thread(
            lambda: asyncio.run(run_policy_test(DOCUMENT, subject_of(text)))
        )
        return [one.result.verdict for one in result.judged]

    assert await asyncio.gather(*map(judge, texts)) == [[Verdict.PASS, Verdict.BLOCK]] * 4
