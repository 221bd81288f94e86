from __future__ import annotations

import pytest

from evaluation.intervals import Share, Tally
from evaluation.roc import roc_points


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        pytest.param(0, 100, 0.0, 0.037, id="none"),
        pytest.param(100, 100, 0.963, 1.0, id="all"),
        pytest.param(50, 100, 0.404, 0.596, id="half"),
        pytest.param(0, 0, 0.0, 1.0, id="of nothing"),
    ],
)
def test_an_interval_is_wilsons(count: int, total: int, low: float, high: float) -> None:
    """Figures from the formula of 1927, which holds near 0 and 1 too."""
    assert Share(count, total).interval == pytest.approx((low, high), abs=5e-4)


def test_a_tally_gives_precision_recall_and_f1() -> None:
    """Eight of ten found, two reports wrong."""
    tally = Tally(found=8, missed=2, wrong=2)
    assert (tally.precision.value, tally.recall.value, tally.f1) == (0.8, 0.8, 0.8)
    assert Tally(0, 0, 0).f1 == 0
    assert str(tally.recall) == "0.800 [0.490, 0.943]"


def test_a_curve_goes_from_the_strictest_threshold_to_the_laxest() -> None:
    """Texts of the same score are decided together."""
    rates, recalls = roc_points([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    assert rates == [0, 0, 0.5, 1]
    assert recalls == [0, 0.5, 1, 1]
