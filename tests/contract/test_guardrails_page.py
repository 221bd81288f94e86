"""docs/guardrails.md: its policies can be applied, and its table has every operation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from sidecar.domain.subject import Operation
from sidecar.policy.parse import parse_policies

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
