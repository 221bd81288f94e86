"""All settings of a process, read once from the environment and checked together.

Variables are `EGRET_` plus the path in capitals, levels joined by two underscores, for example
`EGRET_POSTGRES__DSN` or `EGRET_SERVER__WORKERS`. Only this module reads the environment.
"""

from __future__ import annotations

import enum
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "EGRET_"

MAX_SOCKET_PATH_BYTES: Final = 107
"""`sockaddr_un.sun_path` holds 108 bytes with the closing NUL (Linux unix(7))."""

MAX_PORT: Final = 65535


class Engine(enum.Enum):
    """The gRPC server below the codec."""

    AUTO = "auto"
    GRPCIO = "grpcio"
    H2CORN = "h2corn"

    @property
    def chosen(self) -> Engine:
        """Which one serves."""
        return Engine.GRPCIO if self is Engine.AUTO else self


class OtlpProtocol(enum.Enum):
    """How telemetry travels to a collector, in the words of OTEL_EXPORTER_OTLP_PROTOCOL."""

    GRPC = "grpc"
    HTTP = "http/protobuf"


class Timing(enum.Enum):
    """Who writes the timing headers of an answer.

    METADATA: Envoy, from dynamic metadata; the exchange is over before the model starts.
    MUTATION: Egret, in the response-headers phase; for gateways that cannot do the former.
    """

    METADATA = "metadata"
    MUTATION = "mutation"


class StatusPage(enum.Enum):
    """Where the page of charts is shown: on loopback alone, wherever metrics are, or nowhere."""

    LOOPBACK = "loopback"
    ON = "on"
    OFF = "off"


class RouteByModel(enum.Enum):
    """Whether Envoy is told a request's model in `x-egret-model`, to choose the route by it.

    ON: every body that names a model is read, and every request's route is chosen twice.
    """

    OFF = "off"
    ON = "on"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Seconds = Annotated[float, Field(gt=0, le=3600)]


class ServerSettings(_Section):
    """Sockets, processes and drain."""

    engine: Engine = Engine.AUTO
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    socket_directory: Path = Path("run/sockets")
    """One socket a worker: `worker-0.sock`, …; a path is at most 108 bytes (sockaddr_un)."""
    socket_mode: Annotated[int, Field(ge=0, le=0o777)] = 0o660
    max_message_bytes: Annotated[int, Field(ge=65536)] = 64 * 1024 * 1024
    """Envoy sends a BUFFERED body in one message; grpcio's own default is 4 MiB."""
    drain_delay_seconds: Annotated[float, Field(ge=0, le=600)] = 2.5
    """NOT_SERVING is shown this long before the socket closes: over two health intervals."""
    drain_grace_seconds: Seconds = 20.0


class NetworkTls(enum.Enum):
    """What secures calls that come over the network.

    MUTUAL: TLS 1.2 or later, and a certificate of the client's, which Egret checks.
    OFF: a mesh around both sides; Egret reads plain HTTP/2.
    """

    MUTUAL = "mutual"
    OFF = "off"


class ListenSettings(_Section):
    """Ports for an Envoy on another machine, beside the sockets; without a host there are none."""

    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 50051
    """Of worker 0; worker N has the Nth after it."""
    tls: NetworkTls = NetworkTls.MUTUAL
    certificate_file: Path | None = None
    """With the chain, PEM. Read again when it changes, as the two below."""
    key_file: Path | None = None
    client_ca_file: Path | None = None
    """Whoever has a certificate of this authority may ask Egret and report usage to it."""

    @property
    def tls_files(self) -> tuple[Path, Path, Path] | None:
        """Certificate, key and the clients' authority, where all are given."""
        if self.certificate_file and self.key_file and self.client_ca_file:
            return self.certificate_file, self.key_file, self.client_ca_file
        return None


