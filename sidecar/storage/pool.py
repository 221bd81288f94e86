"""The PostgreSQL connection pool."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.parse
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from sidecar.settings.stores import PostgresSettings

if TYPE_CHECKING:  # asyncpg's classes take parameters only in its stubs
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection


UNAVAILABLE: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""Errors of asyncpg if the database does not answer. A timeout is an OSError."""

_LOST: Final = (
    asyncpg.PostgresConnectionError,
    # The next five are not named by their class, which holds statements cancelled by
    # `statement_timeout` as well: the next connection would wait as long.
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # 0.32: an idle connection whose last message was the farewell
    ConnectionError,
)
"""Errors of asyncpg if a pooled connection had died before it was used."""

_Item = TypeVar("_Item")

_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d*))?")
_MAX_PORT: Final = 65_535

# Texts of times, such as ids in the audit log, and days are then the same for every server.
_SERVER_SETTINGS: Final = {"application_name": "egret", "timezone": "UTC"}


class InvalidDsnError(Exception):
    """The setting is no PostgreSQL URL. Its text is not shown: it may be a password."""

    def __init__(self) -> None:
        super().__init__(
            "EGRET_POSTGRES__DSN is not a URL of the form postgresql://user:password@host/database"
            " (percent-encode special characters of the password)"
        )


class DsnFileError(OSError):
    """The file with the DSN cannot be read, or holds no URL; a later attempt may succeed."""


@asynccontextmanager
async def open_pool(settings: PostgresSettings) -> AsyncGenerator[Pool]:
    """Give a pool without connecting, and close it in the end, by force after a while.

    Each connection is made with the DSN as it stands in its file then, if it is in one.
    No statement of ours changes its session, so a connection goes back without the usual round
    trip that resets it: a key that misses every cache costs one statement.

    Raises:
        InvalidDsnError: no database could ever be reached.
    """
    if settings.read_from is None:
        _checked(settings.dsn.get_secret_value())

    async def connect_anew(*_: Any, **options: Any) -> Connection:
        return await asyncpg.connect(await _current_dsn(settings), **options)

    async def keep_session(_: Any) -> None:
        """Reset nothing."""

    pool = await asyncpg.create_pool(
        connect=connect_anew,
        min_size=0,
        max_size=settings.pool_size,
        timeout=settings.acquire_seconds,
        command_timeout=settings.query_seconds,
        reset=keep_session,
        server_settings=_SERVER_SETTINGS,
    )
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(settings.query_seconds):
                await pool.close()
        except UNAVAILABLE:  # too slow, or the server closed a connection a moment before
            pool.terminate()


async def fetch(
    pool: Pool, statement: str, *arguments: object, settings: PostgresSettings
) -> list[asyncpg.Record]:
    """Run a statement that may run twice, within its budgets: it reads, or writes the same again.

    A server that restarts leaves dead connections in the pool; the statement goes on to the next
    connection, so that no client pays for it.

    Raises:
        One of `UNAVAILABLE`.
    """

    async def attempt() -> list[asyncpg.Record]:
        async with pool.acquire(timeout=settings.acquire_seconds) as connection:
            try:
                return await connection.fetch(
                    statement, *arguments, timeout=settings.query_seconds
                )
            except UNAVAILABLE as error:
                # Its state is unknown: no other statement may get it.
                with suppress(asyncpg.InterfaceError):  # it may have left the pool by itself
                    connection.terminate()
                if isinstance(error, _LOST):
                    raise _LostConnectionError(type(error).__name__) from error
                raise

    return await _on_live_connection(attempt, settings)


class _LostConnectionError(ConnectionError):
    """The pool gave a connection that was dead."""


async def _on_live_connection(
    attempt: Callable[[], Awaitable[_Item]], settings: PostgresSettings
) -> _Item:
    for _ in range(settings.pool_size):
        with suppress(_LostConnectionError):
            return await attempt()
    return await attempt()


_SERVER_SHARE: Final = 0.8
"""Of the budget of a statement that adds: the server gives it up before its client does."""


async def add(pool: Pool, statement: str, *arguments: object, settings: PostgresSettings) -> None:
    """Run a statement that must not run twice, within its budgets.

    In a transaction: the server commits nothing that was given up here. It goes on to the next
    connection if one has died before the statement was sent.

    Raises:
        One of `UNAVAILABLE`: nothing was added, unless the answer to the commit was lost.
    """
    most = f"{max(1.0, settings.query_seconds * 1000 * _SERVER_SHARE):.0f}"

    async def attempt() -> None:
        is_sent = False
        async with pool.acquire(timeout=settings.acquire_seconds) as connection:
            try:
                async with connection.transaction():
                    timeout = "SELECT set_config('statement_timeout', $1, true)"
                    await connection.execute(timeout, most)
                    is_sent = True
                    await connection.execute(statement, *arguments)
            except UNAVAILABLE as error:
                with suppress(asyncpg.InterfaceError):  # as above
                    connection.terminate()
                if isinstance(error, _LOST) and not is_sent:
                    raise _LostConnectionError(type(error).__name__) from error
                raise

    await _on_live_connection(attempt, settings)


@asynccontextmanager
async def borrow(pool: Pool, settings: PostgresSettings) -> AsyncGenerator[Connection]:
    """Give a connection of the pool for several statements, such as a transaction.

    Raises:
        One of `UNAVAILABLE`.
    """
    async with pool.acquire(timeout=settings.acquire_seconds) as connection:
        yield connection  # type: ignore[misc] # a proxy, which has all of its methods


