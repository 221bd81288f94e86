"""Copies the console's libraries from an installed package-lock into the repository.

`python -m deploy.console_assets NODE_MODULES FOLDER` copies the files of `ASSETS` and their
licences to FOLDER and writes their SHA-256 to FOLDER/SHA256SUMS, in the format of sha256sum.
`npm ci` has compared each package with the hash in deploy/console/package-lock.json before.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Final

ASSETS: Final = {
    "htmx.min.js": "htmx.org/dist/htmx.min.js",
    "htmx.LICENSE": "htmx.org/LICENSE",
    "uplot.min.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.min.css": "uplot/dist/uPlot.min.css",
    "uplot.LICENSE": "uplot/LICENSE",
}
"""Names in the repository, and places below node_modules."""
MANIFEST: Final = "SHA256SUMS"


def copy_assets(node_modules: Path, folder: Path) -> None:
    """Copy each file and write the manifest; other files of *folder* are removed."""
    for old in folder.iterdir():
        old.unlink()
    lines: list[str] = []
    for name, place in sorted(ASSETS.items()):
        content = (node_modules / place).read_bytes()
        (folder / name).write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (folder / MANIFEST).write_text("".join(lines), encoding="ascii")


if __name__ == "__main__":
    copy_assets(Path(sys.argv[1]), Path(sys.argv[2]))