class ExchangeSettings(_Section):
    """Limits of one exchange. The sum of the budgets must stay below Envoy's message_timeout."""

    max_body_bytes: Annotated[int, Field(ge=1)] = 10 * 1024 * 1024
    authorize_seconds: Seconds = 2.0
    inspect_seconds: Seconds = 5.0
    body_seconds: Seconds = 30.0
    """How long a client may take to send its body; no Envoy timer covers this (1.40)."""
    body_idle_seconds: Seconds = 10.0
    """How long it may pause within it."""
    max_exchanges: Annotated[int, Field(ge=1, le=65536)] = 1024
    """Requests under judgement at once in a worker; beyond, 503. A worker that does nothing but
    judge is through with so many in half a second, well within the budget of a key look-up."""
    max_held_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Bodies that a worker keeps until they are judged, in all; beyond, 503. In memory they are
    three times as large while they are judged: 256 MB beside what a worker takes itself."""
    timing: Timing = Timing.METADATA
    route_by_model: RouteByModel = RouteByModel.OFF


class PostgresSettings(_Section):
    """Where keys and policies live."""

    dsn: SecretStr = SecretStr("postgresql:///egret")
    dsn_file: Path | None = None
    """Holds the DSN where `dsn` is not given; read anew for each connection, so a password may
    change."""
    pool_size: Annotated[int, Field(ge=1, le=100)] = 4
    acquire_seconds: Seconds = 1.0
    query_seconds: Seconds = 1.5

    @property
    def read_from(self) -> Path | None:
        """The file to read the DSN from, if it is not given itself."""
        return None if "dsn" in self.model_fields_set else self.dsn_file


class ValkeyMode(enum.Enum):
    """How a Valkey or Redis is reached."""

    STANDALONE = "standalone"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"
    """The URL's host is a Sentinel's; the rest of the URL is that of the master it names."""


class ValkeySettings(_Section):
    """A Valkey or Redis server that workers share; without a URL they do without."""

    url: SecretStr | None = None
    """`redis://`, `rediss://` (TLS) or `unix://`, with user, password and database as needed."""
    password_file: Path | None = None
    """Holds the password where the URL has none; read anew for each connection, so it may change.
    """
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
        """Whether there is a URL, and no password in it."""
        return self.url is not None and not urlsplit(self.url.get_secret_value()).password

    @field_validator("url")
    @classmethod
    def _has_known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        schemes = ("redis://", "rediss://", "unix://")
        if url is not None and not url.get_secret_value().startswith(schemes):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url


class Invalidation(enum.Enum):
    """What tells workers of a change to keys.

    LISTEN: PostgreSQL's own notifications, whoever makes the change.
    PUBSUB: messages that the command line publishes in Valkey; for poolers that cannot LISTEN.
    BOTH: whichever comes first.
    """

    LISTEN = "listen"
    PUBSUB = "pubsub"
    BOTH = "both"

    @property
    def listens(self) -> bool:
        """Whether workers LISTEN in PostgreSQL."""
        return self is not Invalidation.PUBSUB

    @property
    def subscribes(self) -> bool:
        """Whether workers subscribe in Valkey, and the command line publishes there."""
        return self is not Invalidation.LISTEN


class CacheSettings(_Section):
    """The caches of keys: in the process (L1), and shared in Valkey (L2)."""

    max_keys: Annotated[int, Field(ge=1)] = 10_000
    ttl_seconds: Seconds = 30.0
    negative_ttl_seconds: Seconds = 5.0
    max_loads: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Look-ups of keys that are not kept, under way at once in a worker; beyond, 503."""
    l2_secret: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Authenticates what is in Valkey, the same for all workers. Without it L2 is not used."""
    l2_ttl_seconds: Seconds = 300.0
    max_stale_seconds: Annotated[float, Field(ge=0, le=86400)] = 600.0
    """How long a key goes on, since it was read, while PostgreSQL does not answer."""
    invalidation: Invalidation = Invalidation.LISTEN


class RedactionSettings(_Section):
    """How values that are taken out of requests can be recognised again."""

    hash_key: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Makes the hashes of `redaction: hash`, the same for all workers; without it, numbers."""


class UsageSource(enum.Enum):
    """Where a worker learns what requests used.

    ACCESS_LOG: Envoy sends its access log to the workers, as our Envoy configuration says.
    OFF: nobody tells, and nothing is recorded.
    """

    ACCESS_LOG = "access_log"
    OFF = "off"


class UsageSettings(_Section):
    """What requests used: from Envoy's access log by way of the disk to PostgreSQL."""

    source: UsageSource = UsageSource.ACCESS_LOG
    spool_directory: Path = Path("run/usage")
    """On a disk that outlives the process; one folder a worker in it."""
    spool_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 1024**3
    """Of one worker. A record takes some 300 bytes."""
    batch_seconds: Seconds = 10.0
    """Budget of one batch on its way to the database."""
    settle_seconds: Annotated[float, Field(ge=1, le=86400)] = 3900.0
    """A request whose end nobody told is taken for lost after this: longer than Envoy lets an
    answer take (`max_stream_duration`)."""


