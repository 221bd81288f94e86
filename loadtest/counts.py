"""Whether a request costs more than it did, by counts instead of by time.

    python -m loadtest.counts [--write]

Compares calls, bytecodes and memory of recorded conversations, from Envoy's bytes to ours, with
the baseline in loadtest/counts.json. Counts do not depend on the machine or on its load, but on
the minor version of Python. Work of C libraries within a call is not seen. `--write` makes these
counts the new baseline. Exits 1 when a count is higher than the baseline allows.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from loadtest.results import Grid, new_console
from sidecar.settings.sections import inherited_environment

BASELINE: Final = Path(__file__).with_name("counts.json")
TOLERANCE: Final = 0.03
"""A few lines more are no regression; dozens of calls are."""
MEMORY: Final = "peak bytes"
MEMORY_TOLERANCE: Final = 0.10
"""Free lists and tables that grow make the same conversation differ by up to 4 %."""

Counts = Mapping[str, Mapping[str, int]]
"""By conversation and name of the count."""


def main() -> int:
    """Count, compare, show; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.counts", description=__doc__)
    parser.add_argument("--write", action="store_true", help="make this the baseline")
    counted = count()
    if parser.parse_args().write:
        write_baseline(counted)
    version, baseline = read_baseline()
    console = new_console()
    if version != python_version():
        console.print(f"✗ The baseline is of Python {version}.", style="red")
        return 1
    counts_grid(counted, baseline).show(console)
    dearer = regressions(counted, baseline)
    for line in dearer:
        console.print(f"✗ {line}", markup=False, style="red")
    if dearer:
        console.print(HINT, markup=False)
    return 1 if dearer else 0


HINT: Final = (
    "A request costs more than the baseline allows. Make it cheaper, or, if the change is worth"
    " it, run `make counts-baseline` and commit loadtest/counts.json with it."
)


def python_version() -> str:
    """Return the minor version of Python, on which bytecodes depend."""
    return ".".join(platform.python_version_tuple()[:2])


def count() -> Counts:
    """Return the counts, taken in a process of its own."""
    counted: Counts = json.loads(run_in_a_worker("loadtest.counting"))
    return counted


def run_in_a_worker(module: str, *options: str) -> bytes:
    """Return the output of *module*, run in a process set up as a worker is."""
    with tempfile.TemporaryDirectory(prefix="egret-counts-") as metrics:
        done = subprocess.run(  # noqa: S603 - our own programs
            [sys.executable, "-m", module, *options],
            stdout=subprocess.PIPE,
            check=True,
            # As in a worker; and without a seed: sets are walked in one order only.
            env=inherited_environment()
            | {"PROMETHEUS_MULTIPROC_DIR": metrics, "PYTHONHASHSEED": "0"},
        )
    return done.stdout


def read_baseline(path: Path = BASELINE) -> tuple[str, Counts]:
    """Return the version of Python that was counted with, and the counts."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["python"], document["conversations"]


def write_baseline(counted: Counts, path: Path = BASELINE) -> None:
    """Keep these counts."""
    document = {"python": python_version(), "conversations": counted}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def regressions(counted: Counts, baseline: Counts) -> list[str]:
    """Name counts above the baseline, and counts without a counterpart."""
    return [*_dearer(counted, baseline), *_unmatched(counted, baseline)]


def _dearer(counted: Counts, baseline: Counts) -> Iterator[str]:
    for name, counts in counted.items():
        for count_name, number in counts.items():
            allowed = baseline.get(name, {}).get(count_name)
            tolerance = MEMORY_TOLERANCE if count_name == MEMORY else TOLERANCE
            if allowed is not None and number > allowed * (1 + tolerance):
                growth = f"{number / allowed - 1:+.1%}"
                yield f"{name}: {number} {count_name} instead of {allowed} ({growth})"


def _unmatched(counted: Counts, baseline: Counts) -> Iterator[str]:
    keys = [
        {(name, count_name) for name in counts for count_name in counts[name]}
        for counts in (counted, baseline)
    ]
    for name, count_name in sorted(keys[0] ^ keys[1]):
        yield f"{name}: {count_name} is on one side of the comparison only"


def counts_grid(counted: Counts, baseline: Counts) -> Grid:
    """Return the counts beside the baseline."""
    rows = [
        [name, count_name, str(number), str(before := baseline.get(name, {}).get(count_name, 0)),
         f"{number / before - 1:+.1%}" if before else "-"]
        for name, counts in counted.items()
        for count_name, number in counts.items()
    ]  # fmt: skip
    columns = ("conversation", "counted", "now", "baseline", "change")
    return Grid("Work of one request in a worker", columns, rows, labels=2)


if __name__ == "__main__":
    sys.exit(main())
