"""Renders migrations to SQL. `egret migrate` runs what this renders through asyncpg.

So there is one driver for PostgreSQL, everything that is pending goes into one transaction, and
what is run can be read first (`egret migrate --sql`).
"""

from __future__ import annotations

from alembic import context

if not context.is_offline_mode():
    msg = "migrations are applied by `egret migrate`, which takes a lock; not by `alembic upgrade`"
    raise SystemExit(msg)

# Any paramstyle but PostgreSQL drivers' own would do: theirs would double each percent sign.
context.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"})
context.run_migrations()
