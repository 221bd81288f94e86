"""Why the stack cannot start or go on, in words that say what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

LOG_LINES: Final = 8


class PartError(Exception):
    """A part of the stack failed: which, why, and the mend."""

    def __init__(self, part: str, reason: str, *, mend: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason
        self.mend = mend


def part_error_from(part: str, error: OSError, *, path: Path) -> PartError:
    """Word what the operating system refused."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            mend = "free some space, or choose another place with --run-directory"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            mend = "choose a place you may write to with --run-directory"
        case errno.EADDRINUSE:
            mend = "stop what listens there, or leave the port out to get a free one"
        case _:
            mend = f"look at {path}"
    return PartError(part, f"{error.strerror or error} ({error.filename or path})", mend=mend)


def log_tail(log: Path) -> str:
    """Return the last lines of a part's log, for an error that must explain itself."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LOG_LINES:])
