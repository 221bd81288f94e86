"""Records what comes of every conversation, or compares it with what was recorded.

python -m tests.contract.recorded.record                             # compare
python -m tests.contract.recorded.record --write                     # record anew
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.contract.recorded.groups import GROUPS
from tests.contract.recorded.kept import as_text, differences, path_of
from tests.contract.recorded.recorder import record_all
from tests.contract.recorded.server import running_stores


async def _main(names: list[str], *, writes: bool, at_once: int) -> int:
    failures = count = 0
    began = time.monotonic()
    groups = [group for group in GROUPS if not names or group.name in names]
    async with running_stores() as stores:
        async for recorded in record_all(stores, groups, at_once=at_once):
            for group, found in recorded:
                if writes:
                    path_of(group).parent.mkdir(exist_ok=True)
                    path_of(group).write_text(as_text(found))
                differing = differences(group, found)
                failures += len(differing)
                count += len(group.conversations)
                sys.stdout.write("".join(f"{one}\n\n" for one in differing))
                sys.stdout.write(f"{group.name}: {len(differing)} differ\n")
                sys.stdout.flush()
    seconds = time.monotonic() - began
    sys.stdout.write(f"{failures} of {count} differ, {seconds:.0f} s in all\n")
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", help="all, unless named")
    parser.add_argument("--write", action="store_true", help="record anew")
    parser.add_argument("--at-once", type=int, default=2, help="groups, each with a worker")
    given = parser.parse_args()
    sys.exit(asyncio.run(_main(given.groups, writes=given.write, at_once=given.at_once)))
