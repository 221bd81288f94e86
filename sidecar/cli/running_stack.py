"""What `egret up` wrote down of a stack that runs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

DEFAULT_RUN: Final = Path("run")


def facts_file(run: Path) -> Path:
    """Return where the facts of the stack in *run* are."""
    return run / "egret.json"


def read_facts(run: Path) -> dict[str, Any]:
    """Return the facts of the stack in *run*.

    Raises:
        OSError: there is none, or it is somebody else's.
    """
    facts: dict[str, Any] = orjson.loads(facts_file(run).read_bytes())
    return facts
