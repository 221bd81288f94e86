from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Searching takes its time, above all beside another process and under coverage."""
    item.add_marker(pytest.mark.timeout(300))