class LimitSettings(_Section):
    """Limits and budgets of keys, teams and organizations."""

    shares: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Into how many parts a limit is divided while Valkey is away: the workers of the whole fleet.
    0: those of this process."""
    default_output_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 1_024
    """What is taken for the answer to a request that sets no bound itself."""


class TelemetrySettings(_Section):
    """Where spans and metrics go and what is logged."""

    otlp_endpoint: str | None = None
    """For example `http://127.0.0.1:4317`, over HTTP without a path; None exports no spans."""
    otlp_protocol: OtlpProtocol = OtlpProtocol.GRPC
    kept_traces_per_second: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Exchanges of one worker that were blocked, failed, slow or not judged, and are traced
    although Envoy did not sample them; 0 keeps none."""
    metrics_push_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """How often all metrics are pushed to the same collector; 0 pushes none."""
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    status_page: StatusPage = StatusPage.LOOPBACK
    """`/status` beside `/metrics`. It shows no more than those, but to whoever has a browser."""
    host_names: Annotated[str, Field(pattern="^[a-z0-9.,-]*$")] = ""
    """Names, parted by commas, that browsers may ask by beside localhost and addresses."""
    slow_request_ms: Annotated[float, Field(gt=0)] = 250.0
    completed_log_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of the lines about exchanges that were let through as they came, and in no way slow."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"

    @property
    def is_local(self) -> bool:
        """Whether metrics are served to this machine alone."""
        if self.metrics_host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.metrics_host).is_loopback
        except ValueError:
            return False

    @property
    def has_status_page(self) -> bool:
        """Whether `/status` is there."""
        return self.status_page is StatusPage.ON or (
            self.status_page is StatusPage.LOOPBACK and self.is_local
        )


class Settings(BaseSettings):
    """Everything a process needs to know; frozen."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    server: ServerSettings = ServerSettings()
    listen: ListenSettings = ListenSettings()
    exchange: ExchangeSettings = ExchangeSettings()
    postgres: PostgresSettings = PostgresSettings()
    valkey: ValkeySettings = ValkeySettings()
    cache: CacheSettings = CacheSettings()
    redaction: RedactionSettings = RedactionSettings()
    usage: UsageSettings = UsageSettings()
    limits: LimitSettings = LimitSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _largest_body_has_room(self) -> Self:
        if self.exchange.max_held_bytes < self.exchange.max_body_bytes:
            raise ValueError(
                "EGRET_EXCHANGE__MAX_HELD_BYTES is less than EGRET_EXCHANGE__MAX_BODY_BYTES"
            )
        return self

    @model_validator(mode="after")
    def _valkey_is_there_for_what_needs_it(self) -> Self:
        if self.valkey.url is None and self.cache.invalidation.subscribes:
            raise ValueError("EGRET_CACHE__INVALIDATION other than listen needs EGRET_VALKEY__URL")
        if self.valkey.password_file is not None and not self.valkey.lacks_password:
            raise ValueError(
                "EGRET_VALKEY__PASSWORD_FILE needs EGRET_VALKEY__URL, and no password in it"
            )
        is_sentinel = self.valkey.mode is ValkeyMode.SENTINEL
        if is_sentinel and self.valkey.sentinel_master is None:
            raise ValueError("EGRET_VALKEY__MODE sentinel needs EGRET_VALKEY__SENTINEL_MASTER")
        return self

    @model_validator(mode="after")
    def _metrics_are_pushed_somewhere(self) -> Self:
        if self.telemetry.metrics_push_seconds and self.telemetry.otlp_endpoint is None:
            raise ValueError(
                "EGRET_TELEMETRY__METRICS_PUSH_SECONDS needs EGRET_TELEMETRY__OTLP_ENDPOINT"
            )
        return self

    @model_validator(mode="after")
    def _ports_can_be_served(self) -> Self:
        if self.listen.host is None:
            return self
        if self.listen.tls is NetworkTls.MUTUAL and self.listen.tls_files is None:
            raise ValueError(
                "EGRET_LISTEN__HOST needs EGRET_LISTEN__CERTIFICATE_FILE, EGRET_LISTEN__KEY_FILE"
                " and EGRET_LISTEN__CLIENT_CA_FILE; or EGRET_LISTEN__TLS=off, where a mesh"
                " encrypts and lets nobody else in"
            )
        if self.server.engine is Engine.H2CORN:
            raise ValueError("EGRET_LISTEN__HOST needs EGRET_SERVER__ENGINE grpcio")
        if self.listen.port + self.server.workers - 1 > MAX_PORT:
            raise ValueError("EGRET_LISTEN__PORT leaves no port for each worker")
        return self


class SettingsError(Exception):
    """One line a fault: the variable, what is wrong with it. Values are not repeated."""


def read_settings() -> Settings:
    """Read and check all settings.

    Raises:
        SettingsError: naming every variable that is wrong, not just the first.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_faults(error))) from None


def _faults(error: ValidationError) -> list[str]:
    return [
        # What concerns several variables has no place of its own and names them.
        f"{ENV_PREFIX}{'__'.join(str(step).upper() for step in fault['loc'])}: {fault['msg']}"
        if fault["loc"]
        else fault["msg"].removeprefix("Value error, ")
        for fault in error.errors(include_input=False, include_url=False)
    ]


def metrics_directory() -> Path | None:
    """Return where the supervisor of this worker wants metrics; None in a process without one."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # noqa: TID251 - this is settings.py
    return Path(directory) if directory else None


def inherited_environment() -> dict[str, str]:
    """Return a copy of the environment, for processes that are started from here."""
    return dict(os.environ)  # noqa: TID251 - this is settings.py
