"""Use of keys, prices of models, and usage records by month."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ACTIVITY = """
-- A table of its own: counting must neither bloat what authorization reads nor notify anybody.
-- Rows are updated in place for ever, hence the room left in each page.
CREATE TABLE key_activity (
    key_id text PRIMARY KEY,
    last_used_at timestamptz NOT NULL,
    requests bigint NOT NULL CHECK (requests >= 0),
    refused bigint NOT NULL CHECK (refused >= 0)
) WITH (fillfactor = 70);
COMMENT ON TABLE key_activity IS 'written in batches by workers, some seconds late';
COMMENT ON COLUMN key_activity.requests IS 'all requests that came with the key';
COMMENT ON COLUMN key_activity.refused IS 'those among them that were refused';

ALTER TABLE api_keys DROP COLUMN last_used_at;

CREATE FUNCTION egret_forget_activity() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    DELETE FROM key_activity AS a USING old_rows AS o WHERE a.key_id = o.public_id;
    RETURN NULL;
END $$;

-- Not a foreign key with ON DELETE CASCADE: a batch must not fail for one key that is gone.
CREATE TRIGGER api_keys_forget_activity AFTER DELETE
    ON api_keys REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION egret_forget_activity();
"""

PRICES = """
CREATE TABLE prices (
    model text NOT NULL CHECK (length(model) BETWEEN 1 AND 200),
    valid_from timestamptz NOT NULL DEFAULT now(),
    input_per_million numeric(14, 6) NOT NULL CHECK (input_per_million >= 0),
    output_per_million numeric(14, 6) NOT NULL CHECK (output_per_million >= 0),
    cached_input_per_million numeric(14, 6) CHECK (cached_input_per_million >= 0),
    currency text NOT NULL DEFAULT 'USD' CHECK (currency = 'USD'),
    PRIMARY KEY (model, valid_from)
);
COMMENT ON COLUMN prices.model IS 'a glob, as in allowed_models';
COMMENT ON COLUMN prices.input_per_million IS 'per 1,000,000 tokens';
COMMENT ON COLUMN prices.cached_input_per_million IS 'NULL: as input that was not cached';
"""

# No foreign keys: what was used stays on record when a key or a team is deleted.
USAGE = """
CREATE TABLE usage (
    occurred_at timestamptz NOT NULL,
    request_id text NOT NULL,
    key_id text NOT NULL,
    team_id text NOT NULL,
    organization_id text NOT NULL,
    operation text NOT NULL,
    provider text NOT NULL,
    request_model text,
    response_model text,
    status smallint NOT NULL,
    decision text NOT NULL CHECK (decision IN ('allow', 'redact', 'deny')),
    guardrails jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(guardrails) = 'object'),
    input_tokens bigint NOT NULL DEFAULT 0 CHECK (input_tokens >= 0),
    cached_input_tokens bigint NOT NULL DEFAULT 0 CHECK (cached_input_tokens >= 0),
    output_tokens bigint NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
    reasoning_tokens bigint NOT NULL DEFAULT 0 CHECK (reasoning_tokens >= 0),
    is_estimated boolean NOT NULL DEFAULT false,
    cost_usd numeric(18, 9),
    latency_ms double precision NOT NULL CHECK (latency_ms >= 0),
    first_token_ms double precision CHECK (first_token_ms >= 0),
    PRIMARY KEY (occurred_at, request_id)
) PARTITION BY RANGE (occurred_at);
COMMENT ON TABLE usage IS 'what requests used; never what they said';
COMMENT ON COLUMN usage.guardrails IS 'outcome by name of guardrail';
COMMENT ON COLUMN usage.is_estimated IS 'tokens were derived from bytes: the answer told none';
COMMENT ON COLUMN usage.cost_usd IS 'NULL: no price matched the model';

CREATE INDEX idx_usage_key_id_occurred_at ON usage (key_id, occurred_at);
CREATE INDEX idx_usage_team_id_occurred_at ON usage (team_id, occurred_at);

-- Nothing is lost where a month was never prepared; `egret doctor` tells of rows in here.
CREATE TABLE usage_default PARTITION OF usage DEFAULT;

CREATE FUNCTION egret_prepare_usage(months integer DEFAULT 3) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    made integer := 0;
    name text;
BEGIN
    IF months NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION 'months must be between 0 and 120' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('egret_usage', 0));
    FOR step IN 0 .. months LOOP
        name := 'usage_' || to_char(month, 'YYYY_MM');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF usage FOR VALUES FROM (%L) TO (%L)',
                name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION egret_prepare_usage(integer) IS
    'makes the partitions of this month and the next ones, and says how many were missing';
SELECT egret_prepare_usage(12);
"""

# A function that runs with its owner's rights looks up names in pg_catalog and in this schema, and
# in no temporary table of the caller's.
SEARCH_PATH = """
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['egret_forget_activity()', 'egret_prepare_usage(integer)'] LOOP
        EXECUTE 'ALTER FUNCTION ' || name
            || format(' SET search_path = %I, pg_temp', current_schema());
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION egret_prepare_usage(integer), egret_forget_activity() FROM PUBLIC;
"""

KEY_INDEXES = """
-- A team's keys with those that were revoked or rotated, and the check when a team is deleted.
CREATE INDEX idx_api_keys_team_id ON api_keys (team_id);
-- The check when a key is deleted.
CREATE INDEX idx_api_keys_replaced_by ON api_keys (replaced_by) WHERE replaced_by IS NOT NULL;
"""


def upgrade() -> None:
    """Make room for what workers report, and the indexes that a million keys need."""
    for statements in (ACTIVITY, PRICES, USAGE, SEARCH_PATH, KEY_INDEXES):
        op.execute(statements)


def downgrade() -> None:
    """Refuse: what was counted cannot be made up again."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
