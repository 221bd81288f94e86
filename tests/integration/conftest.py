from __future__ import annotations

import pytest

from tests.support.admin_server import by_server
from tests.support.command_line import Egret
from tests.support.live_servers import server
from tests.support.postgres import Database, database, empty_database, postgres_server

__all__ = ["by_server", "database", "empty_database", "postgres_server", "server"]


@pytest.fixture
def egret(database: Database) -> Egret:
    """The command line with the database of the test."""
    return Egret(database.dsn)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "million: makes a table of up to a million keys once a session"
    )
