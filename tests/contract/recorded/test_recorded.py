"""What leaves a worker, byte by byte, is what was recorded, for every request.

To record anew, after a change of behaviour that is meant:
`python -m tests.contract.recorded.record --write`, and look at the difference.
"""

from __future__ import annotations

import pytest

from tests.contract.recorded.groups import GROUPS
from tests.contract.recorded.kept import differences
from tests.contract.recorded.recorder import record_all
from tests.contract.recorded.server import running_stores

pytestmark = pytest.mark.long

SHOWN = 12


@pytest.mark.timeout(600)
async def test_every_conversation_goes_as_it_was_recorded() -> None:
    """Answers, statuses, log lines, metrics, spans and rows of usage are as recorded."""
    differing: list[str] = []
    async with running_stores() as stores:
        async for recorded in record_all(stores, GROUPS):
            for group, found in recorded:
                differing += differences(group, found)
    assert not differing, f"{len(differing)} differ\n" + "\n\n".join(differing[:SHOWN])


def test_there_are_conversations_enough() -> None:
    """The net is for every kind of request; a group that is lost would go unnoticed."""
    assert sum(len(group.conversations) for group in GROUPS) > 1_000
