"""Prices of tokens that a provider's cache keeps for an hour."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# Prices have none of the new columns, and recorded requests no such tokens: they mean what they
# did.
PRICES = """
ALTER TABLE prices
    ADD COLUMN cache_write_hour_per_million numeric(14, 6)
        CHECK (cache_write_hour_per_million >= 0),
    ADD COLUMN cache_write_hour_above_per_million numeric(14, 6)
        CHECK (cache_write_hour_above_per_million >= 0),
    DROP CONSTRAINT prices_above_check,
    ADD CONSTRAINT prices_above_check CHECK (above_tokens IS NOT NULL = (num_nonnulls(
        input_above_per_million, output_above_per_million, cached_input_above_per_million,
        cache_write_above_per_million, cache_write_hour_above_per_million) > 0));
COMMENT ON COLUMN prices.cache_write_hour_per_million IS 'NULL: as others written to the cache';
"""

# Rows that are there have the default and need no look under a lock.
USAGE = """
ALTER TABLE usage ADD COLUMN cache_write_hour_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE usage ADD CONSTRAINT usage_cache_write_hour_tokens_check
    CHECK (cache_write_hour_tokens >= 0) NOT VALID;
COMMENT ON COLUMN usage.cache_write_hour_tokens IS
    'of cache_write_tokens: kept for an hour, where the provider''s answer was read';
"""


def upgrade() -> None:
    """A price had one amount for all that is written to a cache."""
    op.execute(PRICES)
    op.execute(USAGE)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
