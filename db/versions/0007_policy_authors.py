"""Who brought a version of a policy into force, and why."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Columns first, defaults later: a default given at once would name whoever migrates as the author
# of every version there is. Those are known from the log, as far as it goes back.
AUTHORS = """
ALTER TABLE policy_versions
    ADD COLUMN author text,
    ADD COLUMN database_role text,
    ADD COLUMN note text CHECK (char_length(note) BETWEEN 1 AND 1000);

UPDATE policy_versions AS v SET author = a.actor, database_role = a.database_role
FROM audit_log AS a
WHERE a.object_type = 'policy_versions' AND a.action = 'insert'
  AND a.object_id = v.policy_name || ' ' || v.version;

ALTER TABLE policy_versions
    ALTER COLUMN author SET DEFAULT left(nullif(current_setting('egret.actor', true), ''), 200),
    ALTER COLUMN database_role SET DEFAULT session_user;

COMMENT ON COLUMN policy_versions.author IS
    'who that was by their own word: the setting egret.actor';
COMMENT ON COLUMN policy_versions.database_role IS 'who was logged in';
COMMENT ON COLUMN policy_versions.note IS 'why, in the author''s words';
"""


def upgrade() -> None:
    """Add the columns, filled from the log."""
    op.execute(AUTHORS)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
