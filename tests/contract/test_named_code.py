"""Pages and the package's docstring name files, modules and classes that exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import sidecar
from quality.links import ROOT, pages

PACKAGE = ROOT / "sidecar"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
CODE = ("sidecar", "tools", "loadtest", "tests", "quality", "evaluation", "training", "deploy")
PATH = re.compile(r"`((?:\w+/)+(?!__init__)\w+\.(?:py|lua|tsv))`")
FILE = re.compile(r"(?<![\w/])(?:\w+/)*\w+\.py\b")
DOTTED = re.compile(r"(?<![\w./])([a-z_]+)\.([a-z_]+)(?:\.(\w+))?(?![\w/.])")
CLASS = re.compile(r"`((?:[A-Z][a-z]+){2,})`")


@cache
def files() -> str:
    """Return the paths of all files of code, each between two line ends."""
    found = (path for folder in CODE for path in (ROOT / folder).rglob("*.*"))
    return "\n".join(["", *(f"/{path.relative_to(ROOT)}" for path in found), ""])


def exists(name: str) -> bool:
    return f"/{name}\n" in files()


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_each_file_of_code_that_a_page_names_exists(page: Path) -> None:
    """By its path from the root, or from a folder of the package."""
    named = PATH.findall(page.read_text(encoding="utf-8"))
    assert [one for one in named if not exists(one)] == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(sidecar.__doc__ or "", id="the package's docstring"),
        pytest.param(ARCHITECTURE.read_text(encoding="utf-8"), id="architecture.md"),
    ],
)
def test_the_maps_of_the_package_name_files_that_exist(text: str) -> None:
    """In drawings as well, where names are not quoted."""
    named = FILE.findall(text)
    assert named
    assert [one for one in named if not exists(one)] == []


def test_architecture_names_modules_that_exist() -> None:
    """As `package.module`, some with a name that the module defines."""
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    faults = []
    named = [
        found
        for found in DOTTED.findall(ARCHITECTURE.read_text(encoding="utf-8"))
        if found[0] in packages and found[1] not in {"md", "py"}  # links to pages, and files
    ]
    assert named
    for package, module, defined in named:
        path = PACKAGE / package / f"{module}.py"
        if not path.exists() or not defines(path, defined):
            faults.append(f"{package}.{module}.{defined}")
    assert faults == []


def defines(path: Path, name: str) -> bool:
    """Return whether the module at *path* defines *name*; an empty one needs no definition."""
    pattern = rf"^(?:class|(?:async )?def) {name}\b"
    return (
        not name or re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    )


def test_architecture_and_glossary_name_classes_that_exist() -> None:
    """Classes of the package, quoted."""
    modules = list(PACKAGE.rglob("*.py"))
    missing = [
        name
        for page in (ARCHITECTURE, ROOT / "docs" / "glossary.md")
        for name in CLASS.findall(page.read_text(encoding="utf-8"))
        if not any(defines(path, name) for path in modules)
    ]
    assert missing == []
