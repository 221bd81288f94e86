"""Writes the stored installation as documents that `egret apply` reads back without a change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.admin.installation.objects import KeyDocument, Kind
from sidecar.admin.installation.plan import StoredObject, field_values
from sidecar.admin.owners import ChangeRefusedError
from sidecar.domain.policy import Policy
from sidecar.policy.parse import PolicyDocumentError, parse_policies
from sidecar.policy.text import MASK, hides_values, render_policy
from sidecar.policy.yaml_positions import write_yaml
from sidecar.storage.postgres_policies import StoredPolicy

SEPARATOR: Final = "---\n"
_MASKED: Final = (
    f"# `{MASK}` stands for a value that is not in this file. `egret apply` refuses it, unless the"
    "\n# policy in force is the same.\n"
)


def export_files(stored: Sequence[StoredObject]) -> Iterator[tuple[str, str]]:
    """Yield the path and text of each file: one a policy, organization and team.

    A team's file holds its keys. All prices have one file, and all routes of alerts.

    Raises:
        ChangeRefusedError: this version cannot read a stored policy.
    """
    texts: dict[str, list[str]] = {}
    for one in stored:
        texts.setdefault(_path(one), []).append(document_text(one))
    for path, documents in texts.items():
        yield path, SEPARATOR.join(documents)


def document_text(one: StoredObject) -> str:
    """Return the YAML of one object.

    Raises:
        ChangeRefusedError: this version cannot read a stored policy.
    """
    if isinstance(one.content, StoredPolicy):
        policy = _policy(one.content)
        masked = _MASKED if hides_values(policy) else ""
        return f"kind: {one.kind.value}\n{masked}{render_policy(policy)}"
    fields = field_values(one.content)
    first = [name for name in type(one.content).__annotations__ if name in fields]  # not inherited
    own = {name: fields[name] for name in (*first, *fields)}
    return write_yaml({"kind": one.kind.value, **own})


def masked_policies(stored: Sequence[StoredObject]) -> tuple[str, ...]:
    """Return the policies with values that their documents do not show."""
    policies = (one.content for one in stored if isinstance(one.content, StoredPolicy))
    return tuple(one.name for one in policies if hides_values(_policy(one)))


def _policy(stored: StoredPolicy) -> Policy:
    try:
        return parse_policies(stored.document, expressions="trust")[0]
    except PolicyDocumentError:
        raise ChangeRefusedError(
            f"policy {stored.name} is not one this Egret can read",
            hint="apply it anew, or use the Egret that wrote it",
        ) from None


def _path(one: StoredObject) -> str:
    match one.kind:
        case Kind.POLICY:
            return f"policies/{one.name}.yaml"
        case Kind.PRICE:
            return "prices.yaml"
        case Kind.ORGANIZATION:
            return f"organizations/{one.name}.yaml"
        case Kind.TEAM:
            return f"teams/{one.name}.yaml"
        case Kind.KEY:
            assert isinstance(one.content, KeyDocument)  # noqa: S101 - by its kind
            return f"teams/{one.content.team}.yaml"
        case Kind.ALERT_ROUTE:
            return "alerts.yaml"
