"""Usage: an answer that was blocked has been produced, and is told from a request that was not."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Wider than what it takes the place of: rows that are there need no second look under a lock.
ENDED = """
ALTER TABLE usage
    DROP CONSTRAINT usage_ended_check,
    ADD CONSTRAINT usage_ended_check CHECK (ended IN
        ('completed', 'client_aborted', 'failed', 'refused', 'blocked', 'lost')) NOT VALID;
COMMENT ON COLUMN usage.ended IS
    'refused: the provider never saw the request; blocked: it had answered;'
    ' lost: let through, and then nobody told how it ended';
"""

# As 0008 has it, but for `blocked`: refused as well, by its model, and with its tokens.
ROLL_UP = """
CREATE OR REPLACE FUNCTION egret_roll_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
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
                    CASE WHEN ended = 'blocked'
                            OR (ended <> 'refused' AND status BETWEEN 1 AND 399)
                        THEN request_model END, ''),
                $1 * count(*),
                $1 * count(*) FILTER (WHERE ended IN ('refused', 'blocked')),
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
"""

# What is replaced forgets its settings, though not its grants.
SEARCH_PATH = """
DO $$
BEGIN
    EXECUTE 'ALTER FUNCTION egret_roll_up()'
        || format(' SET search_path = %I, pg_temp', current_schema());
END $$;
"""


def upgrade() -> None:
    """Let a record say that its answer was blocked."""
    for statements in (ENDED, ROLL_UP, SEARCH_PATH):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
