"""The reason of a change, as `--note` gives it, is in the audit log."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# By a default, so that no trigger has to write it; entries from before have none.
NOTE = """
ALTER TABLE audit_log
    ADD COLUMN note text DEFAULT left(nullif(current_setting('egret.note', true), ''), 1000);
COMMENT ON COLUMN audit_log.note IS 'why, by their own word: the setting egret.note';
"""


def upgrade() -> None:
    """Notes were kept with versions of policies alone."""
    op.execute(NOTE)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
