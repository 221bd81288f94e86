from __future__ import annotations

import json
from pathlib import Path

import pytest

from quality.mirror import check_mirror, modules_without_tests


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with four modules, two of them tested."""
    for name in (
        "sidecar/keys/cache.py",
        "sidecar/keys/ports.py",
        "sidecar/limits/ports.py",
        "sidecar/limits/leases.py",
        "tests/unit/keys/test_cache_expiry.py",
        "tests/property/test_limits_ports.py",
        "tests/e2e/test_leases.py",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def _sources(root: Path) -> list[Path]:
    return sorted((root / "sidecar").rglob("*.py"))


def test_a_module_is_mirrored_by_its_name_or_that_of_its_package_before_it(root: Path) -> None:
    """Tests of the whole stack do not count."""
    missing = modules_without_tests(_sources(root), root)
    assert missing == ["sidecar/keys/ports.py", "sidecar/limits/leases.py"]


def test_a_module_without_tests_is_a_fault_unless_it_is_an_exception(root: Path) -> None:
    """The exceptions are a file of paths."""
    exceptions = root / "without_tests.json"
    exceptions.write_text('["sidecar/keys/ports.py"]')
    faults = check_mirror(_sources(root), root, write=False, exceptions=exceptions)
    assert faults == [
        "sidecar/limits/leases.py has no test file; those without are 2, of 1 allowed"
    ]


def test_exceptions_may_change_names_and_become_fewer_but_not_more(root: Path) -> None:
    """A move of modules needs no edit by hand."""
    exceptions = root / "without_tests.json"
    exceptions.write_text('["sidecar/old/ports.py", "sidecar/old/leases.py"]')
    assert check_mirror(_sources(root), root, write=True, exceptions=exceptions) == []
    assert len(json.loads(exceptions.read_text())) == 2
    (root / "sidecar/limits/new.py").touch()
    assert check_mirror(_sources(root), root, write=True, exceptions=exceptions)
    assert len(json.loads(exceptions.read_text())) == 2
