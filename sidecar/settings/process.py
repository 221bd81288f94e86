"""All settings of a process, and detection of `EGRET_*` variables that match no setting."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import pydantic_settings
from pydantic import ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from sidecar.domain.validation import plain_fault
from sidecar.settings.administration import AdminSettings
from sidecar.settings.serving import (
    MAX_PORT,
    ExchangeSettings,
    ListenSettings,
    NetworkTls,
    ServerSettings,
)
from sidecar.settings.stores import (
    CacheSettings,
    LimitSettings,
    PostgresSettings,
    RedactionSettings,
    UsageSettings,
    ValkeyMode,
    ValkeySettings,
)
from sidecar.settings.telemetry import AlertSettings, TelemetrySettings

ENV_PREFIX = "EGRET_"


class Settings(BaseSettings):
    """All settings of a process; frozen."""

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
    admin: AdminSettings = AdminSettings()
    alerts: AlertSettings = AlertSettings()

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
                " and EGRET_LISTEN__CLIENT_CA_FILE; or EGRET_LISTEN__TLS=off, if a mesh"
                " encrypts and authenticates"
            )
        if self.listen.port + self.server.workers - 1 > MAX_PORT:
            raise ValueError("EGRET_LISTEN__PORT leaves no port for each worker")
        return self

    def check_for_workers(self) -> None:
        """Check settings of workers alone, whose secrets other commands may lack.

        Raises:
            SettingsError: workers could not share messages as the settings say.
        """
        if self.exchange.shared_messages_seconds and (
            self.valkey.url is None
            or self.cache.l2_secret is None
            or not self.exchange.message_table_mb
        ):
            raise SettingsError(
                "EGRET_EXCHANGE__SHARED_MESSAGES_SECONDS needs EGRET_VALKEY__URL,"
                " EGRET_CACHE__L2_SECRET and EGRET_EXCHANGE__MESSAGE_TABLE_MB"
            )


class SettingsError(Exception):
    """One line a fault: the variable and the fault. Values are not repeated."""


def read_settings() -> Settings:
    """Read and check all settings.

    Raises:
        SettingsError: naming every variable that is wrong, not just the first.
    """
    try:
        return Settings()
    except pydantic_settings.SettingsError as error:  # its text names the section alone
        section = str(error).partition('"')[2].partition('"')[0].upper()
        raise SettingsError(
            f'{ENV_PREFIX}{section}, or a list in it, is not JSON; write a list as ["a", "b"]'
        ) from None
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)
        raise SettingsError("\n".join(map(_words, details))) from None


def _words(detail: ErrorDetails) -> str:
    """Return a fault with its variable. A fault of several variables names them itself."""
    if not detail["loc"]:
        return plain_fault(detail)
    variable = f"{ENV_PREFIX}{'__'.join(str(step).upper() for step in detail['loc'])}"
    if detail["type"] != "extra_forbidden":
        return f"{variable}: {plain_fault(detail)}"
    section = variable.rpartition("__")[0]
    known = [one for one in setting_names() if one.startswith(f"{section}__")]
    names = {one.removeprefix(section): one for one in known}
    near = _nearest(variable.removeprefix(section), names)
    hint = f"did you mean {names[near]}?" if near else "see docs/deploy.md"
    return f"{variable}: no such setting ({hint})"


def _nearest(given: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(given, known, n=1)), None)


_OTHER_VARIABLES: Final = frozenset(
    {
        "EGRET_KEY",
        "EGRET_CONFORMANCE_KEY",
        "EGRET_SERVER_TOKEN",
        "EGRET_URL",
        "EGRET_HTTPS_URL",
    }
)
"""Options of `egret bench`, `egret conformance` and `egret --server`, and clients' variables."""

_KUBERNETES_SERVICE: Final = re.compile(
    r"EGRET_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""Variables that Kubernetes adds to a pod for each service whose name begins with `egret`."""

_KUBERNETES_PORT: Final = re.compile(r"(tcp|udp|sctp)://")
"""The value of such a `…_PORT` begins with it."""


@dataclass(frozen=True, slots=True)
class UnknownVariable:
    """A variable that is no setting, and the setting that was probably meant."""

    variable: str
    meant: str | None


FORMER_SETTINGS: Final = frozenset({"EGRET_SERVER__ENGINE"})
"""Settings of older versions that are accepted without effect."""


def former_variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables of *environment* that are accepted without effect, sorted."""
    return tuple(sorted(FORMER_SETTINGS & {variable.upper() for variable in environment}))


def setting_names() -> tuple[str, ...]:
    """Return the variables of all settings that have an effect."""
    return tuple(
        variable
        for section, defaults in Settings.model_construct()
        for name in type(defaults).model_fields
        if (variable := f"{ENV_PREFIX}{section}__{name}".upper()) not in FORMER_SETTINGS
    )


def unknown_variables(environment: Mapping[str, str]) -> tuple[UnknownVariable, ...]:
    """Return the variables of *environment* that begin like a setting and match none, sorted.

    Those of a known section are not among them: `read_settings` refuses them.
    """
    known = setting_names()
    sections = {name.upper() for name in Settings.model_fields}
    unknown: list[str] = []
    for variable, value in environment.items():
        name = variable.upper()
        if not name.startswith(ENV_PREFIX) or name in _OTHER_VARIABLES:
            continue
        if name.removeprefix(ENV_PREFIX).partition("__")[0] in sections:
            continue
        is_port = name.endswith("_PORT") and _KUBERNETES_PORT.match(value)
        if not is_port and not _KUBERNETES_SERVICE.fullmatch(name):
            unknown.append(name)
    return tuple(
        UnknownVariable(variable, _nearest(variable, known)) for variable in sorted(unknown)
    )
