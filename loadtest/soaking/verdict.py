"""Verdict on a soak: slopes of memory, violations, tables and the plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.results import Grid
from loadtest.soaking.samples import Outcome, Sample

MINUTE: Final = 60.0


def soak_figures(soak: Soak) -> dict[str, float]:
    """Return flat figures, as the result file has them."""
    outcome = soak.outcome
    figures: dict[str, float] = {
        "minutes": (soak.samples[-1].at - soak.samples[0].at) / MINUTE,
        "rps": outcome.rps,
        "requests": outcome.requests,
        "dropped": outcome.dropped,
        "p50_ms": outcome.p50_ms,
        "p99_ms": outcome.p99_ms,
        "usage_records": sum(soak.records.values()),
        "usage_lost": soak.records.get("lost", 0),
        "slots": soak.slots,
    }
    for kind, counts in outcome.by_kind.items():
        figures |= {f"{kind}.{name}": count for name, count in counts.items() if count}
    for name, before in soak.warm.processes.items():
        after, key = soak.quiet.processes[name], name.replace(" ", "_")
        figures |= {
            f"{key}.rss_mb_warm": before.rss_mb,
            f"{key}.rss_mb_end": after.rss_mb,
            f"{key}.files_warm": before.files,
            f"{key}.files_end": after.files,
        }
    for name, line in memory_slopes(soak).items():
        key = name.replace(" ", "_")
        figures |= {
            f"{key}.rss_mb_an_hour": line.an_hour,
            f"{key}.rss_mb_an_hour_error": line.error,
        }
    figures["tasks_warm"] = soak.warm.counts["tasks"]
    return figures | {f"end.{name}": count for name, count in soak.quiet.counts.items()}


def soak_grid(soak: Soak, faults: list[str]) -> Grid:
    """Return the one line that goes into the page."""
    slopes = [line for name, line in memory_slopes(soak).items() if name.startswith("worker")]
    steepest = max(slopes, key=lambda line: line.an_hour)
    workers = [
        (before, soak.quiet.processes[name])
        for name, before in soak.warm.processes.items()
        if name.startswith("worker")
    ]
    row = [
        f"{(soak.samples[-1].at - soak.samples[0].at) / MINUTE:.0f}",
        f"{soak.outcome.rps:,.0f}",
        f"{soak.outcome.requests:,}",
        f"{soak.outcome.total('bad')}",
        f"{soak.outcome.p50_ms:.1f}",
        f"{soak.outcome.p99_ms:.1f}",
        f"{max(after.rss_mb for _, after in workers):.0f}",
        f"{steepest.an_hour:+.1f} ± {2 * steepest.error:.1f}",
        " ".join(f"{before.files}→{after.files}" for before, after in workers),
        f"{soak.warm.counts['tasks']}→{soak.quiet.counts['tasks']}",
        f"{len(faults)}",
    ]
    columns = (
        "minutes", "RPS", "requests", "bad", "p50 ms", "p99 ms", "RSS MB",
        "MB an hour", "files", "tasks", "violations",
    )  # fmt: skip
    return Grid("Soak", columns, [row])


def kind_grid(soak: Soak) -> Grid:
    """Return the outcomes of each kind of request."""
    rows = [
        [kind, *(f"{counts[name]:,}" for name in ("answered", "refused", "aborted", "bad"))]
        for kind, counts in soak.outcome.by_kind.items()
    ]
    return Grid("Requests", ("kind", "answered", "refused", "broken off", "bad"), rows)


def soak_plot(soak: Soak, *, title: str, path: Path) -> None:
    """Draw memory, throughput, open files and tasks over time."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second

    begin = soak.samples[0].at
    minutes = [(one.at - begin) / MINUTE for one in soak.samples]
    figure = Figure(figsize=(8, 8), layout="constrained")
    memory, rate, left = figure.subplots(3, sharex=True)
    for name in soak.warm.processes:
        memory.plot(minutes, [one.processes[name].rss_mb for one in soak.samples], label=name)
        if name != "envoy":
            files = [one.processes[name].files for one in soak.samples]
            left.plot(minutes, files, label=f"{name}, files")
    memory.axvspan(0, soak.warm_up_seconds / MINUTE, alpha=0.1, color="grey")
    memory.set(ylabel="RSS, MB", title=title)
    pairs = list(zip(soak.samples, soak.samples[1:], strict=False))
    requests = [
        (b.counts["requests"] - a.counts["requests"]) / max(b.at - a.at, 1e-9) for a, b in pairs
    ]
    rate.plot(minutes[1:], requests, label="requests a second")
    rate.plot(minutes, [one.counts["in_flight"] for one in soak.samples], label="under judgement")
    rate.set(ylabel="requests", ylim=(0, None))
    left.plot(minutes, [one.counts["tasks"] for one in soak.samples], label="tasks")
    connections = [one.counts["egret_connections"] for one in soak.samples]
    left.plot(minutes, connections, label="connections from Envoy")
    left.set(xlabel="minutes", ylabel="open", ylim=(0, None))
    for axes in (memory, rate, left):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


