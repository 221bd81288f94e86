"""Figures, tables and the chart of a soak."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loadtest.results import Grid
from loadtest.soaking.verdict import Soak, memory_slopes

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


def soak_grid(engine: str, soak: Soak, faults: list[str]) -> Grid:
    """Return the one line that goes into the page."""
    slopes = [line for name, line in memory_slopes(soak).items() if name.startswith("worker")]
    steepest = max(slopes, key=lambda line: line.an_hour)
    workers = [
        (before, soak.quiet.processes[name])
        for name, before in soak.warm.processes.items()
        if name.startswith("worker")
    ]
    row = [
        engine,
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
        "engine", "minutes", "RPS", "requests", "bad", "p50 ms", "p99 ms", "RSS MB",
        "MB an hour", "files", "tasks", "violations",
    )  # fmt: skip
    return Grid("Soak", columns, [row])


def kind_grid(soak: Soak) -> Grid:
    """Return what came of each kind of request."""
    rows = [
        [kind, *(f"{counts[name]:,}" for name in ("answered", "refused", "aborted", "bad"))]
        for kind, counts in soak.outcome.by_kind.items()
    ]
    return Grid("Requests", ("kind", "answered", "refused", "broken off", "bad"), rows)


def soak_plot(soak: Soak, *, title: str, path: Path) -> None:
    """Draw memory, throughput, open files and tasks over time."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and a screen unless told otherwise

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    begin = soak.samples[0].at
    minutes = [(one.at - begin) / MINUTE for one in soak.samples]
    figure, (memory, rate, left) = plt.subplots(
        3, figsize=(8, 8), sharex=True, layout="constrained"
    )
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
    plt.close(figure)
