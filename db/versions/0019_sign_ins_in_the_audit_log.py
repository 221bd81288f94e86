"""Sessions of `egret admin` that begin or end are in the audit log."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# As in 0003, without updates: each use of a session writes its time.
AUDIT = """
CREATE TRIGGER admin_sessions_audit_insert AFTER INSERT ON admin_sessions
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.person');
CREATE TRIGGER admin_sessions_audit_delete AFTER DELETE ON admin_sessions
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.person');
CREATE TRIGGER admin_sessions_audit_truncate AFTER TRUNCATE ON admin_sessions
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.person');
"""


def upgrade() -> None:
    """Sessions from before have no entry of their beginning."""
    op.execute(AUDIT)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
