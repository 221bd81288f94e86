"""Variables that look like settings and are none: a mistyped one would be ignored in silence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.settings.process import ENV_PREFIX, Settings

_OF_COMMANDS: Final = frozenset({"EGRET_KEY", "EGRET_CONFORMANCE_KEY"})
"""Options of `egret bench` and `egret conformance`."""

_OF_KUBERNETES: Final = re.compile(
    r"EGRET_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What a pod is given for each service of its namespace whose name begins with `egret`."""

_LINK: Final = re.compile(r"(tcp|udp|sctp)://")
"""How the value of Kubernetes' `…_PORT` begins."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A variable that is no setting, and the setting that was probably meant."""

    variable: str
    meant: str | None


def setting_names() -> tuple[str, ...]:
    """Return the variables of all settings."""
    return tuple(
        f"{ENV_PREFIX}{section}__{name}".upper()
        for section, defaults in Settings.model_construct()
        for name in type(defaults).model_fields
    )


def strangers(environment: Mapping[str, str]) -> tuple[Stranger, ...]:
    """Return what of *environment* begins like a setting and is none, by name.

    Those of a known section are not among them: `read_settings` refuses them.
    """
    known = setting_names()
    return tuple(
        Stranger(variable, next(iter(difflib.get_close_matches(variable, known, n=1)), None))
        for variable in sorted(_unread(environment))
    )


def _unread(environment: Mapping[str, str]) -> Iterator[str]:
    sections = {name.upper() for name in Settings.model_fields}
    for variable, value in environment.items():
        name = variable.upper()
        if not name.startswith(ENV_PREFIX) or name in _OF_COMMANDS:
            continue
        if name.removeprefix(ENV_PREFIX).partition("__")[0] in sections:
            continue
        is_link = name.endswith("_PORT") and _LINK.match(value)
        if not is_link and not _OF_KUBERNETES.fullmatch(name):
            yield name
