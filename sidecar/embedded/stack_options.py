"""What a stack is started with, and what is known of it once it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from sidecar.embedded.upstream import Upstream
from sidecar.settings.serving import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """Ports of 0 are free ones. `upstream` None is the mock.

    `worker_settings` are further EGRET_ variables for the workers; they win over the stack's own.
    `collector_port` is where on the loopback an OTLP receiver of yours listens (gRPC): it gets the
    spans instead of `traces.jsonl`.
    """

    workers: int = 2
    http_port: int = 0
    https_port: int = 0
    upstream: Upstream | None = None
    timing: Timing = Timing.METADATA
    traces: bool = True
    collector_port: int | None = None
    envoy_threads: int = 2
    worker_settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StackFacts:
    """What a client, a test or a person needs to know of a running stack; `egret.json`."""

    url: str
    https_url: str
    ca_file: Path
    admin_url: str
    metrics_url: str
    mock_debug_url: str | None
    key: SecretStr
    pid: int
    workers_pid: int
    postgres_dsn: str
    valkey_url: str
    traces_file: Path | None
    access_log: Path
    logs: Path

    def as_json(self) -> dict[str, object]:
        """Return it with the key in the clear: the file is readable by its owner only."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}
        return {**plain, "key": self.key.get_secret_value()}
