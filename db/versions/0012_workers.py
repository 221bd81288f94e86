"""Workers report the policies they serve and the changes they have received."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

WORKERS = """
CREATE TABLE workers (
    host text NOT NULL,
    socket text NOT NULL,
    process text NOT NULL,
    version text NOT NULL,
    seen_at timestamptz NOT NULL,
    policies jsonb NOT NULL,
    acknowledged text[] NOT NULL,
    PRIMARY KEY (host, socket)
) WITH (fillfactor = 50);
COMMENT ON TABLE workers IS
    'a row for each live worker, written every few seconds and after each change it has received';
COMMENT ON COLUMN workers.process IS 'a random id; a worker that starts takes the row over';
COMMENT ON COLUMN workers.policies IS 'the versions it serves, by name';
COMMENT ON COLUMN workers.acknowledged IS
    'the last tokens of the channel egret_barriers: it has received every change from before them';
"""

# What 0010 grants, and the new table.
GRANTS = """
CREATE OR REPLACE FUNCTION egret_grant() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO egret_sidecar, egret_admin', current_schema());

    GRANT SELECT ON alembic_version, organizations, teams, api_keys, policies, policy_versions,
        prices, workers TO egret_sidecar, egret_admin;

    -- A batch that is written twice is known by its time and id, which takes reading those.
    GRANT INSERT ON usage TO egret_sidecar;
    GRANT SELECT (occurred_at, request_id) ON usage TO egret_sidecar;
    GRANT SELECT, INSERT, UPDATE ON key_activity TO egret_sidecar;
    GRANT INSERT, UPDATE, DELETE ON workers TO egret_sidecar;
    GRANT EXECUTE ON FUNCTION egret_usage_found(timestamptz[], text[]) TO egret_sidecar;
    GRANT EXECUTE ON FUNCTION egret_last_change() TO egret_sidecar;

    GRANT INSERT, UPDATE, DELETE ON organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_admin;
    GRANT SELECT ON usage, usage_by_hour, usage_by_day, key_activity, audit_log TO egret_admin;
    GRANT EXECUTE ON FUNCTION egret_drop_usage(integer) TO egret_admin;

    GRANT EXECUTE ON FUNCTION egret_prepare_usage(integer) TO egret_sidecar, egret_admin;
    GRANT EXECUTE ON FUNCTION egret_used(text, text, timestamptz) TO egret_sidecar, egret_admin;
END $$;
SELECT egret_set_up_roles();
"""


def upgrade() -> None:
    """Workers of an older version go on without a row."""
    for statements in (WORKERS, GRANTS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
