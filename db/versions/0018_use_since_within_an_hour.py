"""Use of limits since a time within an hour, and of a month by its days."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEXES = """
CREATE INDEX idx_usage_by_day_team_id ON usage_by_day (team_id, began_at);
CREATE INDEX idx_usage_by_day_organization_id ON usage_by_day (organization_id, began_at);
CREATE INDEX idx_usage_by_day_key_id ON usage_by_day (key_id, began_at);
"""

# Whole days, the hours before the first of them, and of the hour before those the requests since
# the time: time zones may be half an hour off. Requests are looked up by key, with its index; the
# sums of the hour name the keys. Models are as in `egret_roll_up`.
USED = """
CREATE OR REPLACE FUNCTION egret_used(level text, subject text, since timestamptz)
RETURNS TABLE (model text, requests bigint, input_tokens bigint, output_tokens bigint,
    cost_usd numeric) LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    owner text := CASE level WHEN 'key' THEN 'key_id' WHEN 'team' THEN 'team_id'
        WHEN 'organization' THEN 'organization_id' END;
    hour timestamptz := date_trunc('hour', since, 'UTC');
    rest text := '';
BEGIN
    IF hour < since THEN
        hour := hour + interval '1 hour';
        rest := $rest$
            UNION ALL
            SELECT COALESCE(r.response_model,
                CASE WHEN r.ended = 'blocked'
                        OR (r.ended <> 'refused' AND r.status BETWEEN 1 AND 399)
                    THEN r.request_model END, ''),
                1, r.input_tokens, r.output_tokens, COALESCE(r.cost_usd, 0)
            FROM usage AS r
            WHERE r.%1$I = $1 AND r.occurred_at >= $4 AND r.occurred_at < $2 AND r.key_id IN
                (SELECT h.key_id FROM usage_by_hour AS h
                WHERE h.%1$I = $1 AND h.began_at = $2 - interval '1 hour')
            $rest$;
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT u.model, sum(u.requests)::bigint, sum(u.input_tokens)::bigint,'
        ' sum(u.output_tokens)::bigint, sum(u.cost_usd) FROM ('
        ' SELECT d.model, d.requests, d.input_tokens, d.output_tokens, d.cost_usd'
        ' FROM usage_by_day AS d WHERE d.%1$I = $1 AND d.began_at >= $3 UNION ALL'
        ' SELECT h.model, h.requests, h.input_tokens, h.output_tokens, h.cost_usd'
        ' FROM usage_by_hour AS h WHERE h.%1$I = $1 AND h.began_at >= $2 AND h.began_at < $3'
        || rest || ') AS u GROUP BY u.model', owner)
        USING subject, hour, date_trunc('day', hour + interval '23 hours', 'UTC'), since;
END $$;
COMMENT ON FUNCTION egret_used(text, text, timestamptz) IS
    'use of a key, a team or an organization, by model, since a time';
"""

# A function that is replaced loses its settings, though not its grants.
SEARCH_PATH = """
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION egret_used(text, text, timestamptz) SET search_path = %I, '
        'pg_temp', current_schema());
END $$;
"""


def upgrade() -> None:
    """Count no use from before the time, and add days up, which are fewer rows than hours."""
    for statements in (INDEXES, USED, SEARCH_PATH):
        op.execute(statements)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
