from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.support.compiled_once import sitecustomize
from tests.support.sizes import choose_full

# A run in the background of a script ignores SIGINT, and so would the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("egret", deadline=None)
settings.load_profile("egret")


@pytest.fixture(autouse=True)
def log_configuration() -> Iterator[None]:
    """Put the configuration of logs back after each test that changes it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(level)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose a browser, sizes and a place for pictures."""
    parser.addoption("--browser", help="a headless Chromium; without it tests/browser is left out")
    parser.addoption("--full", action="store_true", help="the full form of tests that have two")
    parser.addoption("--pictures", help="where tests/browser draws; else nowhere that stays")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the sizes of tests before their modules are imported; compile expressions once."""
    choose_full(is_full=config.getoption("--full"))
    if not hasattr(config, "workerinput"):  # one of parallel processes has all this already
        compiled = tempfile.mkdtemp(prefix="egret-compiled-")
        config.add_cleanup(lambda: shutil.rmtree(compiled, ignore_errors=True))
        environment = os.environ  # noqa: TID251 - of every process that a test starts
        environment[sitecustomize.DIRECTORY] = compiled
        paths = [str(Path(sitecustomize.__file__).parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        sys.meta_path.insert(0, sitecustomize.Finder())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that parallel processes end together."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)
