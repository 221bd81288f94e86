"""Routes of the installation: all of it as files (plan, apply, export), and its prices."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from sidecar.admin.audit_log import set_actor
from sidecar.admin.in_force import Barrier, wait_in_force
from sidecar.admin.installation.export import export_files, masked_policies
from sidecar.admin.installation.object_schema import installation_schema_text
from sidecar.admin.installation.objects import (
    MAX_FILE_CHARACTERS,
    InstallationError,
    Kind,
    WantedObject,
    parse_files,
)
from sidecar.admin.installation.persistence import (
    carry_out,
    load_installation,
    lock_installation,
    plan_changes,
)
from sidecar.admin.installation.plan import (
    FieldDifference,
    InstallationPlan,
    PlannedAction,
    noticed_keys,
    plan_document,
)
from sidecar.admin.owners import ChangeRefusedError
from sidecar.admin.policy_changes import check_expressions
from sidecar.admin_api.access import (
    WAIT_SECONDS,
    Access,
    AccessRoute,
    ReportRoute,
    Services,
    requires,
)
from sidecar.admin_api.objects import ApiModel, Body, ChosenPage, Page
from sidecar.admin_api.policy_routes import SCHEMA_ANSWER
from sidecar.admin_api.problems import RETRY_AFTER, Problem
from sidecar.admin_api.roles import Permission
from sidecar.policy.parse import PolicyDocument
from sidecar.storage.pool import Connection, borrow
from sidecar.storage.usage_store import list_prices, set_prices
from sidecar.usage.prices import Price, PriceRow

router = APIRouter(route_class=ReportRoute, tags=["installation"])
price_router = APIRouter(route_class=AccessRoute, tags=["prices"])

LOCK_SECONDS: Final = 10
_MAX_FILES: Final = 2_000
_NOTHING_DONE: Final = "nothing was done"

Text = Annotated[str, Field(max_length=MAX_FILE_CHARACTERS)]
FilePath = Annotated[str, Field(min_length=1, max_length=300)]


class Files(Body):
    """Files as `egret apply -f` reads them: their YAML by path, and the set that they are."""

    files: Annotated[dict[FilePath, Text], Field(min_length=1, max_length=_MAX_FILES)]
    file_set: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")] = "default"
    prune: bool = False


class Application(Files):
    """Files to apply; `digest` is that of the plan that was shown: another changes nothing."""

    digest: Annotated[str, Field(max_length=64)] | None = None
    note: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None


class ObjectChange(ApiModel):
    """The planned change of one object; `diff` is that of a policy."""

    action: PlannedAction
    kind: Kind
    name: str
    why: str
    fields: list[FieldDifference]
    diff: str | None


class Plan(ApiModel):
    """All changes; `left` are objects of the set in no file, `kept` keys that have ended."""

    digest: str
    is_drift: bool
    changes: list[ObjectChange]
    unchanged: int
    adopted: int
    kept: list[str]
    left: list[str]


class Export(ApiModel):
    """The installation as files by path: digests of keys, never secrets."""

    files: dict[str, str]
    masked_policies: list[str]


@router.get("/installation")
async def export_installation(
    access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)],
) -> Export:
    """Write the whole installation as files for `egret apply`."""
    stored = await load_installation(access.connection)
    return await asyncio.to_thread(
        lambda: Export(
            files=dict(export_files(stored)), masked_policies=list(masked_policies(stored))
        )
    )


@router.get("/installation/schema", response_class=Response, responses=SCHEMA_ANSWER)
async def show_file_schema(access: Annotated[Access, requires(None)]) -> Response:  # noqa: ARG001
    """Return the JSON Schema of the documents in files."""
    return Response(installation_schema_text(), media_type="application/schema+json")


@router.post("/installation/plan", response_model=Plan)
async def plan_files(
    access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)], body: Files
) -> Response:
    """Compare files with the installation, and change nothing."""
    wanted = await _read(body)
    planned = await _planned(access.connection, wanted, body)
    await _check_policies(planned, wanted)
    return await _shown(planned)


@router.post("/installation/apply", response_model=Plan)
async def apply_files(
    access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)],
    body: Application,
    request: Request,
) -> Response:
    """Make the installation as files describe it, all or nothing; others' changes wait.

    New policies that other changes bind come first, in a transaction of their own, and the rest
    once live workers serve them; 503 if one does not within 20 s.
    """
    wanted = await _read(body)
    planned = await _planned(access.connection, wanted, body)
    if body.digest is not None and body.digest != await asyncio.to_thread(_digest, planned):
        raise Problem(
            HTTPStatus.PRECONDITION_FAILED,
            "the installation was changed since that plan",
            hint="look at the new plan, then apply its digest",
        )
    await _check_policies(planned, wanted)
    first, *rest = planned.in_steps()
    if rest:
        services: Services = request.app.state.services
        async with (
            borrow(services.pool, services.postgres) as connection,
            connection.transaction(),
        ):
            await set_actor(connection, access.person)
            await _carry_out(connection, (wanted, body), planned, first, done=_NOTHING_DONE)
        barrier = Barrier(policies=first.policy_versions())
        state = await wait_in_force(services.pool, access.settings, barrier, seconds=WAIT_SECONDS)
        if state is not None and state.late:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{state.late} of {len(state.workers)} workers do not serve the new policies yet:"
                " these are stored, and nothing else was changed",
                hint="apply again; `egret doctor` shows the workers",
                headers=RETRY_AFTER,
            )
    last = rest[0] if rest else first
    if last.changes or last.adopted:
        done = "the new policies are stored, and nothing else was done" if rest else _NOTHING_DONE
        await _carry_out(access.connection, (wanted, body), last, last, done=done)
    access.changed(keys=noticed_keys(planned.changes), policies=planned.policy_versions())
    return await _shown(planned)


async def _read(body: Files) -> tuple[WantedObject, ...]:
    wanted = await asyncio.to_thread(parse_files, list(body.files.items()))
    if not wanted:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the files hold no object")
    return wanted


async def _planned(
    connection: Connection, wanted: Sequence[WantedObject], body: Files
) -> InstallationPlan:
    return await plan_changes(connection, wanted, file_set=body.file_set, prunes=body.prune)


async def _check_policies(planned: InstallationPlan, wanted: Sequence[WantedObject]) -> None:
    changed = {one.name for one in planned.changes if one.policy is not None}
    documents = [
        one.content
        for one in wanted
        if isinstance(one.content, PolicyDocument) and one.name in changed
    ]
    await check_expressions(documents)


async def _carry_out(
    connection: Connection,
    source: tuple[Sequence[WantedObject], Application],
    expected: InstallationPlan,
    step: InstallationPlan,
    *,
    done: str,
) -> None:
    """Carry out *step* behind the lock, if the plan is still the *expected* one.

    *done* says what was done before, for the refusal.
    """
    wanted, body = source
    await lock_installation(connection, seconds=LOCK_SECONDS)
    try:
        anew = await _planned(connection, wanted, body)
    except InstallationError:
        anew = None
    if anew != expected:
        raise ChangeRefusedError(
            "the installation was changed meanwhile",
            hint=f"{done}; look at the new plan, then apply it",
        )
    await carry_out(
        connection, step, file_set=body.file_set, note=body.note, advance=lambda _done: None
    )


def _digest(planned: InstallationPlan) -> str:
    """Return a digest of all changes, whose order files and database fix."""
    document = plan_document(planned)
    return hashlib.sha256(orjson.dumps([document["changes"], document["kept"]])).hexdigest()


async def _shown(planned: InstallationPlan) -> Response:
    """Return a `Plan`, written beside the loop: it may have a hundred thousand changes."""

    def written() -> bytes:
        return orjson.dumps({"digest": _digest(planned), **plan_document(planned)})

    return Response(await asyncio.to_thread(written), media_type="application/json")


MAX_PRICES: Final = 10_000


# A class of its own, since its schema is: with one class OpenAPI would have a `PriceRow-Input` and
# a `PriceRow-Output`, and the generated client would rename its type.
class StoredPrice(PriceRow):
    """A price as it is stored: amounts are texts."""


@price_router.get("/prices")
async def show_prices(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    paging: ChosenPage,
    every: Annotated[bool, Query(alias="all", description="Former and future ones too.")] = False,
) -> list[StoredPrice] | Page[StoredPrice]:
    """List the prices that hold now, by model."""

    def place(after: str) -> tuple[str, datetime]:
        time, _, model = after.partition("/")
        return model, datetime.fromisoformat(time).replace(tzinfo=UTC)

    found = await list_prices(
        access.connection,
        at=None if every else datetime.now(UTC),
        after=paging.place(place),
        most=paging.rows,
    )
    return paging.answer(_stored_prices(found), lambda one: f"{one.valid_from}/{one.model}")


@price_router.post("/prices")
async def change_prices(
    access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)],
    body: Annotated[list[PriceRow], Field(min_length=1, max_length=MAX_PRICES)],
) -> list[StoredPrice]:
    """Set prices, from now on without a time. Recorded usage keeps its cost."""
    now = datetime.now(UTC)
    prices = [one.to_price(now=now) for one in body]
    if len({(one.model, one.valid_from) for one in prices}) < len(prices):
        problem = "two prices of one model begin at the same time; send one of them"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, problem)
    await set_prices(access.connection, prices)
    return _stored_prices(prices)


def _stored_prices(prices: Iterable[Price]) -> list[StoredPrice]:
    return [StoredPrice.of(one) for one in prices]
