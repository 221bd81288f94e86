"""What judging content costs: reading a body, and one pass of the default policy's guardrails.

    python -m loadtest.bench_guardrails [--quick] [--markdown]

Prints a table and writes build/bench/bench-guardrails.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.figures import percentile
from loadtest.results import Grid, circumstances, new_console, write_json, write_section
from loadtest.texts import benign_text, chat_body, hostile_texts
from sidecar.dialects.read import read_request
from sidecar.domain.finding import Verdict
from sidecar.domain.http import Headers
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import Dialect, Operation, RequestForm, Route, Subject, TextPart
from sidecar.guardrails.inspect import InspectionSubject, Inspector
from sidecar.guardrails.remote import RemoteAnswer, RemoteRequest
from sidecar.guardrails.snapshot import EffectivePolicy, MissingPolicy, build_snapshot

SIZES: Final = {"1k": 1 << 10, "8k": 1 << 13, "64k": 1 << 16, "1m": 1 << 20}
HOSTILE_SIZE: Final = "64k"
SECONDS: Final = 2.0
QUICK_SECONDS: Final = 0.2
MIN_CALLS: Final = 20
ROUTE: Final = Route(Dialect.OPENAI, Operation.CHAT, has_body=True, form=RequestForm.MESSAGES)
HEADERS: Final = Headers((("content-type", b"application/json"),))


class _NoRemote:
    """The default policy has no remote guardrail."""

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        raise NotImplementedError(request.guardrail.name)


@dataclass(frozen=True, slots=True)
class _Pass:
    """The guardrails of the default policy over one text."""

    policy: EffectivePolicy
    inspector: Inspector

    def verdicts(self, text: str) -> tuple[Verdict, ...]:
        """Return what every guardrail says."""
        parts = (TextPart(content=text.encode(), location=(0,), role="user"),)
        subject = Subject(model=None, streamed=False, parts=parts)
        about = InspectionSubject(request_id="", key_id="", model=None)
        results = self.inspector.inspect(self.policy, subject, about=about)
        if not isinstance(results, tuple):
            raise TypeError("the default policy asks somebody else")
        return tuple(result.verdict for result in results)


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    seconds = QUICK_SECONDS if options.quick else SECONDS
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.bench_guardrails", *sys.argv[1:]]))
    judge = _default_pass()
    with console.status("benign text …"):
        figures = _benign(judge, seconds=seconds)
    with console.status("hostile text …"):
        hostile = {
            name: _median_us(judge, text, seconds=seconds)
            for name, text in hostile_texts(SIZES[HOSTILE_SIZE]).items()
        }
    figures |= {f"hostile_us.{name}": us for name, us in hostile.items()}
    figures["worst_ratio"] = max(hostile.values()) / figures[f"pass_us.{HOSTILE_SIZE}"]
    grids = (_benign_grid(figures), _hostile_grid(figures, hostile))
    for grid in grids:
        grid.show(console)
    console.print(f"\nWritten to {write_json('bench-guardrails', figures, run)}.")
    if options.markdown:
        tables = "\n\n".join(grid.as_markdown() for grid in grids)
        write_section("guardrails", f"{run.as_sentence()}\n\n{tables}")
    return 0


def _default_pass() -> _Pass:
    policy = build_snapshot(()).effective(PolicyBinding())
    if isinstance(policy, MissingPolicy):
        raise TypeError("there is no default policy")
    return _Pass(policy, Inspector(remote=_NoRemote(), clock=time.monotonic))


def _benign(judge: _Pass, *, seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, size in SIZES.items():
        text = benign_text(size)
        if set(judge.verdicts(text)) != {Verdict.PASS}:
            raise AssertionError(f"the benign text of {name} is not benign")
        passes = _timed_us(lambda text=text: judge.verdicts(text), seconds=seconds)  # type: ignore[misc]  # bound now, called at once
        body = chat_body(size)
        reads = _timed_us(lambda body=body: read_request(ROUTE, HEADERS, body), seconds=seconds)  # type: ignore[misc]  # as above
        figures[f"pass_us.{name}"] = percentile(passes, 50)
        figures[f"p99_us.{name}"] = percentile(passes, 99)
        figures[f"read_us.{name}"] = percentile(reads, 50)
        figures[f"read_p99_us.{name}"] = percentile(reads, 99)
    return figures


def _median_us(judge: _Pass, text: str, *, seconds: float) -> float:
    return percentile(_timed_us(lambda: judge.verdicts(text), seconds=seconds), 50)


def _timed_us(call: Callable[[], object], *, seconds: float) -> Sequence[float]:
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
    kinds = ("pass_us", "p99_us", "read_us", "read_p99_us")
    rows = [[name, *(f"{figures[f'{kind}.{name}']:,.0f}" for kind in kinds)] for name in SIZES]
    columns = ("text", "pass p50 µs", "pass p99 µs", "read p50 µs", "read p99 µs")
    return Grid("Guardrails of the default policy on benign text", columns, rows)


def _hostile_grid(figures: dict[str, float], hostile: dict[str, float]) -> Grid:
    benign = figures[f"pass_us.{HOSTILE_SIZE}"]
    rows = [
        [name.replace("_", " "), f"{us:,.0f}", f"{us / benign:.1f}"]
        for name, us in sorted(hostile.items(), key=lambda one: -one[1])
    ]
    columns = (f"hostile text, {HOSTILE_SIZE}", "pass p50 µs", "times benign")
    return Grid("Text made to be slow", columns, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_guardrails", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the time: a smoke test")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
