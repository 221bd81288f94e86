"""Sessions, logins and API tokens of `egret admin`, and a database role for it."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Secrets are 256 random bits: their SHA-256 is all that is stored.
SIGN_IN = """
CREATE TABLE admin_sessions (
    secret_sha256 bytea PRIMARY KEY CHECK (octet_length(secret_sha256) = 32),
    person text NOT NULL CHECK (length(person) <= 200),
    source text NOT NULL CHECK (source IN ('link', 'oidc')),
    grants jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
COMMENT ON COLUMN admin_sessions.grants IS
    'roles with ids of organizations and teams, as they were at the login';

CREATE TABLE admin_logins (
    secret_sha256 bytea PRIMARY KEY CHECK (octet_length(secret_sha256) = 32),
    kind text NOT NULL CHECK (kind IN ('link', 'oidc')),
    details jsonb NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE admin_logins IS
    'logins under way: one-time links and states of OIDC; a row is deleted when it is used';

CREATE TABLE admin_tokens (
    id text PRIMARY KEY CHECK (id ~ '^[0-9A-Za-z]{12}$'),
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    role text NOT NULL,
    organization_id text REFERENCES organizations (id) ON DELETE CASCADE,
    team_id text REFERENCES teams (id) ON DELETE CASCADE,
    scopes text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL CHECK (length(created_by) <= 200),
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK (team_id IS NULL OR organization_id IS NOT NULL)
);
COMMENT ON COLUMN admin_tokens.scopes IS 'permissions to which the role is narrowed; NULL: all';
CREATE UNIQUE INDEX idx_admin_tokens_name ON admin_tokens (COALESCE(organization_id, ''), name)
    WHERE revoked_at IS NULL;

CREATE TABLE admin_token_use (
    token_id text PRIMARY KEY REFERENCES admin_tokens (id) ON DELETE CASCADE,
    last_used_at timestamptz NOT NULL
);
COMMENT ON TABLE admin_token_use IS 'apart from admin_tokens, so that the audit log has no uses';

CREATE TABLE admin_idempotency_keys (
    key_sha256 bytea PRIMARY KEY CHECK (octet_length(key_sha256) = 32),
    request_sha256 bytea NOT NULL CHECK (octet_length(request_sha256) = 32),
    status integer,
    body text,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE admin_idempotency_keys IS
    'writes with an Idempotency-Key, for a day; answers without secrets';
"""

AUDIT = """
CREATE TRIGGER admin_tokens_audit_insert AFTER INSERT ON admin_tokens
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.id');
CREATE TRIGGER admin_tokens_audit_update AFTER UPDATE ON admin_tokens
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.id');
CREATE TRIGGER admin_tokens_audit_delete AFTER DELETE ON admin_tokens
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.id');
CREATE TRIGGER admin_tokens_audit_truncate AFTER TRUNCATE ON admin_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit('r.id');
"""

# What 0013 grants, and the new tables to the command line: it makes one-time links and tokens.
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
    GRANT SELECT, INSERT, UPDATE, DELETE ON admin_sessions, admin_logins, admin_tokens
        TO egret_admin;
    GRANT SELECT, DELETE ON admin_token_use, admin_idempotency_keys TO egret_admin;

    GRANT EXECUTE ON FUNCTION egret_prepare_usage(integer) TO egret_sidecar, egret_admin;
    GRANT EXECUTE ON FUNCTION egret_used(text, text, timestamptz) TO egret_sidecar, egret_admin;
END $$;
SELECT egret_set_up_roles();
"""

# Apart from the two roles that every installation needs: without `egret admin` none is missing.
CONSOLE = """
CREATE FUNCTION egret_set_up_console() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'egret_console') THEN
        BEGIN
            CREATE ROLE egret_console NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN RETURN false;
        END;
    END IF;
    PERFORM egret_grant_console();
    RETURN true;
END $$;
COMMENT ON FUNCTION egret_set_up_console() IS
    'makes egret_console, the role of `egret admin`, and grants it what it needs; false: may not';
REVOKE EXECUTE ON FUNCTION egret_set_up_console() FROM PUBLIC;

CREATE FUNCTION egret_grant_console() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO egret_console', current_schema());
    GRANT SELECT ON alembic_version, organizations, teams, api_keys, policies, policy_versions,
        prices, workers, usage, usage_by_hour, usage_by_day, key_activity, findings_by_hour,
        audit_log TO egret_console;
    GRANT INSERT, UPDATE, DELETE ON organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_console;
    GRANT SELECT, INSERT, UPDATE, DELETE ON admin_sessions, admin_logins, admin_tokens,
        admin_token_use, admin_idempotency_keys TO egret_console;
    GRANT EXECUTE ON FUNCTION egret_used(text, text, timestamptz) TO egret_console;
END $$;
REVOKE EXECUTE ON FUNCTION egret_grant_console() FROM PUBLIC;
SELECT egret_set_up_console();
"""


def upgrade() -> None:
    """No session exists yet."""
    for statements in (SIGN_IN, AUDIT, GRANTS, CONSOLE):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
