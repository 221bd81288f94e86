from __future__ import annotations

import asyncpg
import pytest

from sidecar.admin.owners import ChangeRefusedError
from sidecar.admin_api.problems import problem_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ChangeRefusedError("key is revoked", hint="create another"), 409),
        (asyncpg.UndefinedTableError("admin_sessions"), 503),
        (asyncpg.InsufficientPrivilegeError("api_keys"), 503),
        (asyncpg.DeadlockDetectedError("deadlock"), 409),
        (asyncpg.ForeignKeyViolationError("teams"), 409),
        (asyncpg.CharacterNotInRepertoireError("0x00"), 422),
        (asyncpg.CannotConnectNowError("starting up"), 503),
        (TimeoutError(), 503),
        (ConnectionRefusedError(), 503),
    ],
)
def test_an_expected_error_has_a_status(error: Exception, status: int) -> None:
    """Those of the database that pass can be tried again."""
    problem = problem_of(error)

    assert problem is not None
    assert problem.status == status


def test_any_other_error_is_a_fault() -> None:
    """It is logged, and its text is shown to no caller."""
    assert problem_of(ValueError("secret")) is None
