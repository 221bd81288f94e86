from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave these tests out where no browser is named: Chromium is too large for every run."""
    return True if config.getoption("browser") is None else None


@pytest.fixture
def chromium(pytestconfig: pytest.Config) -> str:
    """The program, by `--browser`."""
    return str(pytestconfig.getoption("browser"))


@pytest.fixture
def pictures(pytestconfig: pytest.Config, tmp_path: Path) -> Path:
    """Where pictures go, by `--pictures`."""
    return Path(pytestconfig.getoption("pictures") or tmp_path)
