from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sidecar.admin.installation.objects import Kind, parse_files
from sidecar.admin.installation.persistence import load_installation
from sidecar.admin.installation.plan import plan_installation
from sidecar.admin.installation.statements import TABLES
from tests.support.installation import (
    DIGEST,
    apply_text,
    exported,
    joined,
    organization,
    policy,
    team,
)
from tests.support.postgres import Database
from tests.support.sizes import sized

MANY = sized(5_000, small=500)
_FRAME = {"BEGIN;", "COMMIT;"}


def large(keys: int, *, teams: int = 50, policies: int = 20, tag: str = "a") -> str:
    """Return an installation of three organizations."""
    return joined(
        *(policy(f"policy-{number}") for number in range(policies)),
        *(organization(f"org-{number}") for number in range(3)),
        *(
            team(f"org-{number % 3}/team-{number}", f"policy: policy-{number % policies}\n")
            for number in range(teams)
        ),
        *(
            f"kind: Key\nid: 'k{number:011}'\nsecret_sha256: '{DIGEST}'\n"
            f"team: org-{number % teams % 3}/team-{number % teams}\nname: key-{number}\n"
            f"tags: [{tag}]\nlimits: [requests/minute=60]\n"
            for number in range(keys)
        ),
    )


@pytest.fixture
def count_statements() -> Callable[[Any], list[str]]:
    def watch(connection: Any) -> list[str]:
        statements: list[str] = []
        connection.add_query_logger(
            lambda record: None if record.query in _FRAME else statements.append(record.query)
        )
        return statements

    return watch


@pytest.mark.asyncio
async def test_the_export_of_many_keys_has_no_changes(database: Database) -> None:
    """With 50 teams and 20 policies; keys that are read again are the same."""
    async with database.connect() as connection:
        await apply_text(connection, large(MANY))
        stored = await load_installation(connection)

    wanted = parse_files([("export.yaml", exported(stored))])
    plan = plan_installation(wanted, stored, file_set="default", prunes=True, deleted={})
    assert (plan.changes, plan.adopted, plan.unchanged) == ((), (), MANY + 73)


@pytest.mark.asyncio
async def test_statements_grow_with_kinds_and_not_with_objects(
    database: Database, count_statements: Callable[[Any], list[str]]
) -> None:
    """Creating, changing and deleting many keys takes as many statements as three."""
    async with database.connect() as connection:
        statements = count_statements(connection)
        counts: dict[int, list[int]] = {}
        for keys in (3, MANY):
            counts[keys] = []
            for text in (large(keys), large(keys, tag="b"), organization("org-0")):
                statements.clear()
                await apply_text(connection, text, prunes=True)
                counts[keys].append(len(statements))

    assert counts[3] == counts[MANY]
    assert max(counts[3]) <= 10


def test_every_kind_has_its_statements() -> None:
    """A kind that is added to one table is added to the other."""
    assert set(TABLES) == set(Kind)
