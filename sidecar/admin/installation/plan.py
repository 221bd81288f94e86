"""Plans the changes from the stored installation to that of files, without any I/O."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from sidecar.admin.installation.objects import (
    NO_TIME_ZONE,
    AlertRouteDocument,
    FileFault,
    InstallationError,
    KeyDocument,
    Kind,
    ObjectDocument,
    OwnerDocument,
    WantedObject,
)
from sidecar.admin.policy_plan import Change as PolicyChange
from sidecar.admin.policy_plan import PlannedPolicy, plan_policies
from sidecar.domain.validation import is_time_zone
from sidecar.policy.parse import (
    DEFAULT_POLICY_NAME,
    PolicyDocument,
    PolicyDocumentError,
    fault,
    parse_policies,
)
from sidecar.policy.text import MASK, masked_places, render_policy
from sidecar.storage.postgres_policies import StoredPolicy

Content = ObjectDocument | PolicyDocument | StoredPolicy
Key = tuple[Kind, str]

NOT_SHOWN: Final = "(not shown)"
_NOTICED_KEYS: Final = 100
_UNCACHED: Final = frozenset({Kind.POLICY, Kind.PRICE, Kind.ALERT_ROUTE})
"""Kinds that no record of a key depends on."""
_SECRET_FIELDS: Final = frozenset({"secret_sha256"})


class PlannedAction(enum.Enum):
    """The planned action on one object."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of the database; `file_set` is the set of files that last applied it.

    `tokens` is the number of API tokens that are deleted with an organization or a team.
    """

    kind: Kind
    name: str
    content: ObjectDocument | StoredPolicy
    file_set: str | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field's old and new value."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChange:
    """One change. `policy` has the difference of a policy, `fields` that of any other object."""

    action: PlannedAction
    kind: Kind
    name: str
    reason: str
    fields: tuple[FieldDifference, ...] = ()
    policy: PlannedPolicy | None = None
    content: Content = field(repr=False)


@dataclass(frozen=True, slots=True)
class OwnedObject:
    """An object without a change that comes under the set of files."""

    kind: Kind
    name: str
    content: Content = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationPlan:
    """All changes, and the objects without one.

    `adopted` had no owner, or another one. `kept` describes keys that were revoked or rotated
    since, which no file changes. `left` are objects of the set that no file names.
    """

    changes: tuple[PlannedChange, ...]
    adopted: tuple[OwnedObject, ...]
    kept: tuple[str, ...]
    left: tuple[Key, ...]
    unchanged: int

    @property
    def is_drift(self) -> bool:
        """Whether files and database differ."""
        return bool(self.changes or self.kept)

    def in_steps(self) -> tuple[InstallationPlan, ...]:
        """Return the new policies that other changes bind, if there are any, and all the rest.

        A worker refuses requests under a policy that it has not compiled yet, so the first step
        must have reached the workers before the second. A new `default` is bound as it stands.
        """
        bound = {
            one.content.policy for one in self.changes if isinstance(one.content, OwnerDocument)
        } - {DEFAULT_POLICY_NAME}
        first = tuple(
            one
            for one in self.changes
            if one.kind is Kind.POLICY and one.action is PlannedAction.CREATE and one.name in bound
        )
        if not first:
            return (self,)
        rest = tuple(one for one in self.changes if one not in first)
        return (
            replace(self, changes=first, adopted=()),
            replace(self, changes=rest, unchanged=self.unchanged + len(first)),
        )

    def policy_versions(self) -> dict[str, int]:
        """Return the versions of policies that the changes make, by name."""
        return {one.name: one.policy.new_version for one in self.changes if one.policy is not None}


def plan_installation(
    wanted: Sequence[WantedObject],
    stored: Sequence[StoredObject],
    *,
    file_set: str,
    prunes: bool,
    deleted: Mapping[str, int],
) -> InstallationPlan:
    """Compare the objects of files with those of the database.

    *deleted* has the last version of each policy that was deleted before.

    Raises:
        InstallationError: an object names another that is not there, the place of a key was not
            read (`find_keys`), two keys of a team have one name, a masked value would be stored,
            a time zone is that of a machine, or objects depend on one that is to be deleted.
    """
    by_key = {(one.kind, one.name): one for one in stored}
    after: dict[Key, Content] = {key: one.content for key, one in by_key.items()}
    changes: list[PlannedChange] = []
    adopted: list[OwnedObject] = []
    kept: list[str] = []
    faults: list[FileFault] = []
    for one in wanted:
        old = by_key.get((one.kind, one.name))
        content: Content = one.content
        faults += _faults_of(one, old)
        if old is not None and (reason := _end_of_key(one, old)):
            content = old.content
            kept.append(f"{one.place}: key {one.name} {reason} and stays as it is")
        after[one.kind, one.name] = content
        change = _planned_change(one, content, old, faults, file_set=file_set, deleted=deleted)
        if change is not None:
            changes.append(change)
        elif old is not None and old.file_set is None:
            adopted.append(OwnedObject(one.kind, one.name, content))
    named = {(one.kind, one.name) for one in wanted}
    left = tuple(
        key for key, one in by_key.items() if one.file_set == file_set and key not in named
    )
    if prunes:
        for key in left:
            del after[key]
            changes.append(_deletion(by_key[key], file_set=file_set))
    faults += _dangling(wanted, after)
    if faults:
        raise InstallationError(faults)
    return InstallationPlan(
        changes=tuple(changes),
        adopted=tuple(adopted),
        kept=tuple(kept),
        left=() if prunes else left,
        unchanged=len(wanted) - sum(one.action is not PlannedAction.DELETE for one in changes),
    )


def plan_document(plan: InstallationPlan) -> dict[str, Any]:
    """Return the plan as programs receive it, from the API and from the command line."""
    return {
        "is_drift": plan.is_drift,
        "changes": [
            {
                "action": one.action.value,
                "kind": one.kind.value,
                "name": one.name,
                "why": one.reason,
                "fields": [asdict(each) for each in one.fields],
                "diff": None if one.policy is None else one.policy.diff,
            }
            for one in plan.changes
        ],
        "unchanged": plan.unchanged,
        "adopted": len(plan.adopted),
        "kept": list(plan.kept),
        "left": [f"{kind.value.lower()} {name}" for kind, name in plan.left],
    }


def noticed_keys(changes: Iterable[PlannedChange]) -> Sequence[str]:
    """Return the keys whose cached records are stale after *changes*; `*` for many, or owners."""
    others = [one for one in changes if one.kind not in _UNCACHED]
    names = [one.name for one in others if one.kind is Kind.KEY]
    return names if len(names) == len(others) <= _NOTICED_KEYS else ("*",)


def field_values(content: ObjectDocument) -> Mapping[str, Any]:
    """Return the fields that differ from their defaults, as JSON has them."""
    return content.model_dump(mode="json", exclude_defaults=True)


def _faults_of(one: WantedObject, old: StoredObject | None) -> Iterable[FileFault]:
    """Yield a key's place that was not read, and new hours and time zones that are refused."""

    def zones(content: Content | None) -> Mapping[str, str]:
        match content:
            case AlertRouteDocument():
                return {content.time_zone: "time_zone"}
            case OwnerDocument():
                return {each.time_zone: "limits" for each in content.limits}
            case _:
                return {}

    if isinstance(one.content, KeyDocument) and one.content.secret is not None:
        hint = "run `egret apply` with --secrets kubernetes, or --secrets FOLDER"
        yield one.fault("secret", "the key's place was not read", hint=hint)
    if isinstance(one.content, AlertRouteDocument) and (hours := one.content.quiet_hours):
        start, _, end = hours.partition("-")
        before = old.content if old is not None else None
        is_stored = isinstance(before, AlertRouteDocument) and before.quiet_hours == hours
        if start == end and not is_stored:
            hint = "for one message a day write `digest: daily`; to send none, `enabled: false`"
            yield one.fault("quiet_hours", f"{hours} is the whole day", hint=hint)
    stored = zones(None if old is None else old.content)
    for zone, step in zones(one.content).items():
        if zone not in stored and not is_time_zone(zone):
            yield one.fault(step, f"time_zone {zone} {NO_TIME_ZONE}")


