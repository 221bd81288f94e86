"""Cases that run on one engine have a reason."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[2]
REASONS = TESTS / "support" / "engines.py"


def test_a_case_that_runs_on_one_engine_takes_its_reason_from_the_table() -> None:
    """The marker itself stands nowhere else."""
    marker = "pytest.mark." + "any_engine"
    found = [file for file in TESTS.rglob("*.py") if marker in file.read_text(encoding="utf-8")]
    assert found == [REASONS]