HOUR: Final = 3600.0
LEAK_MB_AN_HOUR: Final = 20.0
"""At a thousand requests a second this is six bytes a request. A request that leaks leaves some
hundred: then one request in fifty that leaks is seen."""
LEAST_SECONDS: Final = 1000.0
"""Shorter soaks cannot distinguish a leak from a process that still warms up."""
MAX_DROPPED: Final = 0.01
"""If a larger share of requests was dropped, the load was not the planned one."""
SLACK: Final = 4
"""A pool may have opened another connection, a loop have a timer's task under way."""
WATCHED: Final = ("files", "threads")
_NONE_LEFT: Final = {
    "in_flight": "exchanges are under judgement",
    "egret_streams": "streams from Envoy to Egret are open",
    "requests_active": "requests are open in Envoy",
}
_NEVER: Final = {
    "answers_5xx": "answers of 500 and above",
    "streams_failed": "ext_proc streams failed",
    "message_timeouts": "ext_proc messages came too late",
    "egret_connections_lost": "connections to workers were lost with requests on them",
    "faults": "faults of exchanges",
    "usage_lost": "usage records lost",
    "usage_dropped": "usage records that Envoy dropped",
    "worker_deaths": "workers died",
}


@dataclass(frozen=True, slots=True)
class Soak:
    """All that was seen. `warm` and `quiet` are of moments without load, before and after it.

    `records` are those of usage by how their answers ended, `slots` those held in Valkey at the
    end, except for requests without a reported end.
    The first `warm_up_seconds` of `samples` are for caches and pools to fill.
    """

    outcome: Outcome
    samples: Sequence[Sample]
    warm: Sample
    quiet: Sample
    records: Mapping[str, int]
    slots: int
    warm_up_seconds: float


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples, and the standard error of its slope; both an hour."""

    an_hour: float
    error: float


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Return the line of least squares through seconds and values.

    Raises:
        ValueError: fewer than three points, or all at one moment.
    """
    count = len(points)
    if count < 3:  # noqa: PLR2004 - two points always lie on a line
        raise ValueError("too few points for a slope")
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        raise ValueError("all points are at one moment")
    steepness = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    residue = sum((y - mean_y - steepness * (x - mean_x)) ** 2 for x, y in points)
    return Slope(steepness * HOUR, math.sqrt(residue / (count - 2) / spread) * HOUR)


def memory_slopes(soak: Soak) -> dict[str, Slope]:
    """Return how the memory of each process of Egret's grows, in MB, once it is warm."""
    begin = soak.samples[0].at + soak.warm_up_seconds
    judged = [sample for sample in soak.samples if sample.at >= begin]
    return {
        name: slope([(one.at, one.processes[name].rss_mb) for one in judged])
        for name in soak.warm.processes
        if name != "envoy"
    }


def is_long_enough(soak: Soak) -> bool:
    """Say whether slopes mean anything."""
    return soak.samples[-1].at - soak.samples[0].at - soak.warm_up_seconds >= LEAST_SECONDS


def violations(soak: Soak) -> list[str]:
    """Return the violations, a sentence each."""
    return [
        *_of_load(soak.outcome),
        *_of_counts(soak.warm.counts, soak.quiet.counts),
        *_of_processes(soak),
        *_of_memory(soak),
        *_of_usage(soak),
    ]


def _of_load(outcome: Outcome) -> Iterator[str]:
    for kind, counts in outcome.by_kind.items():
        if counts["bad"]:
            yield f"{counts['bad']} requests of kind {kind} have an unexpected outcome"
        if not any(counts[one] for one in ("answered", "refused", "aborted")):
            yield f"no request of kind {kind} has an expected outcome"
    share = outcome.dropped / (outcome.requests + outcome.dropped)
    if share > MAX_DROPPED:
        yield f"{share:.1%} of the load was not sent: no connection was free"


def _of_counts(warm: Mapping[str, int], quiet: Mapping[str, int]) -> Iterator[str]:
    for name, text in _NONE_LEFT.items():
        if quiet[name]:
            yield f"{quiet[name]} {text} after the end"
    for name, text in _NEVER.items():
        if quiet[name] > warm[name]:
            yield f"{quiet[name] - warm[name]} {text}"
    if quiet["tasks"] > warm["tasks"] + SLACK:
        yield f"{quiet['tasks']} tasks are left, {warm['tasks']} there were before"


def _of_processes(soak: Soak) -> Iterator[str]:
    for name, before in soak.warm.processes.items():
        after = soak.quiet.processes[name]
        for kind in WATCHED:
            if getattr(after, kind) > getattr(before, kind) + SLACK:
                yield (
                    f"{name} has {getattr(after, kind)} {kind} open,"
                    f" {getattr(before, kind)} there were before"
                )


def _of_memory(soak: Soak) -> Iterator[str]:
    if not is_long_enough(soak):
        return
    for name, line in memory_slopes(soak).items():
        # Twice its error is taken off: possible noise is not called a leak.
        if line.an_hour - 2 * line.error > LEAK_MB_AN_HOUR:
            yield f"the memory of {name} grows by {line.an_hour:.1f} MB an hour"


def _of_usage(soak: Soak) -> Iterator[str]:
    """A client may break off before its key was read: such an end has no record."""
    least = soak.outcome.total("answered", "refused", strangers=False)
    given_up = soak.outcome.total("aborted", "bad", strangers=False)
    records, lost = sum(soak.records.values()), soak.records.get("lost", 0)
    if not least <= records <= least + given_up:
        yield f"{records} usage records for {least} to {least + given_up} requests of known keys"
    if lost > given_up:
        yield f"{lost} usage records are declared lost, {given_up} requests were broken off"
    logged = _since_warm(soak, "usage_logged") - _since_warm(soak, "unnamed")
    # Of those that Envoy cannot name, whose they were is known if they had a verdict.
    logged += _since_warm(soak, "unheard")
    if records - lost != logged:
        yield f"{records - lost} usage records, {logged} access log entries"
    if soak.slots:
        yield f"{soak.slots} slots of concurrent requests are held after the end"


def _since_warm(soak: Soak, name: str) -> int:
    return soak.quiet.counts[name] - soak.warm.counts[name]
