from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.load import LoadError
from loadtest.soaking.samples import Outcome, ProcessSample, Sample, read_outcome
from loadtest.soaking.verdict import (
    Soak,
    is_long_enough,
    kind_grid,
    memory_slopes,
    slope,
    soak_figures,
    soak_grid,
    soak_plot,
    violations,
)

NAMES = ("supervisor", "worker 0", "worker 1", "envoy")
ZEROS = dict.fromkeys(
    (
        "egret_streams", "egret_connections", "egret_connections_lost", "requests_active",
        "requests", "answers_5xx", "streams_failed", "message_timeouts", "usage_logged",
        "usage_dropped", "in_flight", "tasks", "faults", "usage_lost", "worker_deaths",
        "unnamed", "unheard",
        "local_decisions",
    ),
    0,
)  # fmt: skip
COUNTS = {"answered": 0, "refused": 0, "aborted": 0, "bad": 0}
KINDS = {
    "aborted_at_once": {**COUNTS, "answered": 5, "aborted": 10},
    "unknown_key": {**COUNTS, "refused": 20},
    "whole": {**COUNTS, "answered": 960, "refused": 5},
}
OUTCOME = Outcome(KINDS, dropped=0, seconds=10, p50_ms=1, p99_ms=9)


def sample(at: float, *, rss: float = 100.0, files: int = 40, **counts: int) -> Sample:
    processes = {name: ProcessSample(rss, files, threads=9) for name in NAMES}
    return Sample(at, processes, {**ZEROS, **counts})


def soak(*, minutes: int = 30, mb_an_hour: float = 0.0, outcome: Outcome = OUTCOME) -> Soak:
    samples = [
        sample(10 * number, rss=100 + mb_an_hour * number / 360, requests=1000 * number)
        for number in range(6 * minutes + 1)
    ]
    return Soak(
        outcome=outcome,
        samples=samples,
        warm=sample(0, tasks=28),
        quiet=sample(minutes * 60 + 10, tasks=28, usage_logged=972),
        records={"completed": 967, "refused": 5, "lost": 3},
        slots=0,
        warm_up_seconds=minutes * 20,
    )


def test_a_soak_in_which_all_is_well_has_no_violation() -> None:
    """Requests that were broken off may have a record or none, and slow growth is no leak."""
    assert violations(soak()) == []
    assert violations(soak(mb_an_hour=15)) == []


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"in_flight": 1}, "1 exchanges are under judgement after the end"),
        ({"egret_streams": 2}, "2 streams from Envoy to Egret are open after the end"),
        ({"requests_active": 3}, "3 requests are open in Envoy after the end"),
        ({"faults": 4}, "4 faults of exchanges"),
        ({"answers_5xx": 5}, "5 answers of 500 and above"),
        ({"worker_deaths": 1}, "1 workers died"),
        ({"tasks": 33}, "33 tasks are left, 28 there were before"),
        ({"usage_logged": 971}, "972 usage records, 971 access log entries"),
    ],
)
def test_what_is_left_or_went_wrong_is_a_violation(counts: dict[str, int], said: str) -> None:
    """Each by itself, in words."""
    well = soak()
    quiet = replace(well.quiet, counts={**well.quiet.counts, **counts})
    assert violations(replace(well, quiet=quiet)) == [said]


def test_who_left_before_a_verdict_has_no_record_and_who_left_after_it_has() -> None:
    """Envoy tells of both alike."""
    well = soak()
    counts = {**well.quiet.counts, "usage_logged": 980, "unnamed": 11, "unheard": 3}
    assert violations(replace(well, quiet=replace(well.quiet, counts=counts))) == []


def test_files_that_stay_open_are_a_violation() -> None:
    """In any process that is watched; a few more may be a pool's."""
    well = soak()
    some = {name: ProcessSample(100, 44, threads=9) for name in NAMES}
    many = {**some, "worker 1": ProcessSample(100, 45, threads=9)}
    assert violations(replace(well, quiet=replace(well.quiet, processes=some))) == []
    assert violations(replace(well, quiet=replace(well.quiet, processes=many))) == [
        "worker 1 has 45 files open, 40 there were before"
    ]


def test_slots_and_records_that_do_not_add_up_are_violations() -> None:
    """A slot nobody gives back, a request without a record, more lost than were broken off."""
    well = soak()
    assert violations(replace(well, slots=2)) == [
        "2 slots of concurrent requests are held after the end"
    ]
    assert violations(replace(well, records={"completed": 960})) == [
        "960 usage records for 970 to 980 requests of known keys",
        "960 usage records, 972 access log entries",
    ]
    assert violations(replace(well, records={"completed": 969, "lost": 11})) == [
        "11 usage records are declared lost, 10 requests were broken off",
        "969 usage records, 972 access log entries",
    ]


