"""The Valkey client, and publish/subscribe topics on it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Never, TypeVar, assert_never
from urllib.parse import urlsplit

import structlog
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ReadOnlyError, RedisClusterException, RedisError
from typing_extensions import override

from sidecar.settings.stores import ValkeyMode, ValkeySettings
from sidecar.telemetry.key_metrics import SharedOutcome

VALKEY_UNAVAILABLE: Final = (
    RedisError,
    RedisClusterException,  # a cluster that is away; no RedisError (redis 8.1)
    OSError,
    TimeoutError,
    ValueError,  # an answer that is no Redis'
)
"""How redis-py says that it has no answer."""

Client = Redis | RedisCluster


class PasswordFileError(RedisError):
    """The file of EGRET_VALKEY__PASSWORD_FILE is missing or holds no password."""


@dataclass(frozen=True, slots=True)
class PasswordFile(CredentialProvider):
    """Reads the password for each new connection, so that it may change while workers run."""

    path: Path
    user: str

    @override
    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the user, if there is one, and the present text of the file.

        Raises:
            PasswordFileError: it cannot be read, or is empty.
        """
        name = "the file of EGRET_VALKEY__PASSWORD_FILE"
        try:
            password = self.path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise PasswordFileError(f"{name}: {error.strerror or 'cannot be read'}") from None
        except UnicodeDecodeError:
            raise PasswordFileError(f"{name} holds no text") from None
        if not password:
            raise PasswordFileError(f"{name} is empty")
        return (self.user, password) if self.user else (password,)

    @override
    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return the same, without a wait.

        Cancelled in one, redis-py would put a connection back that has not logged in (redis 8.1).
        """
        return self.get_credentials()


@asynccontextmanager
async def open_valkey(settings: ValkeySettings) -> AsyncGenerator[Client]:
    """Give a client without connecting, and close it in the end.

    Raises:
        ValueError: there is no URL, or it is not one.
    """
    async with AsyncExitStack() as stack:
        yield _client(settings, stack)


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Waits for a connection if all are in use."""


class _PrimaryPool(BlockingConnectionPool):
    """Closes its connections when one is to a replica, as Sentinel's pool and a cluster do.

    A primary that is demoted keeps them open, while its name leads to the new primary.
    """

    def __init__(self, *, connection_class: type[AbstractConnection], **options: Any) -> None:
        primary_class = _PRIMARY_CLASSES[connection_class]
        super().__init__(connection_class=primary_class, leave=self._leave, **options)

    async def _leave(self) -> None:
        await self.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call] # redis 8.1
        await self.disconnect(inuse_connections=False)


class _PrimaryConnection(AbstractConnection):
    """Leaves the server once it answers that it is read-only."""

    def __init__(self, *, leave: Callable[[], Awaitable[None]], **options: Any) -> None:
        super().__init__(**options)
        self._leave = leave

    @override
    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Return the next reply."""
        try:
            return await super().read_response(*arguments, **options)
        except ReadOnlyError:
            await self._leave()
            raise


class _PrimaryTcp(_PrimaryConnection, Connection):
    pass


class _PrimaryTls(_PrimaryConnection, SSLConnection):
    pass


class _PrimaryUnix(_PrimaryConnection, UnixDomainSocketConnection):
    pass


_PRIMARY_CLASSES: Final[dict[type[AbstractConnection], type[AbstractConnection]]] = {
    Connection: _PrimaryTcp,
    SSLConnection: _PrimaryTls,
    UnixDomainSocketConnection: _PrimaryUnix,
}


def _client(settings: ValkeySettings, stack: AsyncExitStack) -> Client:
    if settings.url is None:
        raise ValueError("no EGRET_VALKEY__URL is set")
    options: dict[str, Any] = {
        "socket_timeout": settings.operation_seconds,
        "socket_connect_timeout": settings.operation_seconds,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "egret",
    }
    if settings.ca_file is not None and _is_tls(settings):
        options["ssl_ca_certs"] = str(settings.ca_file)
    client: Client
    match settings.mode:
        case ValkeyMode.STANDALONE:
            client = Redis.from_pool(
                _PrimaryPool(
                    max_connections=settings.pool_size,
                    timeout=settings.operation_seconds,
                    **{"connection_class": Connection, **_parsed(settings)},
                    **options,
                )
            )
        case ValkeyMode.CLUSTER:
            client = RedisCluster(
                startup_nodes=[ClusterNode(host, port) for host, port in _addresses(settings)],
                # Pools wait at their bound, this raises (redis 8.1); `max_exchanges` bounds calls.
                max_connections=sys.maxsize,
                **_from_url(settings),
                **options,
            )
        case ValkeyMode.SENTINEL:
            login = _from_url(settings)
            tls = {name: login[name] for name in ("ssl",) if name in login}
            sentinel = Sentinel(  # type: ignore[no-untyped-call] # redis 8.1: untyped arguments
                _addresses(settings), sentinel_kwargs={**options, **tls}, **login, **options
            )
            for each in sentinel.sentinels:
                stack.push_async_callback(each.aclose)
            client = sentinel.master_for(
                settings.sentinel_master or "",
                redis_class=Redis,
                connection_pool_class=_BlockingSentinelPool,
                max_connections=settings.pool_size,
                timeout=settings.operation_seconds,
            )
        case _:
            assert_never(settings.mode)
    stack.push_async_callback(client.aclose)
    return client


def _is_tls(settings: ValkeySettings) -> bool:
    return settings.url is not None and settings.url.get_secret_value().startswith("rediss://")


def _parsed(settings: ValkeySettings) -> dict[str, Any]:
    """Return connection options from the URL, with the password of the file if there is one."""
    url = "" if settings.url is None else settings.url.get_secret_value()
    parsed: dict[str, Any] = dict(parse_url(url))
    if settings.password_file is not None:
        user = parsed.pop("username", "")
        parsed.pop("password", None)
        parsed["credential_provider"] = PasswordFile(settings.password_file, user)
    return parsed


def _from_url(settings: ValkeySettings) -> dict[str, Any]:
    """Return how to log in, the database of the URL, and whether it asks for TLS."""
    parsed = _parsed(settings)
    for name in ("host", "port", "connection_class", "path"):
        parsed.pop(name, None)
    return {**parsed, "ssl": True} if _is_tls(settings) else parsed


def _addresses(settings: ValkeySettings) -> list[tuple[str, int]]:
    """Return host and port of the URL and of the further nodes."""
    url = urlsplit("" if settings.url is None else settings.url.get_secret_value())
    default_port = 26379 if settings.mode is ValkeyMode.SENTINEL else 6379
    further = [node.rpartition(":") for node in settings.nodes]
    return [
        (url.hostname or "localhost", url.port or default_port),
        *((host.strip("[]"), int(port)) for host, _, port in further),  # brackets of IPv6
    ]


FAILURES: Final = 3
"""Failures in a row, after which calls pause for a while."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTimes:
    """In seconds.

    `keep_seconds` is how long the server holds a record, whether one of that age is used or not;
    `pause_seconds` the time without calls to a server that fails.
    """

    keep_seconds: float
    operation_seconds: float
    pause_seconds: float = 2.0