def _end_of_key(wanted: WantedObject, old: StoredObject) -> str | None:
    """Return how the stored key has ended, if the file does not say the same.

    A file that is older than a revocation must not let the key in again.
    """
    new, before = wanted.content, old.content
    if not isinstance(new, KeyDocument) or not isinstance(before, KeyDocument):
        return None
    if before.revoked_at is not None and new.revoked_at != before.revoked_at:
        return f"was revoked at {before.revoked_at:%Y-%m-%d %H:%M:%SZ}"
    if before.replaced_by is not None and new.replaced_by != before.replaced_by:
        return f"was replaced by {before.replaced_by}"
    return None


def _planned_change(
    one: WantedObject,
    content: Content,
    old: StoredObject | None,
    faults: list[FileFault],
    *,
    file_set: str,
    deleted: Mapping[str, int],
) -> PlannedChange | None:
    """Return the change of one object; None if it stays as it is, under the same set."""
    policy: PlannedPolicy | None = None
    fields: tuple[FieldDifference, ...] = ()
    if isinstance(content, PolicyDocument):
        policy = _policy_change(one, content, old, faults, deleted=deleted)
    elif not isinstance(content, StoredPolicy) and (old is None or content != old.content):
        before: Mapping[str, Any] = {}
        if old is not None and not isinstance(old.content, StoredPolicy):
            before = field_values(old.content)
        after = field_values(content)
        fields = tuple(
            FieldDifference(name, _shown(name, before), _shown(name, after))
            for name in type(content).model_fields
            if before.get(name) != after.get(name)
        )
    reason = f"{one.place} {'adds' if old is None else 'changes'} it"
    if old is not None and old.file_set not in {None, file_set}:
        reason = f"the set {old.file_set} owned it"
        fields += (FieldDifference("set", old.file_set, file_set),)
    elif policy is None and not fields:
        return None
    return PlannedChange(
        action=PlannedAction.CREATE if old is None else PlannedAction.CHANGE,
        kind=one.kind,
        name=one.name,
        reason=reason,
        fields=fields,
        policy=policy,
        content=content,
    )


