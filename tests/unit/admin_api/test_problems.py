from __future__ import annotations

import asyncpg
import pytest

from sidecar.admin.installation.objects import FileFault, InstallationError
from sidecar.admin.owners import ChangeRefusedError, InvalidValueError
from sidecar.admin_api.problems import problem_of
from sidecar.policy.parse import PolicyDocumentError, PolicyFault


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ChangeRefusedError("key is revoked", hint="create another"), 409),
        (InvalidValueError("xxl is no model", hint="nothing was changed"), 422),
        (asyncpg.UndefinedTableError("admin_sessions"), 503),
        (asyncpg.InsufficientPrivilegeError("api_keys"), 503),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT"), 503),
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


def test_a_database_that_is_read_only_is_named_and_may_be_tried_again() -> None:
    """As after a failover, while the DSN leads to the standby still."""
    problem = problem_of(asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT"))

    assert problem is not None
    assert "read-only" in problem.detail
    assert "primary" in (problem.hint or "")
    assert problem.headers == {"retry-after": "5"}


def test_the_place_of_a_fault_is_named_once() -> None:
    """A client, and `egret --server`, show it before the fault."""
    of_text = PolicyFault(3, 10, "limits[0]", "is no limit", hint="write requests/minute=60")
    words = "limits[0]: is no limit (write requests/minute=60)"

    by_policy = problem_of(PolicyDocumentError([of_text]))
    by_files = problem_of(InstallationError([FileFault("a.yaml", of_text)]))

    assert by_policy is not None
    assert by_files is not None
    assert by_policy.errors == [{"in": "line 3, column 10", "fault": words}]
    assert by_files.errors == [{"in": "a.yaml", "fault": f"line 3, column 10: {words}"}]


def test_any_other_error_is_a_fault() -> None:
    """It is logged, and its text is shown to no caller."""
    assert problem_of(ValueError("secret")) is None
