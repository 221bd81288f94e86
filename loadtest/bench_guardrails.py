"""Cost of checking content: reading a body, one pass of the default policy, and each guardrail.

    python -m loadtest.bench_guardrails [--quick] [--markdown]

Prints tables and writes build/bench/bench-guardrails.json. `worst_ratio` is the slowest text of
`loadtest.texts` against the benign one of its length; `python -m loadtest.slow_texts` looks for
slower ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Final

import uvloop
from egret_tools.benign_text import benign_text
from egret_tools.cli.bench import percentile

from loadtest.guardrail_pass import LOCAL_TYPES, Pass, beside, default_pass, pass_of
from loadtest.results import Grid, Report
from loadtest.texts import chat_body, hostile_texts, mixed_text
from sidecar.apis.request_text import read_request
from sidecar.domain.finding import Verdict
from sidecar.domain.guardrail_settings import PromptInjectionSettings
from sidecar.domain.http import Headers
from sidecar.domain.policy import Mode
from sidecar.domain.subject import Dialect, Operation, RequestForm, Route

SIZES: Final = {"1k": 1 << 10, "8k": 1 << 13, "64k": 1 << 16, "1m": 1 << 20}
HOSTILE_SIZES: Final = ("1k", "8k", "64k")
LONG_BYTES: Final = 5 << 20
SECONDS: Final = 2.0
QUICK_SECONDS: Final = 0.2
MIN_CALLS: Final = 20
ROUTE: Final = Route(Dialect.OPENAI, Operation.CHAT, has_body=True, form=RequestForm.MESSAGES)
HEADERS: Final = Headers((("content-type", b"application/json"),))
INJECTION: Final = PromptInjectionSettings.guardrail_type
MARKS: Final = ("café — ", "“so it\u2019s” ", "\n• ", "☕ ")
"""One of them after each 500 characters makes of benign text one that is not ASCII alone."""
_POLICIES: Final = {**{name: (name,) for name in LOCAL_TYPES}, "all of them": tuple(LOCAL_TYPES)}
MARKS_EVERY: Final = 500


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    seconds = QUICK_SECONDS if options.quick else SECONDS
    report = Report("bench-guardrails", "guardrails", for_page=options.markdown)
    judge, lexical = default_pass(), default_pass(without=INJECTION)
    with report.console.status("benign text …"):
        figures = _benign(judge, seconds=seconds)
        figures |= _benign_lexical(lexical, seconds=seconds)
    with report.console.status("each guardrail …"):
        figures |= _by_type(seconds=seconds / 4)
    with report.console.status("hostile text …"):
        hostile = _hostile(judge, seconds=seconds / 10)
        hostile_lexical = _hostile(lexical, seconds=seconds / 10)
    figures["worst_ratio"] = max(hostile.values())
    figures["worst_ratio_no_injection"] = max(hostile_lexical.values())
    figures |= {f"hostile_ratio.{name}": ratio for name, ratio in hostile.items()}
    with report.console.status("5 MB beside 1 KB …"):
        figures |= _beside(judge, seconds=5 * seconds)
    report.write(
        figures,
        _benign_grid(figures),
        _types_grid(figures),
        _hostile_grid(hostile, hostile_lexical),
        _beside_grid(figures),
    )
    return 0


def _benign(judge: Pass, *, seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, size in SIZES.items():
        text = benign_text(size)
        enforced = [one for one in judge.results(text) if one.guardrail.mode is Mode.ENFORCE]
        # In random words, those of an attack will stand side by side somewhere: shadow may report.
        if {result.verdict for result in enforced} != {Verdict.PASS}:
            raise AssertionError(f"the benign text of {name} is not benign")
        passes = timed_us(partial(judge.results, text), seconds=seconds)
        marked = timed_us(partial(judge.results, _with_marks(text)), seconds=seconds)
        reads = timed_us(partial(read_request, ROUTE, HEADERS, chat_body(size)), seconds=seconds)
        figures[f"pass_us.{name}"] = percentile(passes, 50)
        figures[f"p99_us.{name}"] = percentile(passes, 99)
        figures[f"pass_us_marks.{name}"] = percentile(marked, 50)
        figures[f"read_us.{name}"] = percentile(reads, 50)
        figures[f"read_p99_us.{name}"] = percentile(reads, 99)
    return figures


def _with_marks(text: str) -> str:
    pieces = [text[at : at + MARKS_EVERY] for at in range(0, len(text), MARKS_EVERY)]
    return "".join(map("".join, zip(pieces, cycle(MARKS), strict=False)))


def _benign_lexical(judge: Pass, *, seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, size in SIZES.items():
        passes = timed_us(partial(judge.results, benign_text(size)), seconds=seconds)
        figures[f"pass_us_no_injection.{name}"] = percentile(passes, 50)
        figures[f"p99_us_no_injection.{name}"] = percentile(passes, 99)
    return figures


def _by_type(*, seconds: float) -> dict[str, float]:
    """Measure a policy of each type of guardrail alone, and one of all of them."""
    figures: dict[str, float] = {}
    for name, size in SIZES.items():
        text = benign_text(size)
        for title, types in _POLICIES.items():
            passes = timed_us(partial(pass_of(types, size=size).results, text), seconds=seconds)
            figures[f"type_us.{title}.{name}"] = percentile(passes, 50)
    return figures


def _hostile(judge: Pass, *, seconds: float) -> dict[str, float]:
    """Return the most times benign text of the same length each hostile one takes, in CPU time."""
    ratios: dict[str, float] = {}
    for size in (SIZES[name] for name in HOSTILE_SIZES):
        benign = judge.cpu_us(benign_text(size), seconds=seconds)
        for name, text in hostile_texts(size).items():
            ratio = judge.cpu_us(text, seconds=seconds) / benign
            ratios[name] = max(ratio, ratios.get(name, 0.0))
    return ratios


def _beside(judge: Pass, *, seconds: float) -> dict[str, float]:
    """Measure short texts beside a long one, benign and of the kinds that take longest."""
    figures: dict[str, float] = {}
    for name, long in (("benign", benign_text(LONG_BYTES)), ("hostile", mixed_text(LONG_BYTES))):
        measured = uvloop.run(
            beside(judge.inspect, long=long, short=benign_text(SIZES["1k"]), seconds=seconds)
        )
        figures |= {f"beside_5m.{name}.{key}": value for key, value in measured.items()}
    return figures


def timed_us(call: Callable[[], object], *, seconds: float) -> Sequence[float]:
    """Return microseconds of single calls, as many as fit into *seconds*, the first left out."""
    call()
    taken: list[float] = []
    ends_at = time.perf_counter() + seconds
    while len(taken) < MIN_CALLS or time.perf_counter() < ends_at:
        started_at = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started_at) * 1e6)
    return taken


def _benign_grid(figures: dict[str, float]) -> Grid:
    kinds = ("pass_us", "p99_us", "pass_us_marks", "pass_us_no_injection", "p99_us_no_injection",
             "read_us", "read_p99_us")  # fmt: skip
    rows = [[name, *(f"{figures[f'{kind}.{name}']:,.0f}" for kind in kinds)] for name in SIZES]
    columns = ("text", "pass p50 µs", "pass p99 µs", "with accents and marks p50 µs",
               "without injection p50 µs", "p99 µs", "read p50 µs", "read p99 µs")  # fmt: skip
    return Grid("Guardrails of the default policy on benign text", columns, rows)


def _types_grid(figures: dict[str, float]) -> Grid:
    rows = [
        [title, *(f"{figures[f'type_us.{title}.{name}']:,.0f}" for name in SIZES)]
        for title in _POLICIES
    ]
    columns = ("policy of", *(f"{name} p50 µs" for name in SIZES))
    return Grid("Each type of guardrail by itself, on benign text", columns, rows)


def _hostile_grid(hostile: dict[str, float], lexical: dict[str, float]) -> Grid:
    rows = [
        [name.replace("_", " "), f"{ratio:.1f}", f"{lexical[name]:.1f}"]
        for name, ratio in sorted(hostile.items(), key=lambda one: -one[1])
    ]
    columns = ("text made to be slow", "times benign", "without injection")
    return Grid("The worst of 1, 8 and 64 KB, against benign text of the length", columns, rows)


def _beside_grid(figures: dict[str, float]) -> Grid:
    keys = ("short_p50_ms", "short_p99_ms", "hold_cpu_p99_ms", "hold_cpu_max_ms", "long_p50_ms")
    rows = [
        [name, *(f"{figures[f'beside_5m.{name}.{key}']:,.1f}" for key in keys)]
        for name in ("benign", "hostile")
    ]
    columns = ("5 MB", "1 KB p50 ms", "1 KB p99 ms", "hold CPU p99 ms",
               "hold CPU max ms", "5 MB p50 ms")  # fmt: skip
    return Grid("A 1 KB prompt every 5 ms beside one of 5 MB after another", columns, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_guardrails", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the time: a smoke test")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
