"""A price is a number."""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# NaN is greater than 0 to PostgreSQL. One such cost would make NaN of each sum that it is in.
# A row that is there stays until it is changed, so that no installation fails to upgrade.
PRICES = """
ALTER TABLE prices ADD CONSTRAINT prices_are_numbers CHECK ('NaN' NOT IN (
    input_per_million, output_per_million, cached_input_per_million, cache_write_per_million,
    cache_write_hour_per_million, input_above_per_million, output_above_per_million,
    cached_input_above_per_million, cache_write_above_per_million,
    cache_write_hour_above_per_million)) NOT VALID;
"""


def upgrade() -> None:
    """A price could be NaN."""
    op.execute(PRICES)


def downgrade() -> None:
    """Refuse, as every migration does."""
    msg = "migrations go forward only: restore a backup, or write the next one"
    raise NotImplementedError(msg)
