"""The administration API in place of the database: `egret --server URL`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, Generic, NoReturn, TypeVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from sidecar import __version__
from sidecar.admin.owners import (
    EXISTS,
    UNKNOWN_PARAMETER,
    ChangeRefusedError,
    ExistsAlreadyError,
    InvalidValueError,
)
from sidecar.cli.arguments import SERVER
from sidecar.cli.terminal import FAILED, WRONG_USAGE, fail, install_hint, note
from sidecar.domain.limits import Level
from sidecar.settings.sections import http_url, inherited_environment, is_loopback

TOKEN: Final = "EGRET_SERVER_TOKEN"  # noqa: S105 - the variable's name
_API: Final = "/api/v1"
_SECONDS: Final = 60.0
"""More than the server waits for workers."""
_FILES_SECONDS: Final = 600.0
"""For the files of an installation, of up to a hundred thousand keys."""
_REFUSED: Final = 400
_LOOK_FIRST: Final = "a change may have been made: look first"
_TOKEN_FORM: Final = re.compile(r"[!-~]+")
MAX_ROWS: Final = 1_000
"""The most objects of one answer."""
_IN_FORCE: Final = re.compile(r"workers=(\d+), behind=(\d+)")
_STATE: ContextVar[str] = ContextVar("in_force", default="")

_LOCAL: Final = "it works on processes and files of this machine"
_LOGIN: Final = "it gives or ends access for people, which a login to the database controls"
_BULK: Final = "it copies whole tables"
ONLY_HERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "up": _LOCAL,
        "demo": _LOCAL,
        "serve": _LOCAL,
        "migrate": "it changes the database's schema",
        "doctor": _LOCAL,
        "health": _LOCAL,
        "lint": _LOCAL,
        "conformance": _LOCAL,
        "top": _LOCAL,
        "logs": _LOCAL,
        "replay": _LOCAL,
        "bench": _LOCAL,
        "envoy": _LOCAL,
        "guardrails test": "it judges on this machine; `POST /policies/try` judges on the server",
        "policy lint": "it reads credentials of stored policies; name a file with --file",
        "keys import": _BULK,
        "keys export": _BULK,
        "batch": _LOCAL,
        "usage drop": "the role of `egret admin` cannot delete usage",
        "audit follow": "it reads entries in the order in which transactions end",
        "alerts run": _LOCAL,
        "admin login-link": _LOGIN,
        "admin log-out": _LOGIN,
    }
)
"""Commands that refuse `--server`, each with the reason; all others take it."""


def refuse_local(words: Sequence[str]) -> None:
    """Exit if `ONLY_HERE` has the command that *words* begin with."""
    for command in (" ".join(words[:2]), words[0]):
        if (reason := ONLY_HERE.get(command)) is not None:
            fail(
                f"`egret {command}` does not work with --server: {reason}",
                hint="run it without --server",
                code=WRONG_USAGE,
            )


Shown = TypeVar("Shown")


class _Page(BaseModel, Generic[Shown]):
    """A part of a list, and the `after` of the next part."""

    items: list[Shown]
    next: str | None
    unreadable: list[dict[str, Any]] = []


def address(*parts: str) -> str:
    """Return a path below the API, each part quoted."""
    return "/".join(("", *(quote(part, safe="") for part in parts)))


def team_address(team: str) -> str:
    """Return the path of ORGANIZATION/TEAM, or exit: a server does not guess which is meant."""
    organization, slash, name = team.partition("/")
    if not (slash and organization and name) or "/" in name:
        hint = "with --server a team is named ORGANIZATION/TEAM"
        fail(f"{team} is not the path of a team", hint=hint, code=WRONG_USAGE)
    return address("organizations", organization, "teams", name)


def owner_address(level: Level, name: str) -> str:
    """Return the path of a key, team or organization."""
    if level is Level.TEAM:
        return team_address(name)
    return address("keys" if level is Level.KEY else "organizations", name)


class _Fault(BaseModel):
    """A part of the request, and its fault."""

    place: str = Field(alias="in")
    fault: str


class _Refusal(BaseModel):
    """An answer that is an error (RFC 9457), as far as it is read."""

    detail: str
    type: str = ""
    hint: str = ""
    errors: tuple[_Fault, ...] = ()


class AdminServer:
    """Sends requests to `egret admin`, with the token of `EGRET_SERVER_TOKEN`."""

    def __init__(self, url: str, token: str) -> None:
        try:
            import httpx  # noqa: PLC0415 - only here, and only the extra has it
        except ModuleNotFoundError:
            fail("--server needs httpx", hint=install_hint("admin"), code=WRONG_USAGE)
        self._failed = (httpx.HTTPError, httpx.InvalidURL, ValueError)
        self._unsent = (
            httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL, httpx.LocalProtocolError,
            httpx.ProxyError, ValueError,
        )  # fmt: skip
        self._request = httpx.request
        self.etag: str | None = None
        """The entity tag of the last answer."""
        self.unreadable: list[dict[str, Any]] = []
        """The owners of limits that the server could not read for the last list."""
        self._url = url.rstrip("/") + _API
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def call(
        self,
        kind: type[Shown],
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        query: Mapping[str, Any] | None = None,
        wait: bool = False,
        if_match: str | None = None,
    ) -> Shown:
        """Return the object of the answer, or exit with its problem.

        With *if_match*, an entity tag, the server refuses to change an object that has another.

        Raises:
            ChangeRefusedError: the server refused the change.
        """
        parameters = {name: one for name, one in (query or {}).items() if one is not None}
        content = None if body is None else orjson.dumps(body, default=str)
        may_change = not (method == "GET" or path.endswith("/plan") or "dry_run" in parameters)
        try:
            answer = self._request(
                method,
                self._url + path,
                content=content,
                params=parameters | ({"wait": "true"} if wait else {}),
                headers=self._headers | ({} if if_match is None else {"if-match": if_match}),
                timeout=_FILES_SECONDS if path.startswith("/installation") else _SECONDS,
                follow_redirects=False,
            )
        except self._failed as error:
            problem, hint = type(error).__name__, "check the address of --server"
            if may_change and not isinstance(error, self._unsent):
                hint = f"{hint}; {_LOOK_FIRST}"
            fail(f"the server gave no answer ({problem})", hint=hint)
        foreign = "check that the address of --server is that of `egret admin`"
        if may_change:
            foreign = f"{foreign}; {_LOOK_FIRST}"
        try:
            document = answer.json()
        except ValueError:
            fail(
                f"the answer of the server is not JSON (status {answer.status_code})", hint=foreign
            )
        if answer.status_code >= _REFUSED or not answer.is_success:
            try:
                refusal = _Refusal.model_validate(document)
            except ValidationError:  # a proxy's before it, for one
                problem = "the answer of the server has no `detail` of an error"
                fail(f"{problem} (status {answer.status_code})", hint=foreign)
            for one in refusal.errors:
                if one.place.startswith("query.") and one.fault == UNKNOWN_PARAMETER:
                    self._fail_by_version(f"the server does not know `{one.place[6:]}`")
            _refuse(refusal, answer.status_code)
        self.etag = answer.headers.get("etag")
        _STATE.set(answer.headers.get("egret-in-force", ""))
        try:
            return TypeAdapter(kind).validate_python(document)
        except ValidationError:
            self._fail_by_version("the answer of the server has another form")

    def _fail_by_version(self, problem: str) -> NoReturn:
        """Exit with *problem* and the versions of both sides; any server states its own."""
        try:
            answer = self._request("GET", f"{self._url}/openapi.json", timeout=_SECONDS)
            version = str(answer.json()["info"]["version"])
        except (*self._failed, KeyError, TypeError):
            version = "unknown"
        versions = f"version {version} there, version {__version__} here"
        fail(f"{problem} ({versions})", hint="use an `egret` of the server's version", code=FAILED)

    def pages(
        self,
        kind: type[Shown],
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        most: int = sys.maxsize,
    ) -> Iterator[Shown]:
        """Yield the objects of all pages of a list, or the first *most*."""
        self.unreadable = []
        wanted = dict(query or {})
        left = most
        while left > 0:
            wanted["limit"] = min(left, MAX_ROWS)
            page = self.call(_Page[kind], "GET", path, query=wanted)  # type: ignore[valid-type]
            items = page.items[:left]
            self.unreadable += page.unreadable
            yield from items
            if page.next is None:
                return
            wanted["after"] = page.next
            left -= len(items)


def _refuse(refusal: _Refusal, status: int) -> NoReturn:
    hints: dict[int, str] = {
        HTTPStatus.UNAUTHORIZED: f"check {TOKEN}",
        HTTPStatus.NOT_FOUND: "correct the name or the number",
    }
    hint = refusal.hint or hints.get(status, "correct the request")
    faults = "; ".join(f"{one.place}: {one.fault}" for one in refusal.errors)
    detail = f"{refusal.detail} ({faults})" if faults else refusal.detail
    if refusal.type == EXISTS:
        raise ExistsAlreadyError(detail, hint=hint)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY and not faults:  # they are of the request's form
        raise InvalidValueError(detail, hint=hint)
    raise ChangeRefusedError(detail, hint=hint)


def admin_server() -> AdminServer:
    """Return the server of `--server`, or exit: without a token, or over plain http."""
    url = SERVER.get() or ""
    parts = http_url(url)
    is_safe = parts is not None and (parts.scheme == "https" or is_loopback(parts.hostname or ""))
    if parts is None or not is_safe or parts.query or parts.fragment:
        fail(
            "--server is no https address",
            hint="write for example https://egret.example.com",
            code=WRONG_USAGE,
        )
    token = inherited_environment().get(TOKEN, "").strip()
    if not token:
        fail(
            f"{TOKEN} is not set",
            hint="make a token with `egret admin create-token`",
            code=WRONG_USAGE,
        )
    if not _TOKEN_FORM.fullmatch(token):
        fail(
            f"{TOKEN} is not a token: it has a space, a line end or a character beyond ASCII",
            hint="copy the token again",
            code=WRONG_USAGE,
        )
    return AdminServer(url, token)


def most_rows(limit: int) -> int:
    """Return *limit*, or with a warning the most rows of an answer, for a list without pages."""
    if limit > MAX_ROWS:
        note(f"warning: a server lists {MAX_ROWS:,} rows at most; a shorter --since shows all")
    return min(limit, MAX_ROWS)


def words_in_force(*, no_wait: bool) -> str:
    """Return how far the last change has come, for the message about it."""
    match = _IN_FORCE.fullmatch(_STATE.get())
    if no_wait or match is None:
        return "is stored; workers follow within seconds"
    workers, behind = int(match[1]), int(match[2])
    if behind:
        fail(
            f"the change is stored, but {behind} of {workers} workers did not confirm it",
            hint="see `egret doctor` where they run",
        )
    if not workers:
        return "is stored; no worker is running"
    return f"is in force in {workers} worker{'s' * (workers != 1)}"
