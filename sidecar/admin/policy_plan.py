"""Compares policies of files with those in force."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from sidecar.policy.parse import (
    DEFAULT_POLICY_NAME,
    PolicyDocument,
    PolicyDocumentError,
    default_policy,
    parse_policies,
)
from sidecar.policy.policy_lint import lost_protection
from sidecar.policy.text import render_policy
from sidecar.storage.postgres_policies import StoredPolicy


class Change(enum.Enum):
    """The planned change of one policy."""

    CREATE = "create"
    UPDATE = "update"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PlannedPolicy:
    """One policy of the file against the version in force (0: none yet).

    `new_version` is the version that the change makes, and that in force without a change.
    `diff` is a unified diff of the canonical texts; credentials are masked in it. The first policy
    named `default` is compared with the built-in one; `lost` names guardrails that it drops.
    """

    name: str
    change: Change
    version: int
    new_version: int
    diff: str
    document: str = field(repr=False)
    lost: tuple[str, ...] = ()


def plan_policies(
    documents: Iterable[PolicyDocument],
    *,
    stored: Iterable[StoredPolicy],
    deleted: Mapping[str, int],
) -> tuple[PlannedPolicy, ...]:
    """Compare each document's meaning, not its spelling, with the policies in force.

    *deleted* has the last version of each policy that was deleted before.
    """
    in_force = {policy.name: policy for policy in stored}
    planned: list[PlannedPolicy] = []
    for document in documents:
        after = document.policy
        before, change, version = None, Change.CREATE, 0
        if (old := in_force.get(after.name)) is not None:
            version = old.version
            with suppress(PolicyDocumentError):  # of one that this Egret cannot read, all is new
                before = parse_policies(old.document, version=after.version, expressions="trust")[
                    0
                ]
            change = Change.NONE if before == after else Change.UPDATE
        elif after.name == DEFAULT_POLICY_NAME:
            before = default_policy()
        lost: tuple[str, ...] = ()
        if after.name == DEFAULT_POLICY_NAME and before is not None:
            lost = lost_protection(after, before)
        diff, new_version = "", version
        if change is not Change.NONE:
            new_version = max(version, deleted.get(after.name, 0)) + 1
            old_text = "" if before is None else render_policy(before)
            old_title = f"version {version}" if old or before is None else "built in"
            lines = difflib.unified_diff(
                old_text.splitlines(keepends=True),
                render_policy(after).splitlines(keepends=True),
                fromfile=f"{after.name} {old_title}",
                tofile=f"{after.name} version {new_version}",
            )
            same = "values of headers, which are not shown" if old else "as built in"
            diff = "".join(lines) or f"  {after.name}: {same}\n"
        planned.append(
            PlannedPolicy(after.name, change, version, new_version, diff, document.text, lost)
        )
    return tuple(planned)
