"""Sums by hour that are older than some months can be dropped; those by day stay."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

# The month that was kept longest begins before any day, week or month of a budget that has not
# ended, in every time zone: what a limit has used is added up from days and from hours after that.
RETENTION = """
CREATE FUNCTION egret_drop_hours(months integer) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    oldest timestamptz := (date_trunc('month', now() AT TIME ZONE 'UTC')
        - make_interval(months => months)) AT TIME ZONE 'UTC';
    dropped text[] := '{}';
    name text;
    rows bigint;
BEGIN
    IF months NOT BETWEEN 1 AND 1200 THEN
        RAISE EXCEPTION 'months must be between 1 and 1200' USING ERRCODE = '22023';
    END IF;
    FOREACH name IN ARRAY ARRAY['usage_by_hour', 'latency_by_hour', 'findings_by_hour',
            'findings_by_team'] LOOP
        EXECUTE format('DELETE FROM %I WHERE began_at < $1', name) USING oldest;
        GET DIAGNOSTICS rows = ROW_COUNT;
        IF rows > 0 THEN
            name := name || ' before ' || to_char(oldest AT TIME ZONE 'UTC', 'YYYY-MM');
            INSERT INTO audit_log (database_role, actor, action, object_type, object_id)
            VALUES (session_user, left(nullif(current_setting('egret.actor', true), ''), 200),
                'delete', 'usage', name);
            dropped := dropped || name;
        END IF;
    END LOOP;
    RETURN dropped;
END $$;
COMMENT ON FUNCTION egret_drop_hours(integer) IS
    'drops sums by hour of before the last *months* whole months; sums by day stay';
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION egret_drop_hours(integer) SET search_path = %I, pg_temp',
        current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION egret_drop_hours(integer) FROM PUBLIC;
"""

# What 0017 grants, and the new function.
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
    GRANT EXECUTE ON FUNCTION egret_drop_usage(integer), egret_drop_hours(integer)
        TO egret_admin;
    GRANT SELECT, INSERT, UPDATE, DELETE ON admin_sessions, admin_logins, admin_tokens
        TO egret_admin;
    GRANT SELECT, DELETE ON admin_token_use, admin_idempotency_keys TO egret_admin;

    GRANT EXECUTE ON FUNCTION egret_prepare_usage(integer) TO egret_sidecar, egret_admin;
    GRANT EXECUTE ON FUNCTION egret_used(text, text, timestamptz) TO egret_sidecar, egret_admin;
END $$;
SELECT egret_set_up_roles();
"""


def upgrade() -> None:
    """Drop nothing: a command calls the function."""
    for statements in (RETENTION, GRANTS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
