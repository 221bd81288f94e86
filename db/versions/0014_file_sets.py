"""The set of files that last applied an object, so that `egret apply --prune` deletes no other."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TABLES: Final = ("organizations", "teams", "api_keys", "policies", "prices")

# A column, so that a name that changes and a row that is deleted need no second table. Privileges
# on the tables cover it, and a new key of a rotation, which no file names yet, has none.
OWNER = """
ALTER TABLE {table} ADD COLUMN file_set text
    CHECK (file_set ~ '^[a-z0-9][a-z0-9._-]{{0,62}}$');
COMMENT ON COLUMN {table}.file_set IS
    'the set of files that last applied it (`egret apply --set`); NULL: none';
"""


def upgrade() -> None:
    """No object belongs to a set of files yet."""
    for table in TABLES:
        op.execute(OWNER.format(table=table))


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
