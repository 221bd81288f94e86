"""Writes the document from which `make client` generates the client of the administration API.

`python -m deploy.admin_client` writes `clients/python/openapi.json`, an operation or schema a
line, so that a difference shows which; with `--check` it exits with 1 if that is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from sidecar.admin_api.application import create_app
from sidecar.settings.process import Settings

DOCUMENT: Final = Path(__file__).parent.parent / "clients" / "python" / "openapi.json"
_LEVELS: Final = 3
"""Deeper members share a line: `paths`, a path, its operation."""


def document_text() -> str:
    """Return the OpenAPI document of this checkout's `egret admin`."""
    return _lines(create_app(Settings()).openapi(), depth=_LEVELS) + "\n"


def _lines(value: Any, *, depth: int, indent: str = "") -> str:
    if depth == 0 or not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    members = (
        f"{inner}{json.dumps(name)}: {_lines(one, depth=depth - 1, indent=inner)}"
        for name, one in value.items()
    )
    return "{\n" + ",\n".join(members) + f"\n{indent}}}"


def main(arguments: list[str]) -> int:
    """Write the document, or check it; return the exit code."""
    text = document_text()
    if "--check" not in arguments:
        DOCUMENT.write_text(text, encoding="utf-8")
        return 0
    if DOCUMENT.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write("clients/python/openapi.json is stale: run `make client`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
