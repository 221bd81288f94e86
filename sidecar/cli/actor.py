"""Who runs a command, for the audit log: what `egret --as` was given."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

ACTOR: Final[ContextVar[str | None]] = ContextVar("ACTOR", default=None)
"""None is the user of the operating system."""
