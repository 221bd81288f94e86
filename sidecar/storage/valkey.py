"""A client of Valkey or Redis: alone, as a cluster, or behind Sentinels; plain or with TLS.

No command is tried twice and no wait is longer than its budget: whoever asks has another way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisClusterException, RedisError
from typing_extensions import override

from sidecar.settings.stores import ValkeyMode, ValkeySettings

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
    """What the file of EGRET_VALKEY__PASSWORD_FILE holds is no password, or it is not there."""


@dataclass(frozen=True, slots=True)
class PasswordFile(CredentialProvider):
    """Asked at each new connection, so that a password may change while workers run."""

    path: Path
    user: str

    @override
    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the user, if there is one, and what the file holds now.

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


def _client(settings: ValkeySettings, stack: AsyncExitStack) -> Client:
    if settings.url is None:
        raise ValueError("no EGRET_VALKEY__URL is set")
    options = _options(settings)
    client: Client
    match settings.mode:
        case ValkeyMode.STANDALONE:
            client = Redis.from_pool(
                BlockingConnectionPool(
                    max_connections=settings.pool_size,
                    timeout=settings.operation_seconds,
                    **_parsed(settings),
                    **options,
                )
            )
        case ValkeyMode.CLUSTER:
            client = RedisCluster(
                startup_nodes=[ClusterNode(host, port) for host, port in _addresses(settings)],
                max_connections=settings.pool_size,
                **_from_url(settings),
                **options,
            )
        case ValkeyMode.SENTINEL:
            client = _behind_sentinels(settings, options, stack)
        case _:
            assert_never(settings.mode)
    stack.push_async_callback(client.aclose)
    return client


def _options(settings: ValkeySettings) -> dict[str, Any]:
    """Return what every connection is made with."""
    options: dict[str, Any] = {
        "socket_timeout": settings.operation_seconds,
        "socket_connect_timeout": settings.operation_seconds,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "egret",
    }
    if settings.ca_file is not None and _is_tls(settings):
        options["ssl_ca_certs"] = str(settings.ca_file)
    return options


def _is_tls(settings: ValkeySettings) -> bool:
    return settings.url is not None and settings.url.get_secret_value().startswith("rediss://")


def _parsed(settings: ValkeySettings) -> dict[str, Any]:
    """Return what the URL says of a connection, with the file's password where there is one."""
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
        *((host, int(port)) for host, _, port in further),
    ]


def _behind_sentinels(
    settings: ValkeySettings, options: dict[str, Any], stack: AsyncExitStack
) -> Redis:
    login = _from_url(settings)
    tls = {name: login[name] for name in ("ssl",) if name in login}
    sentinel = Sentinel(  # type: ignore[no-untyped-call] # redis 8.1 leaves its arguments untyped
        _addresses(settings),
        sentinel_kwargs={**options, **tls},
        **login,
        **options,
    )
    for each in sentinel.sentinels:
        stack.push_async_callback(each.aclose)
    master: Redis = sentinel.master_for(settings.sentinel_master or "", redis_class=Redis)
    return master
