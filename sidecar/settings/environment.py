"""The environment itself. Nothing else reads it, but for the settings of the process."""

from __future__ import annotations

import os
from pathlib import Path


def metrics_directory() -> Path | None:
    """Return where the supervisor of this worker wants metrics; None in a process without one."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # noqa: TID251 - the one place that does
    return Path(directory) if directory else None


def inherited_environment() -> dict[str, str]:
    """Return a copy of the environment, for processes that are started from here."""
    return dict(os.environ)  # noqa: TID251 - the one place that does
