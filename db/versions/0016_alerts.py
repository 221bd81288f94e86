"""Alerts: each once per rule, object and period; their routes; an outbox of messages."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# The form of `secret` keeps a secret itself out of the table, whichever way a row is written.
ROUTES = """
CREATE TABLE alert_routes (
    name text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    enabled boolean NOT NULL DEFAULT true,
    channel text NOT NULL,
    url text,
    secret text NOT NULL
        CHECK (secret ~ '^(env:ALERT_[A-Z0-9_]{1,60}|file:[a-z0-9][a-z0-9._-]{0,62})$'),
    organization_id text REFERENCES organizations (id) ON DELETE CASCADE,
    severity text NOT NULL DEFAULT 'warning',
    rules text[],
    quiet_hours text,
    digest text,
    time_zone text NOT NULL DEFAULT 'UTC',
    file_set text CHECK (file_set ~ '^[a-z0-9][a-z0-9._-]{0,62}$')
);
CREATE INDEX idx_alert_routes_organization_id ON alert_routes (organization_id);
COMMENT ON COLUMN alert_routes.secret IS 'where the secret is, never the secret';
COMMENT ON COLUMN alert_routes.organization_id IS 'NULL: alerts of every organization, and others';
COMMENT ON COLUMN alert_routes.severity IS 'the least that is sent';
COMMENT ON COLUMN alert_routes.rules IS 'NULL: all';
"""

ALERTS = """
CREATE TABLE alerts (
    id text PRIMARY KEY DEFAULT 'alert_' || replace(gen_random_uuid()::text, '-', ''),
    rule text NOT NULL,
    object text NOT NULL,
    period_began timestamptz NOT NULL,
    severity text NOT NULL,
    organization_id text,
    summary text NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (rule, object, period_began)
);
CREATE INDEX idx_alerts_raised_at ON alerts (raised_at);
COMMENT ON TABLE alerts IS
    'one row for each rule, object and period: whichever replica inserts it raises the alert';
COMMENT ON COLUMN alerts.organization_id IS
    'no foreign key: an alert stays when its organization is deleted; NULL: of none';
"""

OUTBOX = """
CREATE TABLE alert_messages (
    id text PRIMARY KEY DEFAULT 'msg_' || replace(gen_random_uuid()::text, '-', ''),
    route text NOT NULL REFERENCES alert_routes (name) ON DELETE CASCADE ON UPDATE CASCADE,
    alerts text[] NOT NULL,
    due_at timestamptz NOT NULL,
    batch timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL,
    delivered_at timestamptz,
    gave_up_at timestamptz,
    error text,
    UNIQUE (route, batch)
) WITH (fillfactor = 70);
CREATE INDEX idx_alert_messages_next_try_at ON alert_messages (next_try_at)
    WHERE delivered_at IS NULL AND gave_up_at IS NULL;
CREATE INDEX idx_alert_messages_alerts ON alert_messages USING gin (alerts);
COMMENT ON COLUMN alert_messages.id IS 'webhook-id: the same at each attempt';
COMMENT ON COLUMN alert_messages.batch IS
    'the time of a digest or of the end of quiet hours, for which alerts are collected; else NULL';
COMMENT ON COLUMN alert_messages.next_try_at IS
    'while a replica sends it, the time from which another replica may';
"""

# A worker deletes its row when it ends, so a row that another process takes over is of one that
# was killed. By a trigger, so that workers of an older version are counted as well.
DEATHS = """
ALTER TABLE workers ADD COLUMN deaths integer NOT NULL DEFAULT 0, ADD COLUMN died_at timestamptz;
COMMENT ON COLUMN workers.deaths IS 'how many processes of this socket ended without a farewell';

CREATE FUNCTION egret_count_death() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.deaths := OLD.deaths + 1;
    NEW.died_at := clock_timestamp();
    RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION egret_count_death() FROM PUBLIC;
CREATE TRIGGER workers_count_death BEFORE UPDATE ON workers FOR EACH ROW
    WHEN (NEW.process <> OLD.process) EXECUTE FUNCTION egret_count_death();
"""

# As in 0003.
AUDIT = """
CREATE TRIGGER alert_routes_audit_insert AFTER INSERT ON alert_routes
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.name');
CREATE TRIGGER alert_routes_audit_update AFTER UPDATE ON alert_routes
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.name');
CREATE TRIGGER alert_routes_audit_delete AFTER DELETE ON alert_routes
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.name');
CREATE TRIGGER alert_routes_audit_truncate AFTER TRUNCATE ON alert_routes
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.name');
"""

# What 0015 grants, and the new tables.
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
    GRANT SELECT, INSERT, UPDATE, DELETE ON alert_routes, alerts, alert_messages TO egret_admin;
    GRANT SELECT ON usage, usage_by_hour, usage_by_day, key_activity, findings_by_hour, audit_log
        TO egret_admin;
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
        audit_log TO egret_console;
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
    """Nothing is raised before a route is applied and `egret alerts run` runs."""
    for statements in (ROUTES, ALERTS, OUTBOX, DEATHS, AUDIT, GRANTS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