def _deletion(old: StoredObject, *, file_set: str) -> PlannedChange:
    reason = f"the set {file_set} owns it, and no file names it"
    if (old.kind, old.name) == (Kind.POLICY, DEFAULT_POLICY_NAME):
        reason += "; the built-in policy takes its place"
    if old.tokens:
        reason += f"; API tokens that go too: {old.tokens}"
    return PlannedChange(
        action=PlannedAction.DELETE,
        kind=old.kind,
        name=old.name,
        reason=reason,
        content=old.content,
    )


def _shown(name: str, values: Mapping[str, Any]) -> Any:
    value = values.get(name)
    return NOT_SHOWN if value is not None and name in _SECRET_FIELDS else value


def _policy_change(
    one: WantedObject,
    document: PolicyDocument,
    old: StoredObject | None,
    faults: list[FileFault],
    *,
    deleted: Mapping[str, int],
) -> PlannedPolicy | None:
    before = [old.content] if old is not None and isinstance(old.content, StoredPolicy) else []
    planned = plan_policies([document], stored=before, deleted=deleted)[0]
    if planned.change is PolicyChange.NONE:
        return None
    if masked := [*masked_places(document.policy)]:
        with suppress(PolicyDocumentError, IndexError):
            in_force = parse_policies(before[0].document, expressions="trust")[0]
            if render_policy(in_force) == render_policy(document.policy):
                return None
        problem = f"`{MASK}` stands for a value that the file does not hold"
        for path in masked:
            each = fault(one.document, path, problem, hint="write the value itself")
            faults.append(FileFault(one.file, each))
        return None
    return planned


def _dangling(wanted: Sequence[WantedObject], after: Mapping[Key, Content]) -> Iterable[FileFault]:
    """Yield the references that would lead nowhere, and names that two keys would have."""
    files = {(one.kind, one.name): one for one in wanted}
    names: dict[tuple[str, str], str] = {}
    for key in (*(key for key in after if key not in files), *files):
        content, one = after[key], files.get(key)
        if isinstance(content, PolicyDocument | StoredPolicy):
            continue
        for reference in content.references():
            if (reference.kind, reference.name) in after:
                continue
            missing = f"{reference.kind.value.lower()} {reference.name}"
            if one is not None:
                yield one.fault(reference.field, f"there is no {missing}")
            else:
                words = f"{missing} cannot be deleted: {key[0].value.lower()} {key[1]} needs it"
                yield FileFault("--prune", words)
        if isinstance(content, KeyDocument) and not (content.revoked_at or content.replaced_by):
            other = names.setdefault((content.team, content.name), content.id)
            if one is not None and other != content.id:
                problem = f"team {content.team} has a key named {content.name} already: {other}"
                yield one.fault("name", problem)
