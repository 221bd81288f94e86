from __future__ import annotations

import io

import pytest
from rich.console import Console

from loadtest.prove_usage import Proof, prove

pytestmark = [pytest.mark.stack, pytest.mark.long]


@pytest.mark.timeout(240)
async def test_what_is_recorded_equals_what_was_produced_while_everything_fails() -> None:
    """`make prove-usage` in small: PostgreSQL stopped, workers and Envoy killed, under load."""
    proof = Proof(requests=600, concurrency=8, settle_seconds=6)
    verdict, load = await prove(proof, Console(file=io.StringIO()))

    assert verdict.faults == ()
    assert load.done == 600
    assert verdict.figures["reported"] > 100
    assert verdict.figures["estimated"] > 0
