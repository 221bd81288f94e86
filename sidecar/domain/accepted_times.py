"""Which times are taken from outside."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""PostgreSQL keeps times that are beyond Python's dates, or are so in some time zone."""

ACCEPTED_TIMES: Final = "between 1970 and 9998"


def is_accepted(moment: datetime) -> bool:
    """Tell whether every part of Egret, and PostgreSQL, can hold *moment* in any time zone."""
    return _EARLIEST <= moment < _END
