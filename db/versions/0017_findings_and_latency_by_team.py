"""Findings by team, and a histogram of latency by hour and team."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# Beside findings_by_hour, to which workers of an older version go on adding.
FINDINGS = """
CREATE TABLE findings_by_team (
    began_at timestamptz NOT NULL,
    team_id text NOT NULL,
    organization_id text NOT NULL,
    policy text NOT NULL,
    guardrail text NOT NULL,
    type text NOT NULL,
    role text NOT NULL,
    verdict text NOT NULL,
    mode text NOT NULL,
    requests bigint NOT NULL,
    findings bigint NOT NULL,
    PRIMARY KEY (began_at, team_id, policy, guardrail, type, role, verdict, mode)
) WITH (fillfactor = 70);
COMMENT ON TABLE findings_by_team IS
    'findings_by_hour for each team; workers add to both. No foreign keys: as usage, they stay';
"""

LATENCY = """
CREATE TABLE latency_by_hour (
    began_at timestamptz NOT NULL,
    team_id text NOT NULL,
    organization_id text NOT NULL,
    bucket smallint NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (began_at, team_id, bucket)
) WITH (fillfactor = 70);
COMMENT ON TABLE latency_by_hour IS
    'completed requests by latency, hour (UTC) and team; a trigger on usage adds to it';
COMMENT ON COLUMN latency_by_hour.bucket IS
    'n holds latencies of 1.1^n up to 1.1^(n+1) ms; 0 also shorter ones, 199 longer ones';

-- In the order of the primary key, as egret_roll_up.
CREATE FUNCTION egret_roll_up_latency() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO latency_by_hour AS s
    SELECT date_trunc('hour', occurred_at, 'UTC'), team_id, min(organization_id),
        LEAST(199, floor(ln(GREATEST(latency_ms, 1)) / ln(1.1::float8)))::smallint, count(*)
    FROM new_rows WHERE ended = 'completed' GROUP BY 1, 2, 4 ORDER BY 1, 2, 4
    ON CONFLICT (began_at, team_id, bucket) DO UPDATE SET
        requests = s.requests + EXCLUDED.requests;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION egret_roll_up_latency() FROM PUBLIC;
CREATE TRIGGER usage_roll_up_latency AFTER INSERT ON usage REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_roll_up_latency();
"""

# What 0016 grants, and the new tables.
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
    GRANT SELECT, INSERT, UPDATE ON findings_by_hour, findings_by_team TO egret_sidecar;
    GRANT EXECUTE ON FUNCTION egret_usage_found(timestamptz[], text[]) TO egret_sidecar;
    GRANT EXECUTE ON FUNCTION egret_last_change() TO egret_sidecar;

    GRANT INSERT, UPDATE, DELETE ON organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_admin;
    GRANT SELECT, INSERT, UPDATE, DELETE ON alert_routes, alerts, alert_messages TO egret_admin;
    GRANT SELECT ON usage, usage_by_hour, usage_by_day, key_activity, findings_by_hour,
        findings_by_team, latency_by_hour, audit_log TO egret_admin;
    GRANT EXECUTE ON FUNCTION egret_drop_usage(integer) TO egret_admin;
    GRANT SELECT, INSERT, UPDATE, DELETE ON admin_sessions, admin_logins, admin_tokens
        TO egret_admin;
    GRANT SELECT, DELETE ON admin_token_use, admin_idempotency_keys TO egret_admin;

    GRANT EXECUTE ON FUNCTION egret_prepare_usage(integer) TO egret_sidecar, egret_admin;
    GRANT EXECUTE ON FUNCTION egret_used(text, text, timestamptz) TO egret_sidecar, egret_admin;
END $$;

CREATE OR REPLACE FUNCTION egret_grant_console() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO egret_console', current_schema());
    GRANT SELECT ON alembic_version, organizations, teams, api_keys, policies, policy_versions,
        prices, workers, usage, usage_by_hour, usage_by_day, key_activity, findings_by_hour,
        findings_by_team, latency_by_hour, audit_log TO egret_console;
    GRANT SELECT, INSERT, UPDATE, DELETE ON alert_routes, alerts, alert_messages TO egret_console;
    GRANT INSERT, UPDATE, DELETE ON organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_console;
    GRANT SELECT, INSERT, UPDATE, DELETE ON admin_sessions, admin_logins, admin_tokens,
        admin_token_use, admin_idempotency_keys TO egret_console;
    GRANT EXECUTE ON FUNCTION egret_used(text, text, timestamptz) TO egret_console;
END $$;
SELECT egret_set_up_roles();
SELECT egret_set_up_console();
"""


def upgrade() -> None:
    """Both count from now on: findings of before have no team."""
    for statements in (FINDINGS, LATENCY, GRANTS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
