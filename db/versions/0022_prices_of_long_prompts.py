"""Prices of requests with long prompts."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# Prices without a length have none of the other columns, so that they mean what they did.
PRICES = """
ALTER TABLE prices
    ADD COLUMN above_tokens bigint CHECK (above_tokens > 0),
    ADD COLUMN input_above_per_million numeric(14, 6) CHECK (input_above_per_million >= 0),
    ADD COLUMN output_above_per_million numeric(14, 6) CHECK (output_above_per_million >= 0),
    ADD COLUMN cached_input_above_per_million numeric(14, 6)
        CHECK (cached_input_above_per_million >= 0),
    ADD COLUMN cache_write_above_per_million numeric(14, 6)
        CHECK (cache_write_above_per_million >= 0),
    ADD CONSTRAINT prices_above_check CHECK (above_tokens IS NOT NULL = (num_nonnulls(
        input_above_per_million, output_above_per_million, cached_input_above_per_million,
        cache_write_above_per_million) > 0));
COMMENT ON COLUMN prices.above_tokens IS
    'a request with more tokens of input has the prices above; NULL: one price for all';
COMMENT ON COLUMN prices.input_above_per_million IS 'NULL, as of the others: as below';
"""


def upgrade() -> None:
    """A price had no second one for long prompts."""
    op.execute(PRICES)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
