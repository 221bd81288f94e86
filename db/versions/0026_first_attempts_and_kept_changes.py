"""Messages of alerts know their first attempt; kept answers have their tag and change."""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

FIRST_ATTEMPTS = """
ALTER TABLE alert_messages ADD COLUMN first_tried_at timestamptz;
COMMENT ON COLUMN alert_messages.first_tried_at IS 'from when its day of attempts counts';
UPDATE alert_messages SET first_tried_at = due_at
    WHERE attempts > 0 AND delivered_at IS NULL AND gave_up_at IS NULL;
"""

KEPT_CHANGES = """
ALTER TABLE admin_idempotency_keys ADD COLUMN etag text, ADD COLUMN change jsonb;
COMMENT ON COLUMN admin_idempotency_keys.change IS
    'what workers are told: ids of keys, and versions of policies; NULL: nothing';
"""


def upgrade() -> None:
    """Answers that are kept already are given again without their tag."""
    for statements in (FIRST_ATTEMPTS, KEPT_CHANGES):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
