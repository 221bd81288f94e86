"""Settings of serving: sockets, ports, processes, and the bounds of one request."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from sidecar.settings.sections import Seconds, Section

MAX_SOCKET_PATH_BYTES: Final = 107
"""`sockaddr_un.sun_path` holds 108 bytes with the closing NUL (Linux unix(7))."""

MAX_PORT: Final = 65535
MAX_SOCKET_MODE: Final = 0o777


class ServerSettings(Section):
    """Sockets, processes and drain."""

    engine: Literal["auto", "grpcio", "h2corn", "http2"] | None = None
    """Without effect: a worker has one gRPC server. Configurations of older versions name it."""
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    socket_directory: Path = Path("/run/egret/sockets")
    """One socket a worker: `worker-0.sock`, …; a path is at most 107 bytes (sockaddr_un)."""
    socket_mode: Annotated[int, Field(ge=0, le=MAX_SOCKET_MODE)] = 0o660
    max_message_bytes: Annotated[int, Field(ge=65536)] = 64 * 1024 * 1024
    """Envoy sends a BUFFERED body in one message."""
    drain_delay_seconds: Annotated[float, Field(ge=0, le=600)] = 2.5
    """NOT_SERVING is shown this long before the socket closes: over two health intervals."""
    drain_grace_seconds: Seconds = 20.0

    @field_validator("socket_mode", mode="before")
    @classmethod
    def _read_octal(cls, mode: object) -> object:
        """Read a mode with a leading 0 as octal; as decimal 0400 would let the group write."""
        if not isinstance(mode, str) or re.fullmatch("0?[0-7]{3}|0o[0-7]{1,3}", mode) is None:
            return mode
        if mode.startswith("0"):
            return int(mode, 8)
        if int(mode) > MAX_SOCKET_MODE:
            raise ValueError(f"{mode} is read as decimal; write 0{mode} for octal")
        return mode

    def worker_socket(self, index: int) -> Path:
        """Return the socket of a worker."""
        return self.socket_directory.absolute() / f"worker-{index}.sock"


class NetworkTls(enum.Enum):
    """Security of calls over the network.

    MUTUAL: TLS 1.2 or later, and a certificate of the client's, which Egret checks.
    OFF: a mesh around both sides; Egret reads plain HTTP/2.
    """

    MUTUAL = "mutual"
    OFF = "off"


class ListenSettings(Section):
    """Ports for an Envoy on another machine, beside the sockets; without a host there are none."""

    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 50051
    """Of worker 0; worker N has the Nth after it."""
    tls: NetworkTls = NetworkTls.MUTUAL
    certificate_file: Path | None = None
    """With the chain, PEM. Read again when it changes, as the two below."""
    key_file: Path | None = None
    client_ca_file: Path | None = None
    """Clients with a certificate of this authority may call Egret and report usage to it."""

    @property
    def tls_files(self) -> tuple[Path, Path, Path] | None:
        """Certificate, key and the clients' authority, if all are given."""
        if self.certificate_file and self.key_file and self.client_ca_file:
            return self.certificate_file, self.key_file, self.client_ca_file
        return None


class Timing(enum.Enum):
    """The writer of an answer's timing headers.

    METADATA: Envoy, from dynamic metadata; the exchange is over before the model starts.
    MUTATION: Egret, in the response-headers phase; for gateways that cannot do the former.
    """

    METADATA = "metadata"
    MUTATION = "mutation"


class RouteByModel(enum.Enum):
    """Whether `x-egret-model` carries a request's model, so that Envoy can route by it.

    ON: every body that names a model is read, and every request's route is chosen twice.
    """

    OFF = "off"
    ON = "on"


class ExchangeSettings(Section):
    """Limits of one exchange.

    `authorize_seconds` and `inspect_seconds` together must stay below Envoy's `message_timeout`.
    """

    max_body_bytes: Annotated[int, Field(ge=1)] = 10 * 1024 * 1024
    authorize_seconds: Seconds = 2.0
    inspect_seconds: Seconds = 5.0
    body_seconds: Seconds = 30.0
    """Time for a client to send its whole body; no Envoy timer covers this (1.40)."""
    body_idle_seconds: Seconds = 10.0
    """Longest pause within a body."""
    max_exchanges: Annotated[int, Field(ge=1, le=65536)] = 1024
    """Requests under judgement at once in a worker; beyond, 503. A worker that does nothing but
    judge is through with so many in half a second, well within the budget of a key look-up.
    Organizations share it: one alone leaves an eighth."""
    max_held_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Bodies that a worker keeps until they are judged, in all; beyond, 503. In memory they are
    three times as large while they are judged: 256 MB beside the worker's own memory. Answers that
    a gateway buffers may take as much again. Organizations share it: one alone leaves the longest
    body free, or an eighth."""
    message_table_mb: Annotated[int, Field(ge=0, le=4096)] = 64
    """Memory of a worker for the findings in messages that it has judged; none of their text is
    kept. 0 searches every message of a conversation with each turn."""
    shared_messages_seconds: Annotated[float, Field(ge=0, le=86400)] = 0.0
    """How long workers share the findings in a long conversation through Valkey, so that its next
    turn costs as little in any of them. 0 shares nothing."""
    timing: Timing = Timing.METADATA
    route_by_model: RouteByModel = RouteByModel.OFF
    contact: Annotated[str, Field(max_length=200, pattern=r"^[^\p{Cc}]*$")] = ""
    """A sentence in each refusal, such as `Ask in #ai-platform.`; callers without a key get it."""