class ValkeyCalls:
    """Calls within a budget, for which a request waits; `count` receives each failure."""

    def __init__(self, times: SharedTimes, count: Callable[[SharedOutcome], None]) -> None:
        self._times = times
        self._count = count
        self._failures = 0
        self._paused_until = 0.0

    async def run(self, operation: Callable[[], Awaitable[_Answer]]) -> _Answer | SharedOutcome:
        """Return the answer, or, counted, why there is none."""
        now = time.monotonic()
        if now < self._paused_until:
            self._count(SharedOutcome.SKIPPED)
            return SharedOutcome.SKIPPED
        if self._failures >= FAILURES:
            # One call probes; the others would all wait if the server is still away.
            self._paused_until = now + self._times.pause_seconds
        try:
            async with asyncio.timeout(self._times.operation_seconds):
                answer = await operation()
        except VALKEY_UNAVAILABLE:
            self._failures += 1
            if self._failures >= FAILURES:
                self._paused_until = now + self._times.pause_seconds
            self._count(SharedOutcome.UNAVAILABLE)
            return SharedOutcome.UNAVAILABLE
        self._failures = 0
        self._paused_until = 0.0
        return answer


HEARTBEAT_SECONDS: Final = 5.0
SUBSCRIBER_SECONDS: Final = 1.0
"""Budget of connecting and of a heartbeat's answer: no request waits for the subscriber."""
_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)

OnMessage = Callable[[bytes], None]


class Subscriber:
    """Subscribes to topics, and again whenever the connection is lost.

    Callbacks run in the event loop and must not block or raise.
    """

    def __init__(
        self,
        settings: ValkeySettings,
        topics: Mapping[str, OnMessage],
        *,
        on_listening: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = patient(settings)
        self._topics = {name.encode(): on_message for name, on_message in topics.items()}
        self._names = list(topics)
        self._on_listening = on_listening
        self._on_lost = on_lost

    async def run(self) -> Never:
        """Listen until cancelled."""
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            is_listening = False
            try:
                async with (
                    open_valkey(self._settings) as client,
                    _subscription(client, tuple(self._topics)) as topics,
                ):
                    is_listening = True
                    _log.info("topics.subscribed", topics=self._names)
                    self._on_listening()
                    delay_seconds = _FIRST_DELAY_SECONDS
                    await self._stay(topics)
            except VALKEY_UNAVAILABLE as error:
                _log.warning(
                    "topics.not_subscribed",
                    topics=self._names,
                    error_type=type(error).__name__,
                    retry_seconds=delay_seconds,
                )
            finally:
                if is_listening:
                    self._on_lost()
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, _LONGEST_DELAY_SECONDS)

    async def _stay(self, topics: Any) -> Never:
        is_asked = False
        while True:
            message = await topics.get_message(timeout=HEARTBEAT_SECONDS)
            if message is not None:
                is_asked = False
                if message["type"] == "message":
                    self._topics[message["channel"]](bytes(message["data"]))
            elif is_asked:
                raise TimeoutError("the server does not answer")
            else:
                is_asked = True
                await topics.ping()


@asynccontextmanager
async def _subscription(client: Client, names: tuple[bytes, ...]) -> AsyncGenerator[Any]:
    """Give a subscription that the server has confirmed."""
    if isinstance(client, RedisCluster):
        await client.initialize()  # a subscription does not do that by itself (redis 8.1)
    topics: Any = client.pubsub()  # typed only in part (redis 8.1)
    try:
        await topics.subscribe(*names)
        async with asyncio.timeout(SUBSCRIBER_SECONDS):
            for _ in names:
                while await topics.get_message(timeout=SUBSCRIBER_SECONDS) is None:
                    pass
        yield topics
    finally:
        await topics.aclose()


def patient(settings: ValkeySettings) -> ValkeySettings:
    """Return settings for calls that no request waits for."""
    return settings.model_copy(update={"operation_seconds": SUBSCRIBER_SECONDS})
