"""Checks that each module of the package has a test file of its own.

The test file of `sidecar/a/b.py` is `tests/unit/a/test_b*.py` or `test_a_b*.py`, also further
up, or has one of these names below `tests/integration`, `property` or `contract`. Tests of
the whole stack do not count: they say little about one module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

EXCEPTIONS: Final = Path(__file__).with_name("without_tests.json")
OTHER_KINDS: Final = ("integration", "property", "contract")
_NOT_TESTED: Final = {"__init__", "__main__"}


def modules_without_tests(sources: Iterable[Path], root: Path) -> list[str]:
    """Return the modules of *sources* without a test file, as paths relative to *root*."""
    tests = root / "tests"
    unit = list((tests / "unit").rglob("test_*.py"))
    other = [file.stem for kind in OTHER_KINDS for file in (tests / kind).rglob("test_*.py")]
    missing: list[str] = []
    for path in sources:
        module = path.relative_to(root)
        places = {tests / "unit" / Path(*parent.parts[1:]) for parent in module.parents}
        names = [*other, *(file.stem for file in unit if file.parent in places)]
        if path.stem not in _NOT_TESTED and not _is_mirrored(module, names):
            missing.append(str(module))
    return sorted(missing)


def _is_mirrored(module: Path, names: Iterable[str]) -> bool:
    stem = module.stem.lstrip("_")
    wanted = (f"test_{stem}", f"test_{module.parent.name}_{stem}")
    return any(name == one or name.startswith(f"{one}_") for name in names for one in wanted)


def check_mirror(
    sources: Sequence[Path], root: Path, *, write: bool, exceptions: Path = EXCEPTIONS
) -> list[str]:
    """Return the faults: modules without tests that are no exceptions.

    With *write* the exceptions are replaced if they become fewer, or are as many under new names.
    """
    missing = modules_without_tests(sources, root)
    known: list[str] = (
        json.loads(exceptions.read_text(encoding="utf-8")) if exceptions.exists() else missing
    )
    if write and len(missing) <= len(known):
        exceptions.write_text(json.dumps(missing, indent=1) + "\n", encoding="utf-8")
        return []
    return [
        f"{name} has no test file; those without are {len(missing)}, of {len(known)} allowed"
        for name in missing
        if name not in known
    ]
