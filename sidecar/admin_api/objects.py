"""Values that several routes take and return."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, Self, TypeVar

from fastapi import Depends, Query, Request, Response
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
)

from sidecar.admin.owners import Unchanged
from sidecar.admin.policy_changes import earlier_document, existing_policy
from sidecar.admin_api.access import Access
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.domain.validation import accepted, is_glob_within

NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME, examples=["acme"])]
Models = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=200)], ...],
    Field(min_length=1, max_length=100, examples=[["gpt-*"]]),
]

Moment = Annotated[AwareDatetime, AfterValidator(accepted)]
"""A time that files of `egret apply` may have too: one that they may not would stop them all."""
TeamPath = Annotated[
    str | None, Query(max_length=127, pattern="^[^/]+/[^/]+$", description="ORGANIZATION/TEAM")
]


def _refuse_null(value: object) -> object:
    if value is None:
        raise ValueError("must not be null; leave it out to keep it as it is")
    return value


NotNull: Final = BeforeValidator(_refuse_null)
"""For a field of a change whose None is that it was not sent."""

_Item = TypeVar("_Item")


def team_names(team: str, organization: str | None) -> tuple[str, str]:
    """Return the organization and the name of the team that a query names.

    Raises:
        Problem: 422, the query names another organization beside it.
    """
    of_team, _, name = team.partition("/")
    if organization not in {None, of_team}:
        problem = "`team` is of another organization than `organization`"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, problem)
    return of_team, name


class Body(BaseModel):
    """The body of a request: an unknown field is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self, name: str) -> bool:
        """Return whether a field was sent: one that was not stays as it is."""
        return name in self.model_fields_set


class ApiModel(BaseModel):
    """An object in an answer."""

    model_config = ConfigDict(frozen=True)


class Page(BaseModel, Generic[_Item]):
    """Items in order; `next` is the `after` of the following page, if there is one."""

    items: list[_Item]
    next: str | None = None


MAX_ROWS: Final = 50_000
"""Of an answer without pages: more would take the memory of the process."""


def bounded(found: Sequence[_Item]) -> Sequence[_Item]:
    """Return *found*, of which one more than `MAX_ROWS` was read.

    Raises:
        Problem: 422, an answer has no room for it.
    """
    if len(found) > MAX_ROWS:
        problem = f"the answer has more than {MAX_ROWS:,} rows"
        hint = "send `limit`, or choose one owner or a shorter time"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, problem, hint=hint)
    return found


async def json_answer(kind: Any, make: Callable[[], object]) -> Response:
    """Return the object that *make* returns as the JSON of *kind*, beside the loop.

    With `Any` a model is written by its own class.
    """
    text = await asyncio.to_thread(lambda: TypeAdapter[Any](kind).dump_json(make()))
    return Response(text, media_type="application/json")


@dataclass(frozen=True, slots=True)
class Paging:
    """The page that a query asks for, of a list that older clients read whole.

    With neither `after` nor `limit` the answer is the whole list, and `limit` is None.
    """

    after: str | None
    limit: int | None

    @classmethod
    def chosen(
        cls,
        after: Annotated[
            str | None, Query(max_length=300, description="`next` of a page.")
        ] = None,
        limit: Annotated[
            int | None,
            Query(ge=1, le=1000, description="A page of so many; without it, the whole list."),
        ] = None,
    ) -> Self:
        """Return the page that the query of a request chooses."""
        return cls(after, 100 if limit is None and after is not None else limit)

    @property
    def rows(self) -> int:
        """Return how many rows to read: one more than the page has, so that its end is known."""
        return (MAX_ROWS if self.limit is None else self.limit) + 1

    def place(self, parse: Callable[[str], _Item]) -> _Item | None:
        """Return what *parse* reads from `after`, None on the first page.

        Raises:
            Problem: 422, it is not the `next` of a page.
        """
        if self.after is None:
            return None
        try:
            return parse(self.after)
        except ValueError:
            problem = "`after` is not the `next` of a page of this list"
            hint = "begin again without `after`"
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, problem, hint=hint) from None

    def answer(
        self, found: Sequence[_Item], place: Callable[[_Item], str]
    ) -> list[_Item] | Page[_Item]:
        """Return *found*, of which *place* makes an `after`, as a list or as a page."""
        if self.limit is None:
            return list(bounded(found))
        end = place(found[self.limit - 1]) if len(found) > self.limit else None
        return Page(items=list(found[: self.limit]), next=end)


ChosenPage = Annotated[Paging, Depends(Paging.chosen)]


def etag(value: object) -> str:
    """Return the entity tag of an object as it is shown."""
    shown = TypeAdapter[Any](type(value)).dump_json(value)
    return f'"{hashlib.sha256(shown).hexdigest()[:32]}"'


def tagged(response: Response, value: _Item) -> _Item:
    """Return *value*, and give its entity tag to the answer."""
    response.headers["etag"] = etag(value)
    return value


def check_match(request: Request, value: object) -> None:
    """Check `If-Match` against the object as it is now, which is locked or read just before.

    Raises:
        Problem: 412, the object has changed since the caller read it.
    """
    check_tag(request, etag(value))


def check_tag(request: Request, tag: str) -> None:
    """Check `If-Match` against a tag; otherwise like `check_match`."""
    wanted = request.headers.get("if-match")
    if wanted is None or wanted.strip() == "*":
        return
    if tag not in {one.strip() for one in wanted.split(",")}:
        raise Problem(
            HTTPStatus.PRECONDITION_FAILED,
            "it was changed since you read it",
            hint="read it again, then repeat the change",
        )


_MODELS_ABOVE: Final = """
SELECT COALESCE(CASE WHEN $3 THEN t.allowed_models END, o.allowed_models) AS models,
    COALESCE($4, t.policy_name, o.policy_name, 'default') AS policy
FROM organizations AS o LEFT JOIN teams AS t ON t.id = $2 WHERE o.id = $1
"""


async def check_models(
    access: Access,
    models: tuple[str, ...] | Unchanged | None,
    before: tuple[str, ...] | None = None,
    *,
    policy: str | None = None,
) -> None:
    """Check that a list of models stays within the nearest one above, or the one *before*.

    Without one above, within that of the policy in force; *policy* is a key's own. A caller who
    may change the list above, or bind another policy, may go beyond it.

    Raises:
        Problem: 403.
        ChangeRefusedError: the policy in force is not there, or cannot be read.
    """
    if not isinstance(models, tuple) or access.allows(Permission.MANAGE_ORGANIZATIONS):
        return
    owner = access.organization_id, access.team_id
    by_team = not access.allows(Permission.MANAGE_TEAMS, *owner)
    row = await access.connection.fetchrow(_MODELS_ABOVE, *owner, by_team, policy)
    assert row is not None  # noqa: S101 - the path names the organization
    above = row["models"]
    if above is None and not access.allows(Permission.BIND_POLICIES, *owner):
        stored = await existing_policy(access.connection, row["policy"])
        above = earlier_document(stored).policy.allowed_models
    if above is None:
        return
    for glob in models:
        if not is_glob_within(glob, (*above, *(before or ()))):
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"{glob[:60]} is not within the models of the team, organization or policy",
                hint="ask a person who may change those",
            )
