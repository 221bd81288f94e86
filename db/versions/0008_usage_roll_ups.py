"""Usage: how an answer ended, what the provider calls it, sums by hour and day, retention."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE prices
    ADD COLUMN cache_write_per_million numeric(14, 6) CHECK (cache_write_per_million >= 0);
COMMENT ON COLUMN prices.cache_write_per_million IS
    'of input that the provider''s cache took; NULL: as other input';

ALTER TABLE usage
    ALTER COLUMN operation DROP NOT NULL,
    ALTER COLUMN provider DROP NOT NULL,
    ADD COLUMN ended text NOT NULL DEFAULT 'completed'
        CHECK (ended IN ('completed', 'client_aborted', 'failed', 'refused', 'lost')),
    ADD COLUMN is_streamed boolean NOT NULL DEFAULT false,
    ADD COLUMN cache_write_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_write_tokens >= 0),
    ADD COLUMN provider_request_id text;
COMMENT ON COLUMN usage.status IS '0: the client left before an answer began';
COMMENT ON COLUMN usage.ended IS 'lost: let through, and then nobody told how it ended';
COMMENT ON COLUMN usage.cached_input_tokens IS 'of input_tokens: read from the provider''s cache';
COMMENT ON COLUMN usage.cache_write_tokens IS 'of input_tokens: written to the provider''s cache';
COMMENT ON COLUMN usage.reasoning_tokens IS 'of output_tokens';
COMMENT ON COLUMN usage.provider_request_id IS 'what the provider calls the request';
COMMENT ON COLUMN usage.is_estimated IS 'tokens were derived from bytes: the provider told none';
"""

ROLL_UP_TABLE = """
CREATE TABLE {table} (
    began_at timestamptz NOT NULL,
    key_id text NOT NULL,
    team_id text NOT NULL,
    organization_id text NOT NULL,
    model text NOT NULL,
    requests bigint NOT NULL,
    refused bigint NOT NULL,
    failed bigint NOT NULL,
    estimated bigint NOT NULL,
    unpriced bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_usd numeric(24, 9) NOT NULL,
    PRIMARY KEY (began_at, key_id, team_id, model)
) WITH (fillfactor = 70);
COMMENT ON TABLE {table} IS 'sums of usage by {unit} (UTC); a trigger keeps them';
COMMENT ON COLUMN {table}.model IS
    'that answered, or was asked for with success; empty for what came to no answer';
COMMENT ON COLUMN {table}.unpriced IS 'requests with tokens of a model without a price';
"""

# In the order of the primary key, so that two workers that add to the same rows wait for each
# other and do not deadlock.
ROLL_UP = """
CREATE FUNCTION egret_roll_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    rows text := CASE TG_OP WHEN 'INSERT' THEN 'new_rows' ELSE 'old_rows' END;
    sign integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
    unit text;
BEGIN
    FOREACH unit IN ARRAY ARRAY['hour', 'day'] LOOP
        EXECUTE format($roll$
            INSERT INTO %1$I AS s
            SELECT date_trunc(%2$L, occurred_at, 'UTC'), key_id, team_id, min(organization_id),
                COALESCE(response_model,
                    CASE WHEN ended <> 'refused' AND status BETWEEN 1 AND 399
                        THEN request_model END, ''),
                $1 * count(*),
                $1 * count(*) FILTER (WHERE ended = 'refused'),
                $1 * count(*) FILTER (WHERE ended IN ('failed', 'lost') OR status >= 500),
                $1 * count(*) FILTER (WHERE is_estimated),
                $1 * count(*) FILTER (WHERE cost_usd IS NULL AND input_tokens + output_tokens > 0),
                $1 * sum(input_tokens), $1 * sum(cached_input_tokens),
                $1 * sum(cache_write_tokens), $1 * sum(output_tokens),
                $1 * sum(reasoning_tokens), $1 * COALESCE(sum(cost_usd), 0)
            FROM %3$I GROUP BY 1, 2, 3, 5 ORDER BY 1, 2, 3, 5
            ON CONFLICT (began_at, key_id, team_id, model) DO UPDATE SET
                requests = s.requests + EXCLUDED.requests,
                refused = s.refused + EXCLUDED.refused,
                failed = s.failed + EXCLUDED.failed,
                estimated = s.estimated + EXCLUDED.estimated,
                unpriced = s.unpriced + EXCLUDED.unpriced,
                input_tokens = s.input_tokens + EXCLUDED.input_tokens,
                cached_input_tokens = s.cached_input_tokens + EXCLUDED.cached_input_tokens,
                cache_write_tokens = s.cache_write_tokens + EXCLUDED.cache_write_tokens,
                output_tokens = s.output_tokens + EXCLUDED.output_tokens,
                reasoning_tokens = s.reasoning_tokens + EXCLUDED.reasoning_tokens,
                cost_usd = s.cost_usd + EXCLUDED.cost_usd
            $roll$, 'usage_by_' || unit, unit, rows) USING sign;
    END LOOP;
    RETURN NULL;
END $$;

-- Not AFTER TRUNCATE, and dropping a month fires nothing: sums outlive what they are sums of.
CREATE TRIGGER usage_roll_up_insert AFTER INSERT ON usage REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_roll_up();
CREATE TRIGGER usage_roll_up_delete AFTER DELETE ON usage REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_roll_up();
"""

FOUND_AGAIN = """
CREATE FUNCTION egret_usage_found(times timestamptz[], ids text[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    forgotten integer;
BEGIN
    DELETE FROM usage AS u USING unnest(times, ids) AS f (occurred_at, request_id)
    WHERE u.occurred_at = f.occurred_at AND u.request_id = f.request_id AND u.ended = 'lost';
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END $$;
COMMENT ON FUNCTION egret_usage_found(timestamptz[], text[]) IS
    'forgets requests that were taken for lost, so that what is now known takes their place';
"""

RETENTION = """
CREATE FUNCTION egret_drop_usage(months integer) RETURNS text[]
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
        dropped := dropped || name;
    END LOOP;
    RETURN dropped;
END $$;
COMMENT ON FUNCTION egret_drop_usage(integer) IS
    'drops the months before the last *months* whole ones; sums by hour and day stay';
"""

SEARCH_PATH = """
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['egret_roll_up()', 'egret_usage_found(timestamptz[], text[])',
            'egret_drop_usage(integer)'] LOOP
        EXECUTE 'ALTER FUNCTION ' || name
            || format(' SET search_path = %I, pg_temp', current_schema());
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END $$;
"""

# What 0005 grants, and what is new here.
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
END $$;
SELECT egret_set_up_roles();
"""


def upgrade() -> None:
    """Add what a report of usage needs to be quick and to be right."""
    op.execute(COLUMNS)
    for unit in ("hour", "day"):
        op.execute(ROLL_UP_TABLE.format(table=f"usage_by_{unit}", unit=unit))
    for statements in (ROLL_UP, FOUND_AGAIN, RETENTION, SEARCH_PATH, GRANTS):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
