"""Limits and budgets of keys, teams and organizations, and how important a key is."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# With their owner, so that one statement reads them with the key, and whatever tells workers of a
# change to an owner tells of a change to its limits.
LIMITS = """
ALTER TABLE organizations ADD COLUMN limits jsonb NOT NULL DEFAULT '[]',
    ADD CONSTRAINT organizations_limits_check CHECK (jsonb_typeof(limits) = 'array');
ALTER TABLE teams ADD COLUMN limits jsonb NOT NULL DEFAULT '[]',
    ADD CONSTRAINT teams_limits_check CHECK (jsonb_typeof(limits) = 'array');
ALTER TABLE api_keys ADD COLUMN limits jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN priority text NOT NULL DEFAULT 'standard',
    ADD CONSTRAINT api_keys_limits_check CHECK (jsonb_typeof(limits) = 'array'),
    ADD CONSTRAINT api_keys_priority_check
        CHECK (priority IN ('interactive', 'standard', 'batch'));
COMMENT ON COLUMN api_keys.limits IS 'as sidecar/limits/written.py reads them; [] is none';
COMMENT ON COLUMN api_keys.priority IS 'who keeps capacity when a shared limit runs short';
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
                   o.allowed_operations, o.allowed_sources, o.limits, o.priority)
                IS DISTINCT FROM
                  (n.public_id, n.secret_sha256, n.team_id, n.enabled, n.not_before,
                   n.expires_at, n.revoked_at, n.allowed_models, n.policy_name,
                   n.allowed_operations, n.allowed_sources, n.limits, n.priority)
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

# By the sums of hours, as a worker may read no single record.
USED = """
CREATE INDEX idx_usage_by_hour_team_id ON usage_by_hour (team_id, began_at);
CREATE INDEX idx_usage_by_hour_organization_id ON usage_by_hour (organization_id, began_at);
CREATE INDEX idx_usage_by_hour_key_id ON usage_by_hour (key_id, began_at);

CREATE FUNCTION egret_used(level text, subject text, since timestamptz)
RETURNS TABLE (model text, requests bigint, input_tokens bigint, output_tokens bigint,
    cost_usd numeric) LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    owner text := CASE level WHEN 'key' THEN 'key_id' WHEN 'team' THEN 'team_id'
        WHEN 'organization' THEN 'organization_id' END;
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT u.model, sum(u.requests)::bigint, sum(u.input_tokens)::bigint,'
        ' sum(u.output_tokens)::bigint, sum(u.cost_usd) FROM usage_by_hour AS u'
        ' WHERE u.%I = $1 AND u.began_at >= date_trunc(''hour'', $2, ''UTC'') GROUP BY u.model',
        owner) USING subject, since;
END $$;
COMMENT ON FUNCTION egret_used(text, text, timestamptz) IS
    'what a key, a team or an organization has used, by model, since the hour of a time';

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION egret_used(text, text, timestamptz) SET search_path = %I, '
        'pg_temp', current_schema());
END $$;
REVOKE EXECUTE ON FUNCTION egret_used(text, text, timestamptz) FROM PUBLIC;
"""

# What 0008 grants, and what is new here.
GRANTS = """
CREATE OR REPLACE FUNCTION egret_grant() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO egret_sidecar, egret_admin', current_schema());

    GRANT SELECT ON alembic_version, organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_sidecar, egret_admin;

    -- A batch that is written twice is known by its time and id, which takes reading those.
    GRANT INSERT ON usage TO egret_sidecar;
    GRANT SELECT (occurred_at, request_id) ON usage TO egret_sidecar;
    GRANT SELECT, INSERT, UPDATE ON key_activity TO egret_sidecar;
    GRANT EXECUTE ON FUNCTION egret_usage_found(timestamptz[], text[]) TO egret_sidecar;

    GRANT INSERT, UPDATE, DELETE ON organizations, teams, api_keys, policies, policy_versions,
        prices TO egret_admin;
    GRANT SELECT ON usage, usage_by_hour, usage_by_day, key_activity, audit_log TO egret_admin;
    GRANT EXECUTE ON FUNCTION egret_drop_usage(integer) TO egret_admin;

    GRANT EXECUTE ON FUNCTION egret_prepare_usage(integer) TO egret_sidecar, egret_admin;
    GRANT EXECUTE ON FUNCTION egret_used(text, text, timestamptz) TO egret_sidecar, egret_admin;
END $$;
SELECT egret_set_up_roles();
"""


def upgrade() -> None:
    """Nobody has a limit yet."""
    for statements in (LIMITS, NOTIFY, USED, GRANTS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse: what was limited must not become unlimited."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
