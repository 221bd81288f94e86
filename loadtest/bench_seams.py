"""What searching where texts meet costs, what it finds, and what it finds that nobody wrote.

    python -m loadtest.bench_seams [--quick]

Prints tables and writes build/bench/bench-seams.json.
"""

from __future__ import annotations

import argparse
import base64
import random
import string
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from loadtest.bench_guardrails import QUICK_SECONDS, SECONDS, timed_us
from loadtest.figures import percentile
from loadtest.results import Grid, circumstances, new_console, write_json
from loadtest.texts import benign_text
from sidecar.domain.finding import Found
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import TextPart
from sidecar.guardrails.local_scan import LocalScan
from sidecar.policy.snapshot import EffectivePolicy, build_snapshot

BLOCK_BYTES: Final = (256, 2_048, 16_384)
BLOCKS: Final = 24
BORDERS: Final = 2_000
BASE62: Final = string.ascii_letters + string.digits


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.bench_seams", *sys.argv[1:]]))
    local = _default_scan()
    with console.status("cost …"):
        cost = _cost(local, seconds=QUICK_SECONDS if options.quick else SECONDS)
    with console.status("secrets cut in two …"):
        found = _found(local)
    with console.status("texts of nobody's secret …"):
        accidents = _accidents(local)
    for grid in (_cost_grid(cost), _found_grid(found), _accidents_grid(accidents)):
        grid.show(console)
    figures = {**cost, **{f"found.{name}": share for name, (_, share) in found.items()}}
    figures |= {f"accidents_per_1000.{name}": rate for name, rate in accidents.items()}
    console.print(f"\nWritten to {write_json('bench-seams', figures, run)}.")
    return 0


def _default_scan() -> LocalScan:
    policy = build_snapshot(()).effective(PolicyBinding())
    if not isinstance(policy, EffectivePolicy):
        raise TypeError("there is no default policy")
    return policy.local


def _parts(texts: Sequence[str]) -> tuple[TextPart, ...]:
    return tuple(
        TextPart(text.encode(), (index,), "user") for index, text in enumerate(texts) if text
    )


def _findings(local: LocalScan, texts: Sequence[str], *, joined: bool) -> int:
    parts = _parts(texts)
    outcomes = local.scan(parts, (range(len(parts)),) if joined else ())
    return sum(len(outcome.findings) for outcome in outcomes if isinstance(outcome, Found))


def _cost(local: LocalScan, *, seconds: float) -> dict[str, float]:
    """Return the pass over a message of so many blocks, alone and with its borders."""
    figures: dict[str, float] = {}
    for size in BLOCK_BYTES:
        parts = _parts([benign_text(size, seed=seed) for seed in range(BLOCKS)])
        runs: dict[str, tuple[range, ...]] = {"alone": (), "joined": (range(BLOCKS),)}
        for name, chosen in runs.items():
            taken = timed_us(partial(local.scan, parts, chosen), seconds=seconds)
            figures[f"pass_us.{size}.{name}"] = percentile(taken, 50)
    return figures


def _found(local: LocalScan) -> dict[str, tuple[float, float]]:
    """Return the share of all cuts in two at which something is found, alone and joined."""
    shares: dict[str, tuple[float, float]] = {}
    for name, secret in _secrets().items():
        cuts = [(f"Use {secret[:at]}", f"{secret[at:]} now.") for at in range(1, len(secret))]
        alone, joined = (
            sum(_findings(local, cut, joined=mode) > 0 for cut in cuts) / len(cuts)
            for mode in (False, True)
        )
        shares[name] = alone, joined
    return shares


def _secrets() -> dict[str, str]:
    """Return made-up ones, put together here so that no scanner takes them for real."""
    letters = random.Random(1)  # noqa: S311 - the same every time

    def some(count: int, alphabet: str = BASE62) -> str:
        return "".join(letters.choices(alphabet, k=count))

    payload = base64.urlsafe_b64encode(f'{{"sub":"{some(700)}"}}'.encode()).decode().rstrip("=")
    header = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=")
    lines = "\n".join(some(64) for _ in range(26))
    return {
        "AWS key": "AKIA" + some(16, string.ascii_uppercase + "234567"),
        "GitHub token": "ghp_" + some(36),
        "card": "4111 1111 1111 1111",
        "IBAN": "DE89 3704 0044 0532 0130 00",
        "email": "bob.builder@mail.example.com",
        "token of 1 KB": f"{header}.{payload}.{some(43)}",
        "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----",
    }


def _accidents(local: LocalScan) -> dict[str, float]:
    """Return findings a thousand borders that no text holds by itself."""
    sources: dict[str, Callable[[], Iterator[str]]] = {
        "sentences": lambda: iter(benign_text(BORDERS * 70).split(". ")[:BORDERS]),
        "prose cut anywhere": lambda: _cut(benign_text(BORDERS * 70)),
        "numbers of 8 digits": lambda: _numbers(8),
        "numbers of 4 digits": lambda: _numbers(4),
    }
    rates: dict[str, float] = {}
    for name, source in sources.items():
        texts = [text for text in source() if text]
        pairs = list(zip(texts[::2], texts[1::2], strict=False))
        accidents = sum(
            max(0, _findings(local, pair, joined=True) - _findings(local, pair, joined=False)) > 0
            for pair in pairs
        )
        rates[name] = 1000 * accidents / len(pairs)
    return rates


def _cut(text: str) -> Iterator[str]:
    places = random.Random(2)  # noqa: S311 - the same every time
    position = 0
    while position < len(text):
        size = places.randrange(20, 120)
        yield text[position : position + size]
        position += size


def _numbers(digits: int) -> Iterator[str]:
    places = random.Random(digits)  # noqa: S311 - the same every time
    return ("".join(places.choices(string.digits, k=digits)) for _ in range(BORDERS))


def _cost_grid(figures: dict[str, float]) -> Grid:
    rows = [
        [
            f"{BLOCKS} of {size:,}",
            *(f"{figures[f'pass_us.{size}.{name}']:,.0f}" for name in ("alone", "joined")),
        ]
        for size in BLOCK_BYTES
    ]
    columns = ("blocks of bytes", "alone p50 µs", "with borders p50 µs")
    return Grid("One pass over a message of several blocks", columns, rows)


def _found_grid(found: dict[str, tuple[float, float]]) -> Grid:
    rows = [[name, f"{alone:.0%}", f"{joined:.0%}"] for name, (alone, joined) in found.items()]
    return Grid("Cut in two at every place", ("secret", "found alone", "with borders"), rows)


def _accidents_grid(rates: dict[str, float]) -> Grid:
    rows = [[name, f"{rate:.1f}"] for name, rate in rates.items()]
    columns = ("pairs of texts", "findings nobody wrote, per 1,000")
    return Grid("By accident", columns, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_seams", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time: a smoke test")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
