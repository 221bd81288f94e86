"""Links that log in, and months of usage that are dropped, are in the audit log."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# A link names any person, so its entry has the login to the database that made it. By row: logins
# at an identity provider have a verifier in their details, and are in the log as sessions.
LINKS = """
CREATE FUNCTION egret_audit_link() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO audit_log (database_role, actor, action, object_type, object_id, after)
    VALUES (session_user, left(nullif(current_setting('egret.actor', true), ''), 200), 'insert',
        TG_TABLE_NAME, NEW.details ->> 'person', jsonb_build_object('kind', NEW.kind,
            'grants', (NEW.details ->> 'grants')::jsonb, 'expires_at', NEW.expires_at));
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION egret_audit_link() FROM PUBLIC;
CREATE TRIGGER admin_logins_audit_insert AFTER INSERT OR UPDATE ON admin_logins
    FOR EACH ROW WHEN (NEW.kind = 'link') EXECUTE FUNCTION egret_audit_link();
"""

# As in 0008, with an entry for each month: its records are the proof of a bill.
RETENTION = """
CREATE OR REPLACE FUNCTION egret_drop_usage(months integer) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    oldest text := 'usage_' || to_char(
        date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => months),
        'YYYY_MM');
    dropped text[] := '{}';
    name text;
BEGIN
    IF months NOT BETWEEN 1 AND 1200 THEN
        RAISE EXCEPTION 'months must be between 1 and 1200' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('egret_usage', 0));
    FOR name IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'usage'::regclass AND c.relname ~ '^usage_[0-9]{4}_[0-9]{2}$'
            AND c.relname < oldest ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        INSERT INTO audit_log (database_role, actor, action, object_type, object_id)
        VALUES (session_user, left(nullif(current_setting('egret.actor', true), ''), 200),
            'delete', 'usage', name);
        dropped := dropped || name;
    END LOOP;
    RETURN dropped;
END $$;
"""

# A function that is replaced loses its settings, though not its grants.
SEARCH_PATH = """
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION egret_audit_link() SET search_path = %I, pg_temp',
        current_schema());
    EXECUTE format('ALTER FUNCTION egret_drop_usage(integer) SET search_path = %I, pg_temp',
        current_schema());
END $$;
"""


def upgrade() -> None:
    """Links and months from before have no entry."""
    for statements in (LINKS, RETENTION, SEARCH_PATH):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
