"""Organizations, teams, API keys and policies, and the notifications of their changes."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

POLICIES = """
CREATE TABLE policies (
    name text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    version integer NOT NULL CHECK (version > 0)
);
COMMENT ON COLUMN policies.version IS 'the version in force';

CREATE TABLE policy_versions (
    policy_name text NOT NULL REFERENCES policies (name) ON DELETE CASCADE,
    version integer NOT NULL CHECK (version > 0),
    document text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (policy_name, version)
);
COMMENT ON COLUMN policy_versions.document IS 'YAML as it was applied';

-- Deferred: a policy and its first version come in one transaction.
ALTER TABLE policies ADD CONSTRAINT policies_version_in_force
    FOREIGN KEY (name, version) REFERENCES policy_versions (policy_name, version)
    DEFERRABLE INITIALLY DEFERRED;
"""

OWNERS = """
CREATE TABLE organizations (
    id text PRIMARY KEY DEFAULT 'org_' || replace(gen_random_uuid()::text, '-', ''),
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    enabled boolean NOT NULL DEFAULT true,
    allowed_models text[],
    policy_name text REFERENCES policies (name),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT organizations_name_key UNIQUE (name)
);

CREATE TABLE teams (
    id text PRIMARY KEY DEFAULT 'team_' || replace(gen_random_uuid()::text, '-', ''),
    organization_id text NOT NULL REFERENCES organizations (id),
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    enabled boolean NOT NULL DEFAULT true,
    allowed_models text[],
    policy_name text REFERENCES policies (name),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT teams_name_key UNIQUE (organization_id, name)
);
"""

KEYS = """
CREATE TABLE api_keys (
    public_id text PRIMARY KEY CHECK (public_id ~ '^[0-9A-Za-z]{12}$'),
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    team_id text NOT NULL REFERENCES teams (id),
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    enabled boolean NOT NULL DEFAULT true,
    not_before timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    replaced_by text REFERENCES api_keys (public_id) DEFERRABLE,
    allowed_models text[],
    policy_name text REFERENCES policies (name),
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz
);
COMMENT ON COLUMN api_keys.secret_sha256 IS 'the secret has 256 random bits: no slow hash needed';
COMMENT ON COLUMN api_keys.replaced_by IS 'the key that a rotation made of this one';

-- A name is free again once its key is revoked or rotated.
CREATE UNIQUE INDEX idx_api_keys_team_id_name ON api_keys (team_id, name)
    WHERE revoked_at IS NULL AND replaced_by IS NULL;
CREATE INDEX idx_api_keys_policy_name ON api_keys (policy_name) WHERE policy_name IS NOT NULL;
CREATE INDEX idx_teams_policy_name ON teams (policy_name) WHERE policy_name IS NOT NULL;
CREATE INDEX idx_organizations_policy_name ON organizations (policy_name)
    WHERE policy_name IS NOT NULL;
"""

# NOTIFY is delivered at commit: a worker never hears of a change that it could not yet read.
KEY_NOTIFICATIONS = """
CREATE FUNCTION egret_notify_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('egret_keys', OLD.public_id);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM pg_notify('egret_keys', NEW.public_id);
    END IF;
    RETURN NULL;
END $$;

-- Not for last_used_at, which changes all the time and decides nothing.
CREATE TRIGGER api_keys_notify AFTER INSERT OR DELETE OR UPDATE OF
    public_id, secret_sha256, team_id, enabled, not_before, expires_at, revoked_at,
    allowed_models, policy_name
    ON api_keys FOR EACH ROW EXECUTE FUNCTION egret_notify_key();

-- A team or an organization has any number of keys: one notification names the scope.
CREATE FUNCTION egret_notify_scope() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('egret_keys', TG_ARGV[0] || ':' || OLD.id);
    RETURN NULL;
END $$;

CREATE TRIGGER teams_notify AFTER UPDATE OR DELETE
    ON teams FOR EACH ROW EXECUTE FUNCTION egret_notify_scope('team');
CREATE TRIGGER organizations_notify AFTER UPDATE OR DELETE
    ON organizations FOR EACH ROW EXECUTE FUNCTION egret_notify_scope('organization');

CREATE FUNCTION egret_notify_everything() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], '*');
    RETURN NULL;
END $$;

CREATE TRIGGER api_keys_notify_truncate AFTER TRUNCATE
    ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_everything('egret_keys');
"""

POLICY_NOTIFICATIONS = """
CREATE FUNCTION egret_notify_policy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('egret_policies', COALESCE(NEW.name, OLD.name));
    RETURN NULL;
END $$;

CREATE TRIGGER policies_notify AFTER INSERT OR UPDATE OR DELETE
    ON policies FOR EACH ROW EXECUTE FUNCTION egret_notify_policy();
CREATE TRIGGER policies_notify_truncate AFTER TRUNCATE
    ON policies FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_everything('egret_policies');
"""


def upgrade() -> None:
    """Create everything that issuing and judging keys needs."""
    for statements in (POLICIES, OWNERS, KEYS, KEY_NOTIFICATIONS, POLICY_NOTIFICATIONS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse: keys that were handed out cannot be taken back by a script."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
