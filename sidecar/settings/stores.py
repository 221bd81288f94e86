"""Settings of PostgreSQL and Valkey, and of keys, usage and limits that are stored there."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from sidecar.settings.sections import Seconds, Section


class PostgresSettings(Section):
    """The PostgreSQL database of keys, policies and usage."""

    dsn: SecretStr = SecretStr("postgresql:///egret")
    dsn_file: Path | None = None
    """Holds the DSN if `dsn` is not given; read anew for each connection, so that a password may
    change."""
    pool_size: Annotated[int, Field(ge=1, le=100)] = 4
    acquire_seconds: Seconds = 1.0
    query_seconds: Seconds = 1.5

    @property
    def read_from(self) -> Path | None:
        """The file to read the DSN from, if it is not given itself."""
        return None if "dsn" in self.model_fields_set else self.dsn_file


class ValkeyMode(enum.Enum):
    """Topology of a Valkey or Redis."""

    STANDALONE = "standalone"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"
    """The URL's host is a Sentinel's; the rest of the URL is that of the master it names."""


class ValkeySettings(Section):
    """A Valkey or Redis server that workers share; without a URL they do without."""

    url: SecretStr | None = None
    """`redis://`, `rediss://` (TLS) or `unix://`, with user, password and database as needed."""
    password_file: Path | None = None
    """Holds the password if the URL has none; read anew for each connection, so it may change."""
    mode: ValkeyMode = ValkeyMode.STANDALONE
    nodes: tuple[Annotated[str, Field(pattern=r"^[^\s@/]+:[0-9]{1,5}$")], ...] = ()
    """Further `host:port` of the cluster or of the Sentinels, in case the URL's is down."""
    sentinel_master: str | None = None
    ca_file: Path | None = None
    """Certificates that vouch for the server; None takes those of the system."""
    operation_seconds: Seconds = 0.05
    """Budget of one operation, a new connection included."""
    pool_size: Annotated[int, Field(ge=1, le=1000)] = 8

    @property
    def lacks_password(self) -> bool:
        """Return whether there is a URL without a password."""
        return self.url is not None and not urlsplit(self.url.get_secret_value()).password

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        text = url.get_secret_value()
        if not text.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        if not _is_whole(text):
            raise ValueError(
                "must be SCHEME://USER:PASSWORD@HOST:PORT/DATABASE, with numbers for port and"
                " database; in a password write / as %2F, ? as %3F, # as %23 and % as %25"
            )
        return url


def _is_whole(text: str) -> bool:
    """Return whether *text* is a URL with numbers for port and database, if it has them."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    # A password that is not escaped ends the part with the host: the rest is path or query.
    path = "" if url.scheme == "unix" else url.path.strip("/")
    return port != 0 and "@" not in url.query + url.fragment and (not path or path.isdecimal())


class Invalidation(enum.Enum):
    """The channel that notifies workers of changes to keys.

    LISTEN: PostgreSQL's own notifications, whichever program makes the change.
    PUBSUB: messages that the command line publishes in Valkey; for poolers that cannot LISTEN.
    BOTH: whichever comes first.
    """

    LISTEN = "listen"
    PUBSUB = "pubsub"
    BOTH = "both"

    @property
    def listens(self) -> bool:
        """Return whether workers LISTEN in PostgreSQL."""
        return self is not Invalidation.PUBSUB

    @property
    def subscribes(self) -> bool:
        """Return whether workers subscribe in Valkey, and the command line publishes there."""
        return self is not Invalidation.LISTEN


class CacheSettings(Section):
    """The caches of keys: in the process (L1), and shared in Valkey (L2)."""

    max_keys: Annotated[int, Field(ge=1)] = 10_000
    ttl_seconds: Seconds = 30.0
    negative_ttl_seconds: Seconds = 5.0
    max_loads: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Concurrent look-ups of unknown keys in a worker; beyond, 503."""
    l2_secret: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Authenticates records in Valkey, the same for all workers. Without it L2 is not used."""
    l2_ttl_seconds: Seconds = 300.0
    max_stale_seconds: Annotated[float, Field(ge=0, le=86400)] = 600.0
    """Longest age at which a key is accepted while PostgreSQL does not answer."""
    invalidation: Invalidation = Invalidation.LISTEN


class RedactionSettings(Section):
    """The secret that makes equal redacted values recognisable over requests."""

    hash_key: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Makes the hashes of `redaction: hash`, the same for all workers; without it, numbers."""


class UsageSource(enum.Enum):
    """The source of usage.

    ACCESS_LOG: Envoy sends its access log to the workers, as our Envoy configuration says.
    AI_PROTOCOL_MANAGER: Envoy's AI filter reads the counts, and sends them here with trailers.
    ANSWERS: a worker reads the counts in the answers that pass it, as far as `reads` says.
    OFF: no usage is recorded.
    """

    ACCESS_LOG = "access_log"
    AI_PROTOCOL_MANAGER = "ai_protocol_manager"
    ANSWERS = "answers"
    OFF = "off"


class ReadAnswers(enum.Enum):
    """The answers that a worker reads for their counts, with the source `answers`.

    ALL: every answer that may state counts passes a worker.
    JUDGED: those that pass it anyway; the tokens of all others are estimated.
    """

    ALL = "all"
    JUDGED = "judged"


class UsageSettings(Section):
    """Usage of requests: from its source by way of the disk to PostgreSQL."""

    source: UsageSource = UsageSource.ACCESS_LOG
    reads: ReadAnswers = ReadAnswers.ALL
    spool_directory: Path = Path("run/usage")
    """On a disk that outlives the process; one folder a worker in it."""
    spool_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 1024**3
    """Of one worker. A record takes some 300 bytes."""
    batch_seconds: Seconds = 10.0
    """Budget of one batch on its way to the database."""
    settle_seconds: Annotated[float, Field(ge=1, le=86400)] = 3900.0
    """A request without a logged end counts as lost after this: longer than Envoy lets an answer
    take (`max_stream_duration`)."""


class LimitSettings(Section):
    """Limits and budgets of keys, teams and organizations."""

    shares: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of parts a limit is divided into while Valkey is away. 0: the live workers of the
    whole fleet, as PostgreSQL last said."""
    default_output_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 1_024
    """Output tokens reserved for a request that sets no bound itself."""
    in_metadata: bool = False
    """Whether requests carry the state of their limits as dynamic metadata, for Envoy's limits."""
