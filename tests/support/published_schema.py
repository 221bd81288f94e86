"""What a version of Egret may count on in the database: columns, functions, what an INSERT needs.

    python -m tests.support.published_schema

writes tests/contract/published_schema.json: what workers that are out there use. A later schema
must still have it, for while pods are replaced the old ones work on the new schema
(docs/upgrade.md).
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.databases import running_postgres
from egret_tools.devstack.processes import Children
from pydantic import SecretStr

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import Connection, connect

FILE: Final = Path(__file__).resolve().parents[1] / "contract" / "published_schema.json"

_COLUMNS: Final = """
SELECT c.relname || '.' || a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND c.relkind <> 'v' AS is_needed
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v')
    AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1
"""
_FUNCTIONS: Final = """
SELECT proname || '(' || pg_get_function_identity_arguments(oid) || ')' AS name,
    pg_get_function_result(oid) AS type
FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace AND prorettype <> 'trigger'::regtype
    AND proname LIKE 'egret%'
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Surface:
    """Types by name of column and of function, and the columns that an INSERT must name."""

    columns: Mapping[str, str]
    functions: Mapping[str, str]
    needed: frozenset[str]

    def lacks(self, published: Surface) -> list[str]:
        """Return what somebody who knows *published* alone would miss here."""
        kinds = ((published.columns, self.columns), (published.functions, self.functions))
        missing = [
            f"{name}: {here.get(name, 'gone')}, was {kind}"
            for known, here in kinds
            for name, kind in known.items()
            if here.get(name) != kind
        ]
        tables = {name.partition(".")[0] for name in published.columns}
        unknown = self.needed - published.needed
        return missing + [
            f"{name}: new, and an INSERT has to name it"
            for name in sorted(unknown)
            if name.partition(".")[0] in tables
        ]


async def surface_of(connection: Connection) -> Surface:
    """Read it from a database."""
    columns = await connection.fetch(_COLUMNS)
    functions = await connection.fetch(_FUNCTIONS)
    return Surface(
        columns={row["name"]: row["type"] for row in columns},
        functions={row["name"]: row["type"] for row in functions},
        needed=frozenset(row["name"] for row in columns if row["is_needed"]),
    )


def published() -> Surface:
    """Return what was written last."""
    read = json.loads(FILE.read_text(encoding="utf-8"))
    return Surface(read["columns"], read["functions"], frozenset(read["needed"]))


async def _publish() -> None:
    with tempfile.TemporaryDirectory(prefix="egret-pub-") as place:
        directory, logs = Path(place) / "postgres", Path(place) / "logs"
        logs.mkdir()
        async with running_postgres(Children(), directory=directory, logs=logs) as dsn:
            settings = PostgresSettings(dsn=SecretStr(dsn))
            await migrate(settings)
            async with connect(settings) as connection:
                found = await surface_of(connection)
    text = {
        "columns": dict(found.columns),
        "functions": dict(found.functions),
        "needed": sorted(found.needed),
    }
    FILE.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_publish())
    sys.stdout.write(f"{FILE.name} is written\n")
