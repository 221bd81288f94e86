"""Reads the forms of pages, and makes changes that a page can show the refusal of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from sidecar.admin.owners import ChangeRefusedError
from sidecar.admin_api.access import Access, read_form
from sidecar.admin_api.problems import Problem
from sidecar.console.rendering import seen
from sidecar.domain.validation import plain_fault
from sidecar.keys.scopes import ScopeError
from sidecar.limits.limit_syntax import LimitWordsError
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import policy_names

CSRF_FIELD: Final = "csrf_token"
NO_POLICY: Final = ("", "none: the next level decides")
MOST_OFFERED: Final = 1_000
"""Names offered while one types; any other can be typed."""
_Result = TypeVar("_Result")
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ChangeRefusal:
    """The reason why a change was not made, for the page that asked for it."""

    problem: str
    hint: str | None = None


async def read_fields(request: Request) -> Mapping[str, str]:
    """Return the form's fields without blanks around them; files are left out."""
    form = await read_form(request)
    return {name: value.strip() for name, value in form.items() if isinstance(value, str)}


def chosen(
    fields: Mapping[str, str], name: str, choices: Mapping[str, _Result], default: str = ""
) -> _Result:
    """Return the value that a field chooses; without the field, that of *default*.

    Raises:
        Problem: 422, it is none of the choices: a guess could be a key that never expires.
    """
    word = fields.get(name, default)
    if word not in choices:
        raise Problem(422, f"`{name}` is none of: {', '.join(choices)}")
    return choices[word]


def check_seen(fields: Mapping[str, str], *values: object) -> None:
    """Check that the *values* of a locked object are those that its form was filled with.

    A form that does not say which those were replaces any.

    Raises:
        ChangeRefusedError: another person changed them meanwhile.
    """
    if fields.get("seen") not in {None, seen(*values)}:
        raise ChangeRefusedError(
            "this was changed since the page was read; nothing was saved",
            hint="the page shows it as it is now: make the change again",
        )


def words(text: str) -> tuple[str, ...] | None:
    """Return the words of a field, separated by commas or blanks; None without any."""
    return tuple(text.replace(",", " ").split()) or None


async def attempt(
    access: Access, change: Callable[[], Awaitable[_Result]]
) -> _Result | ChangeRefusal:
    """Make *change*; if it is refused nothing of it stays, and the connection can still be read.

    A savepoint: PostgreSQL takes no further statement in a transaction after an error.
    """
    try:
        async with access.connection.transaction():
            return await change()
    except ChangeRefusedError as error:
        return ChangeRefusal(error.problem, error.hint)
    except (ScopeError, LimitWordsError) as error:
        return ChangeRefusal(str(error))


def valid(kind: type[_Model], fields: Mapping[str, object]) -> _Model | ChangeRefusal:
    """Return the object that *fields* are, or their faults; no value is repeated."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        return ChangeRefusal("; ".join(f"{one['loc'][0]}: {plain_fault(one)}" for one in faults))


async def policy_choices(connection: Connection) -> list[tuple[str, str]]:
    """Return the options of a field that binds a policy: none, and each in force."""
    return [NO_POLICY, *((one, one) for one in await policy_names(connection))]
