"""docs/guardrails.md: its policies can be applied, and its table has every operation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest

from sidecar.apis.request_text import read_request
from sidecar.apis.routes import recognise
from sidecar.domain.http import Headers
from sidecar.domain.subject import Operation, Route, Subject
from sidecar.policy.parse import parse_policies
from tests.support.guardrails import effective

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "guardrails.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
OPERATIONS: Final = re.search(r"^### Operations\n(.*?)^#", TEXT, re.MULTILINE | re.DOTALL)


def _policy(block: str) -> str | None:
    """Return *block* as a policy: a whole one, or one around its guardrails."""
    bare = re.sub(r"^#.*\n", "", block, flags=re.MULTILINE)
    if bare.startswith("name:"):
        return bare
    if bare.startswith("guardrails:"):
        return f"name: example\n{bare}"
    if bare.startswith(("- {name:", "- name:")):
        return f"name: example\nguardrails:\n{bare}"
    return None


POLICIES: Final = [policy for policy in map(_policy, BLOCKS) if policy is not None]


@pytest.mark.parametrize("policy", POLICIES, ids=range(len(POLICIES)))
def test_an_example_can_be_applied_as_it_stands(policy: str) -> None:
    """Whoever copies it gets no fault."""
    assert parse_policies(policy)


def test_the_table_of_operations_is_complete() -> None:
    """Whoever chooses requests by operation sees all that there are."""
    assert OPERATIONS is not None
    named = re.findall(r"^\| `(\w+)` \|", OPERATIONS[1], re.MULTILINE)
    assert sorted(named) == sorted(operation.value for operation in Operation)


def _has_finding(path: str, body: object) -> bool:
    """Return whether the page's policy against sources finds something in a request."""
    (policy,) = [one for one in POLICIES if "- name: sources" in one]
    route = recognise("POST", path)
    assert isinstance(route, Route)
    subject = read_request(route, Headers(), json.dumps(body).encode())
    assert isinstance(subject, Subject)
    local = effective(*parse_policies(policy.replace("name: example", "name: default"))).local
    return any(one.findings for one in local.scan(subject.parts, subject.runs))


def test_the_policy_against_sources_denies_the_tools_and_no_talk_about_them() -> None:
    """Each API names such a tool by a string of its own."""
    responses, gemini = "/v1/responses", "/v1beta/models/gemini-3:generateContent"
    tools = [
        (responses, {"type": "mcp", "server_label": "a", "server_url": "https://a.test/mcp"}),
        (responses, {"type": "file_search", "vector_store_ids": ["vs_1"]}),
        ("/v1/messages", {"type": "mcp_toolset", "mcp_server_name": "a"}),
        (gemini, {"fileSearch": {"fileSearchStoreNames": ["a"]}}),
        (gemini, {"retrieval": {"vertexAiSearch": {"datastore": "a"}}}),
    ]
    said: dict[str, list[object]] = {"messages": [], "contents": []}
    for path, tool in tools:
        assert _has_finding(path, {**said, "tools": [tool]})
    azure = {"messages": [], "data_sources": [{"type": "azure_search", "parameters": {}}]}
    assert _has_finding("/openai/deployments/gpt-5/chat/completions", azure)
    assert not _has_finding(responses, {"input": "Compare mcp with file_search."})
