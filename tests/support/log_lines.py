"""Where configured logs go in a test, and how they are read back."""

from __future__ import annotations

import io
import json


class LogLines:
    """Where configured logs go in a test."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()

    def read(self) -> list[dict[str, object]]:
        """Return all lines without their timestamps, each checked to have one."""
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        assert all(line.pop("timestamp").endswith("Z") for line in lines)
        return lines

    def text(self) -> str:
        """Return everything as it was written."""
        return self.stream.getvalue().decode()
