"""Notifications with the time of the change, and one for a statement that changes many rows."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A listener of an older Egret takes a payload with a time for one that it does not know, and
# forgets everything: too much, but never too little.
NOTIFY = """
CREATE FUNCTION egret_notify_change(what text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('egret_keys',
        what || ',' || (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
$$;
COMMENT ON FUNCTION egret_notify_change(text) IS
    'tells workers what changed, and when in microseconds since the epoch, a moment before commit';
"""

# What a worker reads is compared, so that a new name, or an UPDATE that changes nothing, says
# nothing. Above 100 keys, forgetting everything costs every worker less than being told of each.
KEYS = """
CREATE OR REPLACE FUNCTION egret_notify_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids text[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(public_id) INTO ids
        FROM (SELECT public_id FROM new_rows LIMIT 101) AS few;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(public_id) INTO ids
        FROM (SELECT public_id FROM old_rows LIMIT 101) AS few;
    ELSE
        SELECT array_agg(public_id ORDER BY public_id) INTO ids FROM (
            SELECT DISTINCT COALESCE(o.public_id, n.public_id) AS public_id
            FROM old_rows AS o FULL JOIN new_rows AS n ON n.public_id = o.public_id
            WHERE (o.public_id, o.secret_sha256, o.team_id, o.enabled, o.not_before,
                   o.expires_at, o.revoked_at, o.allowed_models, o.policy_name)
                IS DISTINCT FROM
                  (n.public_id, n.secret_sha256, n.team_id, n.enabled, n.not_before,
                   n.expires_at, n.revoked_at, n.allowed_models, n.policy_name)
            LIMIT 101) AS few;
    END IF;
    IF cardinality(ids) > 100 THEN
        PERFORM egret_notify_change('*');
    ELSE
        PERFORM egret_notify_change(id) FROM unnest(ids) AS id;
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER api_keys_notify ON api_keys;
CREATE TRIGGER api_keys_notify_insert AFTER INSERT ON api_keys REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_key();
CREATE TRIGGER api_keys_notify_update AFTER UPDATE ON api_keys
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_key();
CREATE TRIGGER api_keys_notify_delete AFTER DELETE ON api_keys REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_key();
"""

SCOPES = """
CREATE OR REPLACE FUNCTION egret_notify_scope() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids text[];
BEGIN
    SELECT array_agg(id) INTO ids FROM (SELECT id FROM old_rows LIMIT 2) AS few;
    IF cardinality(ids) > 1 THEN
        PERFORM egret_notify_change('*');
    ELSE
        PERFORM egret_notify_change(TG_ARGV[0] || ':' || id) FROM unnest(ids) AS id;
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER teams_notify ON teams;
CREATE TRIGGER teams_notify_update AFTER UPDATE ON teams REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_scope('team');
CREATE TRIGGER teams_notify_delete AFTER DELETE ON teams REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_scope('team');

DROP TRIGGER organizations_notify ON organizations;
CREATE TRIGGER organizations_notify_update AFTER UPDATE ON organizations
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_scope('organization');
CREATE TRIGGER organizations_notify_delete AFTER DELETE ON organizations
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_notify_scope('organization');
"""


def upgrade() -> None:
    """Replace the triggers of keys, teams and organizations."""
    for statements in (NOTIFY, KEYS, SCOPES):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
