"""Requests that a failed guardrail let pass are found without reading a day of usage."""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# The condition of the alert rule `fail_open` has to be this one. Few rows have it, so the index
# takes no room; it is built in a second for each few million rows, while workers keep new ones.
FAILED_OPEN = """
CREATE INDEX idx_usage_failed_open ON usage (occurred_at)
    WHERE guardrails @? '$.* ? (@ == "error_open" || @ == "timeout_open")';
"""


def upgrade() -> None:
    """Each partition has the index, and those to come."""
    op.execute(FAILED_OPEN)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
