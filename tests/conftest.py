from __future__ import annotations

import signal

import pytest
from hypothesis import settings

from sidecar.settings.serving import Engine

# A run in the background of a script ignores SIGINT, and so would the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("egret", deadline=None)
settings.load_profile("egret")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose the engine of the whole stacks it starts."""
    choices = [engine.value for engine in Engine]
    parser.addoption("--engine", default=Engine.GRPCIO.value, choices=choices)
    parser.addoption("--browser", help="a headless Chromium; without it tests/browser is left out")
    parser.addoption("--pictures", help="where tests/browser draws; else nowhere that stays")


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> str:
    """The engine of whole stacks, by `--engine`."""
    return str(pytestconfig.getoption("engine"))
