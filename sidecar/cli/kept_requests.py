"""Requests that were kept, read from JSON lines.

A line is an object with `path` and `body`, and perhaps `method` and `id`; the body is JSON, or a
string of it. An object without `body` is taken for a body itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

import orjson

from sidecar.pipeline.replay import KeptRequest

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""As much as a worker takes in one message."""


@dataclass(frozen=True, slots=True)
class KeptLine:
    """A request with its line, from 1, and its `id`, where the line has one."""

    number: int
    id: str | None
    request: KeptRequest


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request, and why."""

    number: int
    problem: str


def kept_lines(stream: BinaryIO, *, path: str) -> Iterator[KeptLine | BadLine]:
    """Yield what each line holds, but for empty ones; *path* is for bodies that stand alone."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            yield BadLine(number, f"longer than {MAX_LINE_BYTES} bytes; nothing after it was read")
            return
        if line.strip():
            yield _read(line, number, path)


def _read(line: bytes, number: int, path: str) -> KeptLine | BadLine:
    try:
        value: object = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadLine(number, f"not JSON at character {error.colno}")
    if not isinstance(value, dict):
        return BadLine(number, "not an object")
    fields = cast("dict[str, object]", value)
    if "body" not in fields:
        return KeptLine(number, None, KeptRequest("POST", path, line.strip()))
    path_, method = fields.get("path", path), fields.get("method", "POST")
    if not isinstance(path_, str) or not isinstance(method, str):
        return BadLine(number, "`path` and `method` are strings")
    body, name = fields["body"], fields.get("id")
    content = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return KeptLine(
        number, None if name is None else str(name), KeptRequest(method, path_, content)
    )
