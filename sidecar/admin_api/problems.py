"""Errors as problem details (RFC 9457): of routes, of operations, and of the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, assert_never

import asyncpg
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from sidecar.admin.installation.objects import InstallationError
from sidecar.admin.owners import (
    EXISTS,
    UNKNOWN_PARAMETER,
    ChangeRefusedError,
    ExistsAlreadyError,
    InvalidValueError,
)
from sidecar.domain.validation import plain_fault
from sidecar.guardrails.matching.database import CompileError
from sidecar.policy.parse import PolicyDocumentError
from sidecar.storage.pool import READ_ONLY, READ_ONLY_HINT, InvalidDsnError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = {"retry-after": "5"}
_MAX_CHARACTERS: Final = 200
"""Of an error of PostgreSQL: it may repeat a whole value."""
MAX_ERRORS: Final = 20
_MAX_NAME_CHARACTERS: Final = 60


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """An answer that is an error; `hint` says how to correct the request."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        hint: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        kind: str = "about:blank",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = HTTPStatus(status).phrase
        self.detail = detail
        self.hint = hint
        self.errors = errors
        self.headers = headers
        self.kind = kind

    def response(self) -> JSONResponse:
        """Return the problem as JSON."""
        body: dict[str, Any] = {
            "type": self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.hint is not None:
            body["hint"] = self.hint
        if self.errors:
            body["errors"] = list(self.errors)
        return JSONResponse(
            body, self.status, headers=dict(self.headers or {}), media_type=MEDIA_TYPE
        )


def not_found(kind: str) -> Problem:
    """Return the answer for an object that is not there, or that the caller may not see."""
    return Problem(HTTPStatus.NOT_FOUND, f"there is no such {kind}, or you may not see it")


def check_query(given: QueryParams, known: frozenset[str], *, switch: str) -> None:
    """Check the names of a query: `dryrun=true` for `dry_run` would make the change.

    Raises:
        Problem: 422, one is unknown or repeated, or the *switch* is neither true nor false.
    """
    counts = Counter(name for name, _ in given.multi_items())
    faults = {name: "is given twice" for name, count in counts.items() if count > 1}
    faults |= {name: UNKNOWN_PARAMETER for name in counts if name not in known}
    if switch in known and given.get(switch, "true") not in {"true", "false"}:
        faults[switch] = "must be true or false"
    if faults:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "the request is not valid",
            hint=f"known parameters: {', '.join(sorted(known)) or 'none'}",
            errors=[
                {"in": f"query.{name[:_MAX_NAME_CHARACTERS]}", "fault": fault}
                for name, fault in list(faults.items())[:MAX_ERRORS]
            ],
        )


def problem_of(error: Exception) -> Problem | None:
    """Return the problem for an expected error; None for any other, which is a fault of ours."""
    match error:
        case Problem():
            return error
        case InvalidValueError():
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.problem, hint=error.hint)
        case ChangeRefusedError():
            kind = EXISTS if isinstance(error, ExistsAlreadyError) else "about:blank"
            return Problem(HTTPStatus.CONFLICT, error.problem, hint=error.hint, kind=kind)
        case CompileError():
            hint = "write fewer or simpler expressions"
            return Problem(HTTPStatus.CONFLICT, str(error), hint=hint)
        case RequestValidationError() | PolicyDocumentError() | InstallationError():
            return _invalid(error)
        case HTTPException():
            return Problem(error.status_code, str(error.detail), headers=error.headers)
        case (
            asyncpg.PostgresError() | asyncpg.InterfaceError() | asyncpg.InternalClientError()
            | OSError() | InvalidDsnError()
        ):  # fmt: skip
            return _of_database(error)
        case _:
            return None


def _of_database(error: Exception) -> Problem:
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the database has no schema for this version",
                hint="run `egret migrate`",
            )
        case asyncpg.ReadOnlySQLTransactionError():
            return Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{READ_ONLY}; nothing was changed",
                hint=READ_ONLY_HINT,
                headers=RETRY_AFTER,
            )
        case asyncpg.InsufficientPrivilegeError():
            return Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the database's role may not do this",
                hint="log `egret admin` in as a member of egret_console",
            )
        case asyncpg.IntegrityConstraintViolationError() | asyncpg.TransactionRollbackError():
            return Problem(
                HTTPStatus.CONFLICT,
                "an object that this change depends on was changed meanwhile; nothing was done",
                hint="read it again, then repeat the change",
            )
        case asyncpg.QueryCanceledError():
            return Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "a query took longer than EGRET_ADMIN__QUERY_SECONDS; nothing was done",
                hint="ask for a shorter time, one owner or a page, or raise the setting",
            )
        case asyncpg.DataError():
            return Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"PostgreSQL does not take a value ({str(error)[:_MAX_CHARACTERS]})",
                hint="correct it",
            )
        case _:
            return _away()


def _away() -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the database gave no answer; nothing was changed unless it is there when you look again",
        hint="try again",
        headers=RETRY_AFTER,
    )


def _invalid(error: RequestValidationError | PolicyDocumentError | InstallationError) -> Problem:
    """Return places and faults; values of JSON are not repeated, since they may be secrets."""
    hint: str | None = None
    match error:
        case RequestValidationError():
            detail = "the request is not valid"
            if isinstance(error.body, bytes):  # the framework has parsed no JSON
                hint = "send JSON with the header `content-type: application/json`"
            errors = [
                {"in": ".".join(str(step) for step in fault["loc"]), "fault": plain_fault(fault)}
                for fault in error.errors()[:MAX_ERRORS]
            ]
        case PolicyDocumentError():
            detail = "the text holds no valid policies"
            errors = [
                {"in": place, "fault": str(fault).removeprefix(f"{place}: ")}
                for fault in error.faults[:MAX_ERRORS]
                for place in (f"line {fault.line}, column {fault.column}",)
            ]
        case InstallationError():
            detail = "the files cannot be applied"
            errors = [
                {"in": fault.file, "fault": str(fault.fault)}
                for fault in error.faults[:MAX_ERRORS]
            ]
        case _:
            assert_never(error)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, hint=hint, errors=errors)
