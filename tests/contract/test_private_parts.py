"""Libraries of which private parts are used have an upper bound in each distribution's metadata.

The contract tests of those parts hold for the pinned versions alone: `pip install` takes the
newest version that the metadata allows.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[2]
OURS: Final = {"__future__", "_typeshed", "sidecar", "egret_tools"}
OF_TUPLES_AND_ENUMS: Final = {"_asdict", "_fields", "_make", "_replace", "_value_"}
PRIVATE: Final[Mapping[str, str]] = {
    "_re2": "google-re2",
    "_regexp": "google-re2",
    "_buckets": "prometheus-client",
    "_file": "prometheus-client",
    "_key": "prometheus-client",
    "_m": "prometheus-client",
    "_multiprocess": "prometheus-client",
    "_positions": "prometheus-client",
    "_sum": "prometheus-client",
    "_upper_bounds": "prometheus-client",
    "_value": "prometheus-client",
    "mmap_dict": "prometheus-client",
    "update_active_connections_for_reconnect": "redis",
    "_encode": "py3langid",
}
"""Names without a promise, some of them without an underscore, and whose they are."""


def foreign_names(source: str) -> Iterator[str]:
    """Yield the private names of others that a module uses."""
    tree = ast.parse(source)
    own = {
        one.attr
        for one in ast.walk(tree)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == "self"
    } | {
        one.name
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    own |= {
        one.target.id
        for one in ast.walk(tree)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    for one in ast.walk(tree):
        match one:
            case ast.ImportFrom(module=str(module), names=names):
                used = {*module.split("."), *(name.name for name in names)}
                if module.partition(".")[0] in {
                    "__future__",
                    "_typeshed",
                    "sidecar",
                    "egret_tools",
                }:
                    continue
            case ast.Import(names=names):
                used = {part for name in names for part in name.name.split(".")}
            case ast.Attribute(value=ast.Name(id="self" | "cls" | "os" | "sys")):
                used = {one.attr} & set(PRIVATE) - own
            case ast.Attribute(attr=attr):
                used = {attr}
            case _:
                continue
        for name in used:
            is_private = name.startswith("_") and not name.startswith("__")
            if name in PRIVATE or (is_private and name not in own | OF_TUPLES_AND_ENUMS):
                yield name


def requirements_of(project: Path) -> Mapping[str, Requirement]:
    """Return what a distribution asks for, its extras included."""
    metadata: dict[str, Any] = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    texts = [*metadata["dependencies"]]
    for extra in metadata.get("optional-dependencies", {}).values():
        texts += extra
    return {one.name: one for one in map(Requirement, texts)}


@pytest.mark.parametrize(
    ("package", "project"),
    [("sidecar", "pyproject.toml"), ("tools/egret_tools", "tools/pyproject.toml")],
)
def test_libraries_of_which_private_parts_are_used_have_an_upper_bound(
    package: str, project: str
) -> None:
    asked = requirements_of(ROOT / project)
    used = {
        name: path
        for path in (ROOT / package).rglob("*.py")
        if "_generated" not in path.parts
        for name in foreign_names(path.read_text(encoding="utf-8"))
    }
    unknown = {name: str(path) for name, path in used.items() if name not in PRIVATE}
    assert not unknown, "say in PRIVATE whose they are"
    for name in used:
        bounds = {one.operator for one in asked[PRIVATE[name]].specifier}
        assert bounds & {"<", "<=", "==", "~="}, f"{PRIVATE[name]} has no upper bound ({name})"
    if package == "sidecar":
        assert used.keys() == PRIVATE.keys(), "a name that is no longer used"


def test_the_standard_library_is_the_one_that_was_tested() -> None:
    """Parts of it are replaced too: see `sidecar.worker.runtime`."""
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert "<3.15" in python
    assert sys.version_info < (3, 15)
