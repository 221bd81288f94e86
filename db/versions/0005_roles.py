"""Roles: what a worker may do, and what the command line may do."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Roles belong to the server, not to the database: another database may have made them, and a
# migrating role without CREATEROLE cannot. Whoever makes them later calls this again.
SET_UP = """
CREATE FUNCTION egret_set_up_roles() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    missing text[] := '{}';
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['egret_sidecar', 'egret_admin'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    missing := missing || name;
            END;
        END IF;
    END LOOP;
    IF missing = '{}' THEN
        PERFORM egret_grant();
    ELSE
        RAISE WARNING 'roles % are missing and % may not create them: as one who may, run CREATE '
            'ROLE … NOLOGIN for each, then SELECT egret_set_up_roles() as the owner of the tables',
            array_to_string(missing, ', '), current_user;
    END IF;
    RETURN missing;
END $$;
COMMENT ON FUNCTION egret_set_up_roles() IS
    'makes egret_sidecar and egret_admin, grants them what they need, returns those missing';
REVOKE EXECUTE ON FUNCTION egret_set_up_roles() FROM PUBLIC;
"""

GRANTS = """
CREATE FUNCTION egret_grant() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO egret_sidecar, egret_admin', current_schema());

    GRANT SELECT ON alembic_version, organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_sidecar, egret_admin;

    -- A batch that is written twice is known by its time and id, which takes reading those.
    GRANT INSERT ON usage TO egret_sidecar;
    GRANT SELECT (occurred_at, request_id) ON usage TO egret_sidecar;
    GRANT SELECT, INSERT, UPDATE ON key_activity TO egret_sidecar;

    GRANT INSERT, UPDATE, DELETE ON organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_admin;
    GRANT SELECT ON usage, key_activity, audit_log TO egret_admin;

    GRANT EXECUTE ON FUNCTION egret_prepare_usage(integer) TO egret_sidecar, egret_admin;
END $$;
REVOKE EXECUTE ON FUNCTION egret_grant() FROM PUBLIC;
SELECT egret_set_up_roles();
"""


def upgrade() -> None:
    """Make the roles if that is allowed, and grant."""
    for statements in (SET_UP, GRANTS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
