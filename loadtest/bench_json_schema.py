"""What judging an answer by a schema costs, and how long it holds a worker.

    python -m loadtest.bench_json_schema [--quick]

Prints tables and writes build/bench/bench-json-schema.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jsonschema

from loadtest.bench_guardrails import QUICK_SECONDS, SECONDS, timed_us
from loadtest.figures import percentile
from loadtest.results import Grid, circumstances, new_console, write_json
from sidecar.apis.response_structure import AnswerForm
from sidecar.checks.answer_structure import judge_structure
from sidecar.guardrails.cooperative import Steps, run_to_end
from sidecar.guardrails.json_schema.check import Structured, json_schema_check, structured_of
from sidecar.policy.parse import parse_policies

ROUNDS: Final = 5
ITEM: Final = {
    "type": "object",
    "properties": {
        "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
        "count": {"type": "integer", "minimum": 1},
        "price": {"type": "number"},
        "note": {"type": ["string", "null"], "maxLength": 200},
    },
    "required": ["sku", "count", "price"],
    "additionalProperties": False,
}
ORDER: Final = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": ITEM}},
    "required": ["items"],
    "additionalProperties": False,
}
ITEMS: Final = (1, 10, 100, 600)
WORST_PATTERN: Final = "[ab]*a[ab]{50}c"


def main() -> int:
    """Measure, show and write; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="rougher figures")
    seconds = QUICK_SECONDS if parser.parse_args().quick else SECONDS
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.bench_json_schema", *sys.argv[1:]]))
    with console.status("cost …"):
        costs = {f"{count} items": _costs(count, seconds) for count in ITEMS}
    with console.status("hostile answers …"):
        holds = {name: _longest_ms(*case) for name, case in _hostile().items()}
    Grid(
        "An answer that fits, µs", ("answer", "bytes", "egret", "jsonschema"),
        [[name, *(f"{one:,.0f}" for one in cost)] for name, cost in costs.items()],
    ).show(console)  # fmt: skip
    Grid(
        "Longest work without a break, ms of CPU time", ("answer", "held"),
        [[name, f"{held:.1f}"] for name, held in holds.items()],
    ).show(console)  # fmt: skip
    figures = {f"egret_us.{name}": cost[1] for name, cost in costs.items()}
    figures |= {f"jsonschema_us.{name}": cost[2] for name, cost in costs.items()}
    figures |= {f"held_ms.{name}": held for name, held in holds.items()}
    console.print(f"\nWritten to {write_json('bench-json-schema', figures, run)}.")
    return 0


def _costs(count: int, seconds: float) -> tuple[float, float, float]:
    """Return bytes, and the median of either library on the same answer, its reading included."""
    text = _order(count)
    answer = _answer(text)
    structured = _guardrail(ORDER)
    validator = jsonschema.Draft202012Validator(ORDER)

    def other() -> None:
        content = json.loads(answer)["choices"][0]["message"]["content"]
        if not validator.is_valid(json.loads(content)):
            raise AssertionError("the answer does not fit")

    def ours() -> None:
        (result,) = run_to_end(_steps(structured, answer))
        if result.findings or result.error_type:
            raise AssertionError("the answer does not fit")

    return (
        len(text),
        percentile(timed_us(ours, seconds=seconds), 50),
        percentile(timed_us(other, seconds=seconds), 50),
    )


def _guardrail(schema: Mapping[str, Any]) -> Sequence[Structured]:
    fields = {"name": "order", "type": "json_schema", "max_bytes": 262_144, "schema": schema}
    (policy,) = parse_policies(json.dumps({"name": "p", "guardrails": [fields]}))
    return structured_of(policy.guardrails)


def _steps(structured: Sequence[Structured], answer: bytes) -> Steps[tuple[Any, ...]]:
    return judge_structure(answer, AnswerForm.JSON, structured, clock=time.perf_counter)


def _longest_ms(schema: Mapping[str, Any], text: str) -> float:
    """Return the longest piece of work between two interruptions, the best of some rounds.

    Each by a schema compiled anew: an expression remembers a text that it has met.
    """
    answer = _answer(text)
    held: list[float] = []
    for _ in range(ROUNDS):
        json_schema_check.cache_clear()
        held.append(_longest(_steps(_guardrail(schema), answer)))
    return min(held) * 1e3


def _longest(steps: Steps[Any]) -> float:
    longest = 0.0
    while True:
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration:
            return max(longest, time.thread_time() - began)
        longest = max(longest, time.thread_time() - began)


def _hostile() -> dict[str, tuple[Mapping[str, Any], str]]:
    deep = _nested({"v": [1] * 15_000 + ["x"]}, levels=30)
    node = {"properties": {"x": {"$ref": "#"}, "v": {"items": {"type": "integer"}}}}
    doubling = {"anyOf": [{"properties": {"x": {"$ref": "#"}}, "type": "object"}] * 2}
    return {
        "content of 10 MB": (ORDER, '"' + "x" * 10_000_000 + '"'),
        "100,000 levels": (ORDER, "[" * 100_000),
        "10,000 levels": (ORDER, "[" * 10_000),
        "20,000 numbers": ({"items": {"type": "integer"}}, json.dumps([1] * 19_990)),
        "10,000 objects": ({"items": {"type": "object"}}, "[" + '{"a":1},' * 9_900 + "{}]"),
        "wrong at the end": (ORDER, _order(600).replace("]}", ', {"sku": 1}]}')),
        "wrong at the bottom": (node, json.dumps(deep)),
        "branches that double": (doubling, json.dumps(_nested("no", levels=31))),
        "many equal objects": (
            {"uniqueItems": True},
            json.dumps([{"a": i} for i in range(6_000)]),
        ),
        "fractions": ({"items": {"multipleOf": 0.01}}, "[" + "1e308," * 950 + "1]"),
        "the worst pattern, 16 KB": (
            {"items": {"pattern": WORST_PATTERN}},
            json.dumps(["".join(random.Random(1).choices("ab", k=16_000))]),  # noqa: S311
        ),
    }


def _nested(innermost: object, *, levels: int) -> object:
    value = innermost
    for _ in range(levels):
        value = {"x": value}
    return value


def _order(count: int) -> str:
    item = {"sku": "ABC-1234", "count": 3, "price": 1.25, "note": "as many words as a note has"}
    return json.dumps({"items": [item] * count})


def _answer(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


if __name__ == "__main__":
    sys.exit(main())