def test_requests_that_fail_or_are_never_sent_are_violations() -> None:
    """Also a kind of which nothing has an expected outcome: the mix was not what was said."""
    failing = {**KINDS, "stream": {**COUNTS, "bad": 7}}
    outcome = replace(OUTCOME, by_kind=failing, dropped=100)
    assert violations(soak(outcome=outcome)) == [
        "7 requests of kind stream have an unexpected outcome",
        "no request of kind stream has an expected outcome",
        "9.0% of the load was not sent: no connection was free",
    ]


def test_memory_that_grows_is_a_leak_once_the_soak_is_long_enough() -> None:
    """Every process of Egret's is judged by itself; Envoy is not ours."""
    leaking = soak(mb_an_hour=25)
    assert violations(leaking) == [
        f"the memory of {name} grows by 25.0 MB an hour" for name in NAMES[:3]
    ]
    short = soak(minutes=3, mb_an_hour=25)
    assert (is_long_enough(leaking), is_long_enough(short)) == (True, False)
    assert violations(short) == []


def test_a_slope_is_that_of_the_line_with_its_error() -> None:
    """Values a second, said an hour; noise makes the error, not the slope."""
    exact = slope([(x, 2 * x) for x in range(10)])
    noisy = slope([(0, 0), (1, 3), (2, 3), (3, 6)])
    assert exact.an_hour == pytest.approx(7200)
    assert exact.error == pytest.approx(0, abs=1e-6)
    assert noisy.an_hour == pytest.approx(1.8 * 3600)
    # Residues -0.3, 0.9, -0.9, 0.3: their squares are 1.8, over two degrees, over a spread of 5.
    assert noisy.error == pytest.approx((1.8 / 2 / 5) ** 0.5 * 3600)


@pytest.mark.parametrize("points", [[(0.0, 1.0), (1.0, 2.0)], [(1.0, 1.0)] * 3])
def test_a_line_takes_three_points_at_different_times(points: list[tuple[float, float]]) -> None:
    """Of fewer nothing can be said."""
    with pytest.raises(ValueError, match="points"):
        slope(points)


def test_growth_while_caches_fill_is_no_slope() -> None:
    """Only what comes after the warm-up is judged."""
    well = soak()
    samples = [
        sample(one.at, rss=min(100.0, one.at / 6)) if one.at < well.warm_up_seconds else one
        for one in well.samples
    ]
    lines = memory_slopes(replace(well, samples=samples))
    assert {name: line.an_hour for name, line in lines.items()} == dict.fromkeys(NAMES[:3], 0)


def test_a_summary_is_read_by_kind_and_outcome() -> None:
    """Counters that never came up are not in it; k6's own metrics end in other words."""
    values = {
        "whole_answered": {"count": 9}, "whole_bad": {"count": 1}, "unknown_key_refused":
        {"count": 2}, "http_reqs": {"count": 12}, "dropped_iterations": {"count": 3},
        "http_req_duration": {"med": 1.5, "p(99)": 7.0},
    }  # fmt: skip
    summary = {"metrics": {name: {"values": one} for name, one in values.items()}}
    seen = read_outcome(summary, seconds=2)
    assert seen == Outcome(
        by_kind={
            "unknown_key": {**COUNTS, "refused": 2},
            "whole": {**COUNTS, "answered": 9, "bad": 1},
        },
        dropped=3,
        seconds=2,
        p50_ms=1.5,
        p99_ms=7.0,
    )
    assert (seen.requests, seen.rps, seen.total("refused", strangers=False)) == (12, 5.5, 0)
    with pytest.raises(LoadError):
        read_outcome({"metrics": {}}, seconds=2)


def test_a_soak_is_shown_as_figures_tables_and_a_picture(tmp_path: Path) -> None:
    """The figures have what the verdict was made of."""
    well = soak(mb_an_hour=6)
    figures = soak_figures(well)
    some = ("minutes", "rps", "usage_records", "worker_0.rss_mb_an_hour", "end.tasks", "whole.bad")
    assert [figures.get(name) for name in some] == [30, 100, 975, pytest.approx(6), 28, None]
    assert soak_grid(well, []).rows == [
        ["30", "100", "1,000", "0", "1.0", "9.0", "100", "+6.0 ± 0.0",
         "40→40 40→40", "28→28", "0"]
    ]  # fmt: skip
    assert kind_grid(well).rows[0] == ["aborted_at_once", "5", "0", "10", "0"]
    soak_plot(well, title="100 requests/s", path=tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
