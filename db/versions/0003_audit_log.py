"""A log of every administrative change, written by the database itself."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LOG = """
CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    database_role text NOT NULL,
    actor text,
    action text NOT NULL CHECK (action IN ('insert', 'update', 'delete', 'truncate')),
    object_type text NOT NULL,
    object_id text,
    rows bigint NOT NULL DEFAULT 1,
    before jsonb,
    after jsonb
);
COMMENT ON COLUMN audit_log.database_role IS 'who was logged in, whatever SET ROLE said since';
COMMENT ON COLUMN audit_log.actor IS 'who that was by their own word: the setting egret.actor';
COMMENT ON COLUMN audit_log.object_id IS 'NULL: many rows at once; their ids are in after';
COMMENT ON COLUMN audit_log.before IS 'columns that changed, as they were; secrets are masked';

CREATE INDEX idx_audit_log_at ON audit_log (at, id);
CREATE INDEX idx_audit_log_object_id ON audit_log (object_id, id);
"""

# Digests, and policies with the credentials of their webhooks, are of no use in a log.
CHANGED = """
CREATE FUNCTION egret_audit_fields(here jsonb, there jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_object_agg(f.key, CASE
               WHEN f.key IN ('secret_sha256', 'document') THEN to_jsonb('(not shown)'::text)
               ELSE f.value
           END)
    FROM jsonb_each(here) AS f
    WHERE there IS NULL OR there -> f.key IS DISTINCT FROM f.value
$$;
"""

# TG_ARGV[0] is an expression on the row r that names the object. With the owner's rights, since
# nobody else may write here. One entry with all ids stands for an INSERT of more than 1000 rows:
# a million keys take some 15 MB of log so, not 500.
AUDIT = """
CREATE FUNCTION egret_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    who text := left(nullif(current_setting('egret.actor', true), ''), 200);
    many bigint;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO audit_log (database_role, actor, action, object_type, rows)
        VALUES (session_user, who, 'truncate', TG_TABLE_NAME, 0);
    ELSIF TG_OP = 'UPDATE' THEN
        EXECUTE format(
            'INSERT INTO audit_log (database_role, actor, action, object_type, object_id,'
            ' before, after) SELECT session_user, $1, CASE WHEN o.fields IS NULL THEN ''insert'''
            ' WHEN n.fields IS NULL THEN ''delete'' ELSE ''update'' END, $2, id,'
            ' egret_audit_fields(o.fields, n.fields), egret_audit_fields(n.fields, o.fields)'
            ' FROM (SELECT %1$s AS id, to_jsonb(r) AS fields FROM old_rows AS r) AS o'
            ' FULL JOIN (SELECT %1$s AS id, to_jsonb(r) AS fields FROM new_rows AS r) AS n'
            ' USING (id) WHERE o.fields IS DISTINCT FROM n.fields ORDER BY id', TG_ARGV[0])
        USING who, TG_TABLE_NAME;
    ELSIF TG_OP = 'DELETE' THEN
        EXECUTE format(
            'INSERT INTO audit_log (database_role, actor, action, object_type, object_id, before)'
            ' SELECT session_user, $1, ''delete'', $2, %s,'
            ' egret_audit_fields(to_jsonb(r), NULL) FROM old_rows AS r ORDER BY 5', TG_ARGV[0])
        USING who, TG_TABLE_NAME;
    ELSE
        SELECT count(*) INTO many FROM new_rows;
        IF many > 1000 THEN
            EXECUTE format(
                'INSERT INTO audit_log (database_role, actor, action, object_type, rows, after)'
                ' SELECT session_user, $1, ''insert'', $2, $3,'
                ' jsonb_build_object(''ids'', jsonb_agg(%s)) FROM new_rows AS r', TG_ARGV[0])
            USING who, TG_TABLE_NAME, many;
            RETURN NULL;
        END IF;
        EXECUTE format(
            'INSERT INTO audit_log (database_role, actor, action, object_type, object_id, after)'
            ' SELECT session_user, $1, ''insert'', $2, %s,'
            ' egret_audit_fields(to_jsonb(r), NULL) FROM new_rows AS r ORDER BY 5', TG_ARGV[0])
        USING who, TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION egret_audit() FROM PUBLIC;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION egret_audit() SET search_path = %I, pg_temp',
        current_schema());
END $$;
"""

AUDITED: Final = {
    "organizations": "r.id",
    "teams": "r.id",
    "api_keys": "r.public_id",
    "policies": "r.name",
    "policy_versions": "r.policy_name || ' ' || r.version",
    "prices": "r.model || ' ' || r.valid_from",
}
"""Table to the expression that names a row of it."""

TRIGGERS = """
CREATE TRIGGER {table}_audit_insert AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit({name});
CREATE TRIGGER {table}_audit_update AFTER UPDATE ON {table}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit({name});
CREATE TRIGGER {table}_audit_delete AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit({name});
CREATE TRIGGER {table}_audit_truncate AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION egret_audit({name});
"""


def upgrade() -> None:
    """Log from here on; what was before has left no trace."""
    for statements in (LOG, CHANGED, AUDIT):
        op.execute(statements)
    for table, expression in AUDITED.items():
        name = "'" + expression.replace("'", "''") + "'"
        op.execute(TRIGGERS.format(table=table, name=name))


def downgrade() -> None:
    """Refuse: a log that can be dropped is none."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
