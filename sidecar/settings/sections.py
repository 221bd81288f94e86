"""Base class of the settings' sections, and access to the process environment."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field


def metrics_directory() -> Path | None:
    """Return where the supervisor of this worker wants metrics; None in a process without one."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # noqa: TID251 - the one place that does
    return Path(directory) if directory else None


def inherited_environment() -> dict[str, str]:
    """Return a copy of the environment, for processes that are started from here."""
    return dict(os.environ)  # noqa: TID251 - the one place that does


def is_loopback(host: str) -> bool:
    """Return whether *host* is a name or an address of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def http_url(text: str) -> SplitResult | None:
    """Return the parts of an http or https address with a host and no user; None for others."""
    try:
        url = urlsplit(text)
        is_address = url.scheme in {"http", "https"} and url.hostname and url.username is None
    except ValueError:  # brackets without an address of IPv6 in them
        return None
    return url if is_address else None


class Section(BaseModel):
    """A group of settings: frozen, and a name that is not known is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Seconds = Annotated[float, Field(gt=0, le=3600)]
