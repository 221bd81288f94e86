"""What applying a file of policies would change."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from sidecar.domain.policy import Policy
from sidecar.guardrails.policy_document import PolicyDocument, PolicyDocumentError, parse_policies
from sidecar.guardrails.policy_text import render_policy
from sidecar.storage.postgres_policies import StoredPolicy


class Change(enum.Enum):
    """What becomes of one policy."""

    CREATE = "create"
    UPDATE = "update"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PlannedPolicy:
    """One policy of the file against the version in force (0: none yet).

    `diff` is a unified diff of the canonical texts; credentials are masked in it.
    """

    name: str
    change: Change
    version: int
    diff: str
    document: str = field(repr=False)


def plan(
    documents: Iterable[PolicyDocument], *, stored: Iterable[StoredPolicy]
) -> tuple[PlannedPolicy, ...]:
    """Compare each document's meaning, not its spelling, with what is in force."""
    in_force = {policy.name: policy for policy in stored}
    return tuple(_planned(document, in_force.get(document.policy.name)) for document in documents)


def _planned(document: PolicyDocument, stored: StoredPolicy | None) -> PlannedPolicy:
    name = document.policy.name
    if stored is None:
        before, change, version = None, Change.CREATE, 0
    else:
        before, version = _readable(stored, version=document.policy.version), stored.version
        change = Change.NONE if before == document.policy else Change.UPDATE
    diff = "" if change is Change.NONE else _diff(before, document.policy, version=version)
    return PlannedPolicy(
        name=name, change=change, version=version, diff=diff, document=document.text
    )


def _readable(stored: StoredPolicy, *, version: int) -> Policy | None:
    """Return the stored policy as of *version*, or None if this Egret cannot read it."""
    try:
        return parse_policies(stored.document, version=version, expressions="trust")[0]
    except PolicyDocumentError:
        return None


def _diff(before: Policy | None, after: Policy, *, version: int) -> str:
    old = "" if before is None else render_policy(before)
    new = render_policy(after)
    if old == new:
        return f"  {after.name}: values of headers, which are not shown\n"
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True),
            new.splitlines(keepends=True),
            fromfile=f"{after.name} version {version}",
            tofile=f"{after.name} version {version + 1}",
        )
    )
