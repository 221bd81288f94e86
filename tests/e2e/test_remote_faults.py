"""What becomes of a request whose remote guardrail cannot be judged, on live Envoy.

Each row of a table is a way to fail; each is tried in both directions of `on_error` and, for the
webhook, under every action: no action makes a failure a pass, and none makes it anything else.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.faulty_servers import FaultyServers, faulty_servers
from tests.support.stack import CHAT, MESSAGES, Answer, Stack, chat, message, whole_stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

TIMEOUT_SECONDS: Final = 2
"""Of checks that time out; others have time enough on a busy machine."""
AMPLE_SECONDS: Final = 30
"""Half as long as a server takes that is slow or trickles."""
AT_A_TIME: Final = 12
_GUARDRAILS: Final = re.compile(r"guardrails;dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Case:
    """One guardrail in one policy, and what its server does."""

    type: str
    fault: str
    error_type: str
    on_error: str
    action: str = "block"

    @property
    def guardrail(self) -> str:
        """The label in the metrics, of which a worker shows a hundred: so not by action."""
        return f"{self.type}-{self.fault}-{self.on_error}".replace("_", "-")

    @property
    def policy(self) -> str:
        """The policy it is one guardrail of, which a request chooses by its model."""
        return f"{self.type}-{self.action}".replace("_", "-")

    @property
    def verdict(self) -> str:
        """The one verdict a failure has."""
        kind = "timeout" if self.error_type == "timeout" else "error"
        return f"{kind}_{'open' if self.passes else 'closed'}"

    @property
    def passes(self) -> bool:
        """Whether the request does: not if its text alone can cause the failure."""
        return self.on_error == "allow" and self.error_type not in OF_CONTENT

    def item(self, servers: FaultyServers) -> str:
        """Return the guardrail as the policy writes it."""
        more = {
            "llm_judge": ", model: m, rubric: r",
            "grpc": f", headers: {{fault: {self.fault}, case: {self.guardrail}}}",
        }
        timeout = TIMEOUT_SECONDS if self.error_type == "timeout" else AMPLE_SECONDS
        return (
            f"  - {{name: {self.guardrail}, type: {self.type}, models: [{self.guardrail}], "
            f"url: '{self._url(servers)}', timeout: {timeout}s, "
            f"on_error: {self.on_error}, action: {self.action}{more.get(self.type, '')}}}\n"
        )

    @property
    def path(self) -> str:
        """The path at the server: one for each guardrail, so that each has its own breaker."""
        return f"{self.policy}/{self.guardrail}"

    def _url(self, servers: FaultyServers) -> str:
        scheme, path = ("grpc", "") if self.type == "grpc" else ("http", f"/{self.path}")
        match self.fault, self.type:
            case "dead", _:
                return f"{scheme}://{servers.closed}{path}"
            case "black_hole", _:
                return f"{scheme}://{servers.deaf}{path}"
            case _, "grpc":
                return f"grpc://{servers.grpc}"
            case _:
                return f"{servers.http}/{self.fault}{path}"


HTTP_FAULTS: Final = {
    "slow": "timeout",
    "dead": "connection",
    "black_hole": "timeout",
    "rubbish": "answer_invalid",
    "large": "answer_too_large",
    "empty": "answer_invalid",
    "trickle": "timeout",
    "redirect": "status_302",
    "broken": "status_500",
    "wrong_type": "content_type",
    "bomb": "content_encoding",
}
GRPC_FAULTS: Final = {
    "slow": "timeout",
    "dead": "grpc_unavailable",
    "black_hole": "timeout",
    "rubbish": "answer_invalid",
    "large": "grpc_resource_exhausted",
    "bomb": "grpc_resource_exhausted",
    "empty": "answer_invalid",
    "broken": "grpc_internal",
}
OF_CONTENT: Final = frozenset({"answer_too_large", "grpc_resource_exhausted"})
FEWER: Final = ("slow", "dead", "rubbish", "large", "empty", "redirect")
DIRECTIONS: Final = ("block", "allow")

WEBHOOK: Final = [
    Case("webhook", fault, error_type, on_error, action)
    for fault, error_type in HTTP_FAULTS.items()
    for on_error in DIRECTIONS
    for action in ("block", "redact", "flag")
]
OTHERS: Final = [
    Case(type_, fault, error_type, on_error)
    for type_, faults in {
        "grpc": GRPC_FAULTS,
        **{
            one: {fault: HTTP_FAULTS[fault] for fault in FEWER}
            for one in ("moderation", "presidio", "llm_judge")
        },
    }.items()
    for fault, error_type in faults.items()
    for on_error in DIRECTIONS
]
FLAPPING: Final = [
    Case("webhook", "flapping", "", on_error, action)
    for on_error in DIRECTIONS
    for action in ("block", "redact", "flag")
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def servers() -> AsyncIterator[FaultyServers]:
    """All that misbehave."""
    async with faulty_servers() as running:
        yield running


LET_ALONE: Final = """\
name: let-alone
guardrails:
  - name: let-alone
    type: webhook
    url: HTTP/broken/let-alone
    timeout: 5s
    breaker: {failures: 2, open_for: 10m}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_stack(servers: FaultyServers) -> AsyncIterator[Stack]:
    """A stack of its own: so many names would crowd others out of the metrics' labels."""
    cases = (*WEBHOOK, *OTHERS, *FLAPPING)
    documents = [
        f"name: {name}\nguardrails:\n"
        + "".join(case.item(servers) for case in cases if case.policy == name)
        for name in sorted({case.policy for case in cases})
    ]
    policies = "---\n".join((*documents, LET_ALONE.replace("HTTP", servers.http)))
    async with whole_stack(policies) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def stack(own_stack: Stack) -> Stack:
    """The stack, with a provider that has received nothing yet."""
    await own_stack.forget()
    return own_stack


