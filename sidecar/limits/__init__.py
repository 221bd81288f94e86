"""May this request be made now: limits and budgets, taken ahead in leases."""
