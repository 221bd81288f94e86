"""Rate limits and budgets: shared counters, and leases that workers take of them ahead."""
