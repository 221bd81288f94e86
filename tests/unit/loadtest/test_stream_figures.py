from __future__ import annotations

import pytest

from loadtest.streams.clients import Seen, StreamCell, StreamLoad, added, holds, stream_figures

MS = 1_000_000
LOAD = StreamLoad(streams=1, rate=50, seconds=8.0, stream_seconds=8.0)


def cell(
    *, delay_ms: int = 3, growth_ms: int = 0, every: int = 1, waits: bool = False
) -> StreamCell:
    """Return a stream of 8 s; each event takes so long, the last so much longer.

    With *waits* each event comes with the next one.
    """
    seen = Seen(steady=-MS, until=8_000 * MS)
    sent = [number * 20 * MS for number in range(0, 400, every)]
    marks = []
    for place, one in enumerate(sent):
        released = sent[min(place + 1, len(sent) - 1)] if waits else one
        marks.append((one, released + delay_ms * MS + growth_ms * MS * place // len(sent)))
    seen.add(marks, asked=-MS)
    return StreamCell(LOAD, seen, worker_cpu_seconds=0.04, envoy_cpu_seconds=0.02)


def test_what_clients_and_the_kernel_saw_becomes_figures_a_chunk() -> None:
    """In milliseconds and microseconds."""
    figures = stream_figures(cell())
    assert figures["ttft_p50_ms"] == pytest.approx(4)
    assert figures["first_word_p50_ms"] == pytest.approx(24)
    assert figures["delay_p50_ms"] == figures["release_p95_ms"] == pytest.approx(3)
    assert figures["growth_ms"] == 0
    assert figures["chunks_per_s"] == pytest.approx(50, rel=0.01)
    assert figures["worker_cpu_us_per_chunk"] == pytest.approx(100)
    assert figures["envoy_cpu_us_per_chunk"] == pytest.approx(50)


def test_an_event_that_waits_for_the_next_is_told_from_one_that_takes_long() -> None:
    """Held is since it was sent; our own time is since there was nothing left to wait for."""
    figures = stream_figures(cell(waits=True))
    assert figures["delay_p50_ms"] == pytest.approx(23)
    assert figures["release_p50_ms"] == pytest.approx(3)


def test_what_is_added_is_the_difference_to_envoy_alone() -> None:
    """At each percentile."""
    figures = added(stream_figures(cell(delay_ms=5)), stream_figures(cell(delay_ms=3)))
    assert figures["added_delay_p50_ms"] == figures["added_ttft_p95_ms"] == pytest.approx(2)


def test_a_rate_holds_while_all_comes_and_nothing_comes_later_and_later() -> None:
    """Nor does any stream fail."""
    assert holds(cell())
    assert not holds(cell(growth_ms=20))
    assert not holds(cell(every=2))
    broken = cell()
    broken.seen.failed = 1
    assert not holds(broken)