async def _ask_all(
    stack: Stack, cases: Sequence[Case], paths: Sequence[str] = (CHAT, MESSAGES)
) -> list[tuple[Case, str, Answer]]:
    """Send a request a case and dialect, some at a time, each server's one after the other."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def ask(case: Case) -> list[tuple[Case, str, Answer]]:
        async with places:
            return [
                (case, path, await stack.post(_body(case, path), path=path, key=case.policy))
                for path in paths
            ]

    answers = await asyncio.gather(*(ask(case) for case in cases))
    return [one for several in answers for one in several]


def _body(case: Case, path: str) -> object:
    request = message("hello") if path == MESSAGES else chat("hello")
    return {**request, "model": case.guardrail}


async def _errors(stack: Stack) -> Counter[tuple[str, str]]:
    async with stack.client.get(stack.facts.metrics_url) as answer:
        exposition = await answer.text()
    return Counter(
        {
            (sample.labels["guardrail"], sample.labels["error_type"]): int(sample.value)
            for family in text_string_to_metric_families(exposition)
            for sample in family.samples
            if sample.name == "egret_guardrail_errors_total"
        }
    )


def _wrong(case: Case, path: str, answer: Answer) -> str | None:
    """Return what is wrong with an answer, None if it is what the table asks for."""
    is_of_content = case.error_type in OF_CONTENT
    if case.passes:
        outcome: object = answer.status
        expected: object = 200
    elif path == MESSAGES:
        outcome = answer.anthropic_error
        expected = (403, "permission_error") if is_of_content else (503, "api_error")
    else:
        outcome = answer.openai_error
        expected = (
            (403, "invalid_request_error", "unscanned_content")
            if is_of_content
            else (503, "server_error", "guardrail_unavailable")
        )
    if outcome != expected:
        return f"{case} {path}: {outcome}"
    found = _GUARDRAILS.search(answer.headers["server-timing"])
    assert found is not None
    seconds = float(found[1]) / 1000
    return None if seconds < AMPLE_SECONDS else f"{case} {path}: took {seconds} s"


@pytest.mark.parametrize("cases", [WEBHOOK, OTHERS], ids=["webhook", "other_types"])
async def test_a_server_that_fails_has_the_outcome_the_policy_names(
    stack: Stack, cases: list[Case]
) -> None:
    """To the client in its dialect, in the metrics, at the provider, and in time."""
    errors = await _errors(stack)
    async with stack.counting(2 * len(cases)) as counted:
        answers = await _ask_all(stack, cases)
    assert [wrong for one in answers if (wrong := _wrong(*one))] == []
    verdicts = Counter((case.guardrail, case.verdict) for case in cases)
    assert counted.verdicts == verdicts + verdicts
    reasons = Counter((case.guardrail, case.error_type) for case in cases)
    assert (await _errors(stack)) - errors == reasons + reasons
    let_pass = sum(case.passes for case in cases)
    assert await stack.received_count() == 2 * let_pass
    assert counted.faults == {}


async def test_a_server_that_fails_every_other_time_is_asked_again(
    stack: Stack, servers: FaultyServers
) -> None:
    """Its answer counts: a block, which stays one under `redact`, and is noted under `flag`."""
    async with stack.counting(len(FLAPPING)) as counted:
        answers = await _ask_all(stack, FLAPPING, paths=(CHAT,))
    assert {(case.action, answer.status) for case, _, answer in answers} == {
        ("block", 400),
        ("redact", 400),
        ("flag", 200),
    }
    assert counted.verdicts == {
        (f"webhook-flapping-{on_error}", verdict): count
        for on_error in DIRECTIONS
        for verdict, count in (("block", 2), ("flag", 1))
    }
    asked = [servers.asked[f"/flapping/{case.path}"] for case in FLAPPING]
    assert asked == [2] * len(FLAPPING)


async def test_a_server_that_fails_in_a_row_is_let_alone(
    stack: Stack, servers: FaultyServers
) -> None:
    """By each worker after its second failure; requests go on being refused, at once."""
    async with stack.counting(12) as counted:
        answers = [await stack.post(chat("hello"), key="let-alone") for _ in range(12)]
    assert {answer.status for answer in answers} == {503}
    assert counted.verdicts == {("let-alone", "error_closed"): 12}
    asked = servers.asked["/broken/let-alone"]
    assert 2 <= asked <= 2 * stack.workers
    errors = await _errors(stack)
    assert errors["let-alone", "status_500"] == asked
    assert errors["let-alone", "breaker_open"] == 12 - asked
    async with stack.client.get(stack.facts.metrics_url) as answer:
        exposition = await answer.text()
    assert (
        'egret_remote_breaker_state{guardrail="let-alone",scope="organization"} 2.0' in exposition
    )
