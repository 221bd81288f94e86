"""What a key is for, its tags, and which change was the last."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Which operations there are is for Egret to know, not for the schema: a name that a worker does
# not know allows nothing.
SCOPES = """
ALTER TABLE api_keys
    ADD COLUMN allowed_operations text[],
    ADD COLUMN allowed_sources cidr[],
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT api_keys_allowed_operations_check CHECK (
        array_position(allowed_operations, NULL) IS NULL
        AND array_to_string(allowed_operations, ',') ~ '^([a-z_]{1,40}(,[a-z_]{1,40})*)?$'),
    ADD CONSTRAINT api_keys_allowed_sources_check CHECK (
        array_position(allowed_sources, NULL) IS NULL),
    ADD CONSTRAINT api_keys_tags_check CHECK (
        cardinality(tags) <= 20 AND array_position(tags, NULL) IS NULL
        AND array_to_string(tags, ',')
            ~ '^([a-z0-9][a-z0-9._:/=-]{0,62}(,[a-z0-9][a-z0-9._:/=-]{0,62})*)?$');
COMMENT ON COLUMN api_keys.allowed_operations IS 'NULL: every operation, unknown ones included';
COMMENT ON COLUMN api_keys.allowed_sources IS 'where clients may be; NULL: anywhere';
COMMENT ON COLUMN api_keys.tags IS 'for people and reports; decide nothing';

-- In the order in which keys are listed, page after page.
DROP INDEX idx_api_keys_team_id;
CREATE INDEX idx_api_keys_team_id ON api_keys (team_id, name, public_id);
CREATE INDEX idx_api_keys_tags ON api_keys USING gin (tags) WHERE tags <> '{}';
"""

NOTIFY = """
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
                   o.expires_at, o.revoked_at, o.allowed_models, o.policy_name,
                   o.allowed_operations, o.allowed_sources)
                IS DISTINCT FROM
                  (n.public_id, n.secret_sha256, n.team_id, n.enabled, n.not_before,
                   n.expires_at, n.revoked_at, n.allowed_models, n.policy_name,
                   n.allowed_operations, n.allowed_sources)
            LIMIT 101) AS few;
    END IF;
    IF cardinality(ids) > 100 THEN
        PERFORM egret_notify_change('*');
    ELSE
        PERFORM egret_notify_change(id) FROM unnest(ids) AS id;
    END IF;
    RETURN NULL;
END $$;
"""

# A worker that begins to listen asks which change was the last: what was read after all of them
# had ended is as good as read now. Older entries get this migration's own id, which is later.
LAST_CHANGE = """
ALTER TABLE audit_log ADD COLUMN transaction xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX idx_audit_log_transaction ON audit_log (transaction)
    WHERE object_type IN ('api_keys', 'teams', 'organizations');

CREATE FUNCTION egret_last_change() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT a.transaction::text::bigint FROM audit_log AS a
    WHERE a.object_type IN ('api_keys', 'teams', 'organizations')
    ORDER BY a.transaction DESC LIMIT 1
$$;
COMMENT ON FUNCTION egret_last_change() IS
    'the highest transaction id that changed a key, a team or an organization; NULL: not known';

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION egret_last_change() SET search_path = %I, pg_temp',
        current_schema());
END $$;
"""


def upgrade() -> None:
    """Every key stays as wide as it was."""
    for statements in (SCOPES, NOTIFY, LAST_CHANGE):
        op.execute(statements)


def downgrade() -> None:
    """Refuse: a key that was narrowed must not become wide again."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
