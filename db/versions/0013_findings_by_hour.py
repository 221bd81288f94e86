"""Workers add up the findings of guardrails by hour, type and role of the text; never content."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

FINDINGS = """
CREATE TABLE findings_by_hour (
    began_at timestamptz NOT NULL,
    policy text NOT NULL,
    guardrail text NOT NULL,
    type text NOT NULL,
    role text NOT NULL,
    verdict text NOT NULL,
    mode text NOT NULL,
    requests bigint NOT NULL,
    findings bigint NOT NULL,
    PRIMARY KEY (began_at, policy, guardrail, type, role, verdict, mode)
) WITH (fillfactor = 70);
COMMENT ON TABLE findings_by_hour IS
    'findings of guardrails by the hour (UTC) in which their requests began; workers add to it';
COMMENT ON COLUMN findings_by_hour.role IS
    'of the message, or the name of the field; answer: any text of an answer';
COMMENT ON COLUMN findings_by_hour.requests IS 'requests with such a finding';
COMMENT ON COLUMN findings_by_hour.findings IS 'spans of text in them';
"""

# What 0012 grants, and the new table.
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
    GRANT SELECT, INSERT, UPDATE ON findings_by_hour TO egret_sidecar;
    GRANT EXECUTE ON FUNCTION egret_usage_found(timestamptz[], text[]) TO egret_sidecar;
    GRANT EXECUTE ON FUNCTION egret_last_change() TO egret_sidecar;

    GRANT INSERT, UPDATE, DELETE ON organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_admin;
    GRANT SELECT ON usage, usage_by_hour, usage_by_day, key_activity, findings_by_hour, audit_log
        TO egret_admin;
    GRANT EXECUTE ON FUNCTION egret_drop_usage(integer) TO egret_admin;

    GRANT EXECUTE ON FUNCTION egret_prepare_usage(integer) TO egret_sidecar, egret_admin;
    GRANT EXECUTE ON FUNCTION egret_used(text, text, timestamptz) TO egret_sidecar, egret_admin;
END $$;
SELECT egret_set_up_roles();
"""


def upgrade() -> None:
    """Workers of an older version go on without counting."""
    for statements in (FINDINGS, GRANTS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
