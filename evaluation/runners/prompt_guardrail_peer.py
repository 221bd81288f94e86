"""Runs in the environment of prompt-guardrail: its score of each text."""

import json
import sys
import time

from guardify import detect


def main() -> None:
    """Read texts as JSON lines, write scores and the time they took."""
    texts: list[str] = [json.loads(line) for line in sys.stdin]
    detect("warm up")
    started_at = time.perf_counter()
    answers = [[one["label"] != "safe", one["score"]] for one in map(detect, texts)]
    json.dump({"answers": answers, "seconds": time.perf_counter() - started_at}, sys.stdout)


main()