@asynccontextmanager
async def connect(settings: PostgresSettings) -> AsyncGenerator[Connection]:
    """Give a connection of its own, for the listener and for the command line.

    Raises:
        InvalidDsnError: no database could ever be reached.
        One of `UNAVAILABLE`.
    """
    dsn = await _current_dsn(settings)
    try:
        connection = await asyncpg.connect(
            dsn, timeout=settings.acquire_seconds, server_settings=_SERVER_SETTINGS
        )
    except socket.gaierror as error:  # its text is without the name that was looked up
        parts = urllib.parse.urlsplit(dsn)
        queried = urllib.parse.parse_qs(parts.query).get("host", [""])[0]
        hosts = (parts.netloc.rpartition("@")[2] or queried).split(",")
        # Without ports: digits after a name may be the begin of a password with a slash in it.
        names = ", ".join(match[1] for host in hosts if (match := _HOST.fullmatch(host)))
        raise socket.gaierror(f"{names}: {error.strerror}") from None
    try:
        yield connection
    finally:
        try:
            await connection.close(timeout=settings.query_seconds)
        except UNAVAILABLE:
            connection.terminate()


async def _current_dsn(settings: PostgresSettings) -> str:
    """Return the DSN of the settings, or the present text of their file."""
    if settings.read_from is None:
        return _checked(settings.dsn.get_secret_value())
    try:
        held = await asyncio.to_thread(settings.read_from.read_text, encoding="utf-8")
        return _checked(held.strip())
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise DsnFileError(f"the file of EGRET_POSTGRES__DSN_FILE: {reason}") from None
    except (UnicodeDecodeError, InvalidDsnError):
        raise DsnFileError(
            "the file of EGRET_POSTGRES__DSN_FILE holds no PostgreSQL URL"
        ) from None


def _checked(dsn: str) -> str:
    """Return the DSN if it can be parsed.

    asyncpg repeats text that it cannot parse: a `#` in a password would put its rest into logs.
    """
    try:
        parts = urllib.parse.urlsplit(dsn)
        query = urllib.parse.parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:  # such as for a bracket in a password
        raise InvalidDsnError from None
    is_url = parts.scheme in {"postgresql", "postgres"} and not parts.fragment
    has_nul = "\0" in urllib.parse.unquote(dsn)  # which no password and no path can have
    lists = [
        parts.netloc.rpartition("@")[2].split(","),
        *(hosts.split(",") for hosts in query.get("host", ())),
        *([f":{port}" for port in ports.split(",")] for ports in query.get("port", ())),
    ]
    if not is_url or has_nul or not all(one == [""] or all(map(_is_host, one)) for one in lists):
        raise InvalidDsnError
    return dsn


def _is_host(text: str) -> bool:
    """Return whether a name, an address or a socket's folder, and a port, can be connected to."""
    if text.startswith("/"):
        return True
    match = _HOST.fullmatch(text)
    if not text or match is None or int(match[2] or 0) > _MAX_PORT:
        return False
    name = urllib.parse.unquote(match[1])
    try:
        return name.startswith("/") or name.encode("idna") is not None
    except UnicodeError:  # an empty label, or one that is too long
        return False


READ_ONLY: Final = "the database is read-only, as a standby is"
READ_ONLY_HINT: Final = (
    "let EGRET_POSTGRES__DSN lead to the primary; of several hosts in it,"
    " `?target_session_attrs=primary` chooses it"
)

_MAX_SAID: Final = 200
"""Characters of an error of PostgreSQL: it may repeat a whole value."""


def explain_unavailable(error: Exception, settings: PostgresSettings) -> tuple[str, str]:
    """Return the problem and the hint for one of `UNAVAILABLE`, without the DSN or a password."""
    text = str(error) or "timed out"
    text = f"{text[:_MAX_SAID]} …" if len(text) > _MAX_SAID else text
    source = "EGRET_POSTGRES__DSN, or the file of EGRET_POSTGRES__DSN_FILE"
    match error:
        case DsnFileError():
            return text, "correct the path or the file"
        case asyncpg.InvalidAuthorizationSpecificationError():
            problem = f"PostgreSQL refused the login ({text})"
            hint = f"correct user or password in {source}"
        case asyncpg.ReadOnlySQLTransactionError():
            return READ_ONLY, READ_ONLY_HINT
        case asyncpg.InvalidCatalogNameError():
            problem = f"there is no such database ({text})"
            hint = f"create it, or correct {source}"
        case socket.gaierror():
            problem = f"the host of PostgreSQL is not known ({text})"
            hint = f"correct {source} (percent-encode special characters of the password)"
        case asyncpg.PostgresError() if not isinstance(error, asyncpg.PostgresConnectionError):
            problem = f"PostgreSQL answered with an error ({type(error).__name__}: {text})"
            return problem, "run it again; if the error stays, see the log of PostgreSQL"
        case _:
            problem = f"PostgreSQL gave no answer ({type(error).__name__}: {text})"
            hint = f"check that it runs and that {source}, leads to it"
    if settings.model_fields_set.isdisjoint({"dsn", "dsn_file"}):
        place = "postgresql://user:password@host/database, or as `make run` prints it"
        hint = f"EGRET_POSTGRES__DSN is not set; set it to {place}"
    return problem, hint


def affected_rows(status: str) -> int:
    """Return how many rows a statement changed or copied, from its command tag."""
    return int(status.rpartition(" ")[2])


def as_tuple(items: Sequence[_Item] | None) -> tuple[_Item, ...] | None:
    """Return an array of PostgreSQL as our values hold it."""
    return None if items is None else tuple(items)
