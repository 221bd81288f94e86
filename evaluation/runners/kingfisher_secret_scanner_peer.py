"""Runs in the environment of kingfisher: all of its rules, the least sure as well."""

import json
import sys
import time

from kingfisher_sdk import Rules, Scanner


def main() -> None:
    """Read texts as JSON lines, write findings and the time they took."""
    texts: list[str] = [json.loads(line) for line in sys.stdin]
    scanner = Scanner(Rules(confidence="low"))
    scanner.scan("warm up")
    started_at = time.perf_counter()
    answers = [
        [found.to_dict()["rule_id"] for found in scanner.scan(text) if found.visible]
        for text in texts
    ]
    json.dump({"answers": answers, "seconds": time.perf_counter() - started_at}, sys.stdout)


main()
