"""Bounds on times, and globs over names, that several documents and commands accept."""

from __future__ import annotations

import fnmatch
import functools
import re
from datetime import UTC, datetime
from typing import Final

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""PostgreSQL keeps times that are beyond Python's dates, or are so in some time zone."""

ACCEPTED_TIMES: Final = "between 1970 and 9998"


def is_accepted(moment: datetime) -> bool:
    """Return whether every part of Egret, and PostgreSQL, can hold *moment* in any time zone."""
    return _EARLIEST <= moment < _END


@functools.lru_cache(maxsize=4096)
def compile_glob(glob: str) -> re.Pattern[str]:
    """Return a pattern for whole names; every character but `*` and `?` stands for itself.

    fnmatch builds atomic groups: a long name cannot make a glob of many stars backtrack. A
    bracket would open a character class; within one it stands for itself.
    """
    return re.compile(fnmatch.translate(glob.replace("[", "[[]")))
