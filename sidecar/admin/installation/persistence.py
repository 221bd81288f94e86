"""Reads an installation from PostgreSQL and carries out a plan, in a few statements a kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import asyncpg
import orjson
from pydantic import ValidationError

from sidecar.admin.audit_log import set_note
from sidecar.admin.installation.objects import (
    DOCUMENTS,
    Kind,
    LimitDocument,
    ObjectDocument,
    OwnerDocument,
    WantedObject,
)
from sidecar.admin.installation.plan import (
    Content,
    InstallationPlan,
    OwnedObject,
    PlannedAction,
    PlannedChange,
    StoredObject,
    plan_installation,
)
from sidecar.admin.installation.statements import DEFER_SUCCESSORS, LOAD, LOCK, TABLES
from sidecar.admin.owners import ChangeRefusedError
from sidecar.domain.limits import Level
from sidecar.domain.validation import plain_fault
from sidecar.limits.serialization import LimitError, read_limits, write_limits
from sidecar.policy.parse import PolicyDocument
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import StoredPolicy, deleted_versions

_LEVELS: Final = {
    Kind.ORGANIZATION: Level.ORGANIZATION,
    Kind.TEAM: Level.TEAM,
    Kind.KEY: Level.KEY,
}
_COMMANDS: Final = {
    Kind.ORGANIZATION: ("orgs", "--org"),
    Kind.TEAM: ("teams", "--team"),
    Kind.KEY: ("keys", "--key"),
}
"""The commands of owners, and the options of `egret limits` for them."""

LOCK_SECONDS: Final = 60


async def load_installation(connection: Connection) -> tuple[StoredObject, ...]:
    """Return every object as it was at one moment, each kind after those that it refers to.

    Raises:
        ChangeRefusedError: this version cannot read an object.
    """
    rows = await connection.fetch(LOAD)
    # Beside the loop of `egret admin`, as below: an installation may have a hundred thousand keys.
    return await asyncio.to_thread(lambda: tuple(map(_stored, rows)))


async def plan_changes(
    connection: Connection, wanted: Sequence[WantedObject], *, file_set: str, prunes: bool
) -> InstallationPlan:
    """Compare the objects of files with those of the database.

    Raises:
        ChangeRefusedError: this version cannot read an object.
        InstallationError: with the faults of the files, as `plan_installation` finds them.
    """
    stored = await load_installation(connection)
    deleted = await deleted_versions(
        connection, [one.name for one in wanted if one.kind is Kind.POLICY]
    )
    return await asyncio.to_thread(
        plan_installation, wanted, stored, file_set=file_set, prunes=prunes, deleted=deleted
    )


async def lock_installation(connection: Connection, *, seconds: int = LOCK_SECONDS) -> None:
    """Keep every other change out until the transaction ends. Workers go on.

    Raises:
        ChangeRefusedError: another change did not end within *seconds*.
    """
    try:
        await connection.execute(f"SET LOCAL lock_timeout = '{seconds:d}s'; {LOCK}")
    except asyncpg.LockNotAvailableError:
        raise ChangeRefusedError(
            f"another change has not ended for {seconds} s; nothing was changed",
            hint="run it again when that one is done",
        ) from None


async def carry_out(
    connection: Connection,
    plan: InstallationPlan,
    *,
    file_set: str,
    note: str | None,
    advance: Callable[[int], None],
) -> None:
    """Make all changes of *plan*; `advance` receives the number of objects done so far.

    Raises:
        ChangeRefusedError: two keys exchange their names.
    """
    await set_note(connection, note)
    await connection.execute(DEFER_SUCCESSORS)
    done = 0
    try:
        for statement, rows, arguments in await asyncio.to_thread(
            lambda: [*_writes(plan, file_set=file_set, note=note)]
        ):
            await connection.execute(statement, orjson.dumps(rows).decode(), *arguments)
            done += len(rows)
            advance(done)
    except asyncpg.UniqueViolationError:
        raise ChangeRefusedError(
            "two keys of a team exchange their names; nothing was changed",
            hint="give one of them a third name first",
        ) from None


def _writes(
    plan: InstallationPlan, *, file_set: str, note: str | None
) -> Iterator[tuple[str, list[dict[str, Any]], tuple[object, ...]]]:
    """Yield each statement with its rows and further arguments, in an order that keys allow."""

    def rows(kind: Kind, action: PlannedAction) -> list[dict[str, Any]]:
        return [
            _row(one)
            for one in plan.changes
            if one.kind is kind and one.action is action and not _is_version(one)
        ]

    def deletion(kind: Kind) -> tuple[str, list[dict[str, Any]], tuple[object, ...]]:
        return TABLES[kind].delete, rows(kind, PlannedAction.DELETE), ()

    owner = (file_set,)
    versions = [_row(one) for one in plan.changes if _is_version(one)]
    statements = [
        deletion(Kind.KEY),  # their names are free for others
        (TABLES[Kind.POLICY].insert, versions, (file_set, note)),
    ]
    for kind in Kind:
        kept = [_row(one) for one in plan.adopted if one.kind is kind]
        statements += [
            (TABLES[kind].update, rows(kind, PlannedAction.CHANGE) + kept, owner),
            (TABLES[kind].insert, rows(kind, PlannedAction.CREATE), owner),
        ]
    statements += [deletion(kind) for kind in reversed(Kind) if kind is not Kind.KEY]
    yield from (one for one in statements if one[1])


def _is_version(one: PlannedChange) -> bool:
    """Return whether the change makes a new version of a policy."""
    return one.policy is not None


def _row(one: PlannedChange | OwnedObject) -> dict[str, Any]:
    """Return an object as the statements of its kind take it."""
    content: Content = one.content
    if isinstance(content, PolicyDocument):
        planned = one.policy if isinstance(one, PlannedChange) else None
        version = planned.new_version if planned else None
        return {"name": one.name, "version": version, "document": content.text}
    if isinstance(content, StoredPolicy):
        return {"name": one.name}
    row = content.model_dump(mode="json")
    if not isinstance(content, OwnerDocument):
        return row
    limits = write_limits(one.to_limit() for one in content.limits)
    return row | {"limits": orjson.loads(limits)}


def _stored(row: asyncpg.Record) -> StoredObject:
    kind, fields = Kind(row["kind"]), orjson.loads(row["fields"])
    if kind is Kind.POLICY:
        return StoredObject(kind, fields["name"], StoredPolicy(**fields), row["file_set"])
    name = str(fields.get("id") or fields.get("name") or fields.get("model"))
    try:
        if fields.get("limits"):
            text = orjson.dumps(fields["limits"])
            limits = read_limits(text, level=_LEVELS[kind], owner=name)
            fields["limits"] = tuple(LimitDocument.of(one) for one in limits)
        content: ObjectDocument = DOCUMENTS[kind].model_validate(fields)
    except (LimitError, ValidationError) as error:
        raise _unreadable(kind, name, error) from None
    return StoredObject(kind, content.identity, content, row["file_set"], row["tokens"])


def _unreadable(kind: Kind, name: str, error: LimitError | ValidationError) -> ChangeRefusedError:
    """Return the error for a stored object, with its field and the command that corrects it."""
    field, reason = "limits", str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field, reason = ".".join(map(str, first["loc"])), plain_fault(first)
    command, option = _COMMANDS.get(kind, ("", ""))
    match field.partition(".")[0]:
        case "allowed_models":
            cure = f"with `egret {command} set {name} --any-model`, or --model GLOB"
        case "limits":
            cure = f"with `egret limits remove {option} {name} --all`"
        case _:
            cure = "by its own command"
    return ChangeRefusedError(
        f"{kind.value.lower()} {name} is not one this Egret can read ({field}: {reason})",
        hint=f"correct it {cure}, or use the Egret that wrote it",
    )
