"""Records what comes of every conversation, or compares it with what was recorded.

python -m tests.contract.recorded.record --engine h2corn             # compare
python -m tests.contract.recorded.record --engine grpcio --write     # record anew
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import hashlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, assert_never

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.contract.recorded.conversation import (
    Conversation,
    Crowd,
    Exchange,
    Script,
    Send,
    opening_message,
    request_id,
    trace_id,
)
from tests.contract.recorded.defects import DEFECTS
from tests.contract.recorded.envoy import play
from tests.contract.recorded.groups import GROUPS, Group
from tests.contract.recorded.observe import (
    access_log_record,
    changes,
    counts,
    export_message,
    log_lines,
    normalised,
    spans_by_trace,
    transcript_of,
)
from tests.contract.recorded.server import POLL_SECONDS, Served, Stores, running_stores, serving

RECORDINGS: Final = Path(__file__).with_name("recordings")
LINE_SECONDS: Final = 5.0
ROWS_SECONDS: Final = 15.0
CORRECTED_SECONDS: Final = 0.7
"""Until a worker has corrected the shared counts of limits."""
SETTLED_SECONDS: Final = 1.2
"""Longer than a worker waits between two batches of usage."""

_OTHER_TRACE: Final = re.compile(r'"trace_id": "(?!TRACE_ID|a{32})[^"]*"')
REFERRED_LENGTH: Final = 160
_ITEM: Final = re.compile(r"= (.+) #(\d+)")

Recording = dict[str, dict[str, Any]]
"""All that came of each conversation, by its name."""


async def record_group(stores: Stores, engine: str, group: Group) -> Recording:
    """Play all conversations of a group to a worker of its own."""
    dsn = await stores.new_database(group.policies, group.keys)
    async with serving(stores, engine, dsn, group.settings) as served:
        recording: Recording = {}
        records: list[dict[str, str]] = []
        before = counts(await served.metrics())
        run_sql = _blocking(served)
        for conversation in group.conversations:
            transcript = await asyncio.to_thread(play, served.calls, conversation, run_sql)
            lines = await _lines_of(served, conversation)
            record = access_log_record(conversation, transcript)
            if record is not None and group.ends_at_once:
                await served.export(export_message([record]))
                await asyncio.sleep(CORRECTED_SECONDS)
            elif record is not None:
                records.append(record)
            after = counts(await served.metrics())
            recording[conversation.name] = {
                "sent": digest_of(conversation),
                **transcript_of(transcript),
                "log": log_lines(lines),
                "metrics": changes(before, after),
            }
            before = after
        if records:
            await served.export(export_message(records))
        rows = await _usage_rows(served)
        late = changes(before, counts(await served.metrics()))
        recording["(the end)"] = {"metrics": late}
        await served.stop()
        _add_what_came_late(recording, group, rows=rows, spans=served.spans())
        return recording


def _blocking(served: Served) -> Callable[[str], None]:
    """Return what runs a statement from a thread beside the loop."""
    loop = asyncio.get_running_loop()
    return lambda statement: asyncio.run_coroutine_threadsafe(
        served.run_sql(statement), loop
    ).result()


def digest_of(conversation: Conversation) -> str:
    """Return a short digest of all that is sent: other input makes another recording."""
    return hashlib.sha256(b"\0".join(_sent(conversation))).hexdigest()[:12]


def _sent(conversation: Conversation) -> list[bytes]:
    match conversation:
        case Script():
            return [step.message for step in conversation.steps if isinstance(step, Send)]
        case Crowd():
            return [opening_message(conversation.played)]
        case Exchange():
            answer = conversation.answer
            body = b"" if answer is None else answer.body
            return [opening_message(conversation), conversation.body or b"", body]
        case _:
            assert_never(conversation)


async def _lines_of(served: Served, conversation: Conversation) -> list[dict[str, Any]]:
    """Return the log lines up to the one that reports the conversation."""
    expects_line = not isinstance(conversation, Crowd)
    lines: list[dict[str, Any]] = []
    deadline = time.monotonic() + (LINE_SECONDS if expects_line else 0.3)
    while time.monotonic() < deadline:
        lines += served.new_lines()
        if expects_line and any(line.get("event") == "exchange.completed" for line in lines):
            break
        await asyncio.sleep(POLL_SECONDS)
    return lines


async def _usage_rows(served: Served) -> list[dict[str, Any]]:
    """Return the rows of usage, once no more come."""
    query = "SELECT * FROM usage ORDER BY request_id"
    rows = await served.rows(query)
    deadline, settled = time.monotonic() + ROWS_SECONDS, time.monotonic() + SETTLED_SECONDS
    while time.monotonic() < min(deadline, settled):
        await asyncio.sleep(0.1)
        now = await served.rows(query)
        if len(now) != len(rows):
            rows, settled = now, time.monotonic() + SETTLED_SECONDS
    return [_row(row) for row in rows]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (int, float, str)) or value is None else str(value)
        for name, value in sorted(row.items())
        if name != "occurred_at"
    }


def _add_what_came_late(
    recording: Recording, group: Group, *, rows: list[dict[str, Any]], spans: list[Span]
) -> None:
    """Add to each conversation its rows of usage and its spans."""
    traces = spans_by_trace(spans)
    for conversation in group.conversations:
        name = _played(conversation).name
        entry = recording[conversation.name]
        entry["spans"] = traces.pop(trace_id(name), [])
        entry["usage"] = [row for row in rows if row["request_id"] == request_id(name)]
        recording[conversation.name] = own_names(conversation, entry)
    named = {request_id(_played(conversation).name) for conversation in group.conversations}
    others = [normalised(row) for row in rows if row["request_id"] not in named]
    unnamed = [span for spans in traces.values() for span in spans]
    rest = recording["(the end)"]
    rest["usage"] = sorted(others, key=_line)
    rest["spans"] = sorted(unnamed, key=_line)


def _played(conversation: Conversation) -> Exchange | Script:
    return conversation.played if isinstance(conversation, Crowd) else conversation


def own_names(conversation: Conversation, told: dict[str, Any]) -> dict[str, Any]:
    """Return a recording with `REQUEST_ID` and `TRACE_ID` for the conversation's own."""
    name = _played(conversation).name
    text = json.dumps(told).replace(request_id(name), "REQUEST_ID")
    text = text.replace(trace_id(name), "TRACE_ID")
    own: dict[str, Any] = json.loads(_OTHER_TRACE.sub('"trace_id": "MADE_UP"', text))
    return own


def as_text(recording: Recording) -> str:
    """Return a recording as it is kept: JSON with one line an item.

    A list that an earlier conversation has as well is written as `= NAME`, an item as
    `= NAME #PLACE`, where that is shorter.
    """
    known: dict[str, str] = {}
    told = [
        f"{_line(name)}: {{\n"
        + ",\n".join(
            f"{_line(part)}: {_told(value, name, part, known)}"
            for part, value in sorted(entry.items())
        )
        + "\n}"
        for name, entry in recording.items()
    ]
    return "{\n" + ",\n".join(told) + "\n}\n"


def _told(value: object, name: str, part: str, known: dict[str, str]) -> str:
    if not isinstance(value, list):
        return _line(value)
    whole = _reference(_line(value), f"{part}= {name}", known)
    items = (
        _reference(_line(item), f"{part}= {name} #{place}", known)
        for place, item in enumerate(value)
    )
    listed = "[" + ",".join(f"\n {item}" for item in items) + "]"
    return whole if whole.startswith('"') else listed


def _reference(text: str, place: str, known: dict[str, str]) -> str:
    """Return where *text* stands already in the same part of another conversation, or itself."""
    if len(text) < REFERRED_LENGTH:
        return text
    part, _, here = place.partition("=")
    reference = _line(f"={known.setdefault(f'{part} {text}', here)}")
    return reference if reference != _line(f"={here}") and len(reference) < len(text) else text


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def kept(group: Group) -> Recording:
    """Return what was recorded of a group, every list and item in full."""
    recording: Recording = json.loads(path_of(group).read_text())
    for entry in recording.values():
        for part, value in entry.items():
            if isinstance(value, str) and value.startswith("= "):
                entry[part] = recording[value[2:]][part]
            elif isinstance(value, list):
                entry[part] = [_item(item, part, recording) for item in value]
    return recording


def _item(item: object, part: str, recording: Recording) -> object:
    found = _ITEM.fullmatch(item) if isinstance(item, str) else None
    return item if found is None else recording[found[1]][part][int(found[2])]


def path_of(group: Group) -> Path:
    """Return where the recording of a group is kept."""
    return RECORDINGS / f"{group.name}.json"


def differences(group: Group, found: Recording) -> list[str]:
    """Return each conversation that came out otherwise than recorded, as a readable diff."""
    before: Recording = kept(group)
    found = json.loads(json.dumps(found))
    return [
        "\n".join([_heading(group, name), *_diff(before.get(name), found.get(name))])
        for name in [*before, *(name for name in found if name not in before)]
        if before.get(name) != found.get(name)
    ]


def _heading(group: Group, name: str) -> str:
    defects = [defect for defect in DEFECTS if defect.concerns(group.name, name)]
    notes = "".join(f"\n  known defect, may change: {defect.what}" for defect in defects)
    return f"{group.name}: {name}{notes}"


def _diff(before: object, now: object) -> Iterable[str]:
    return difflib.unified_diff(
        _indented(before), _indented(now), "recorded", "now", lineterm="", n=2
    )


def _indented(value: object) -> list[str]:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True).splitlines()


async def record_all(
    stores: Stores, engine: str, groups: Iterable[Group], *, at_once: int = 2
) -> AsyncIterator[tuple[Group, Recording, float]]:
    """Record groups, some at once, and yield each as it ends, with the seconds it took."""
    turns = asyncio.Semaphore(at_once)

    async def recorded(group: Group) -> tuple[Group, Recording, float]:
        async with turns:
            began = time.monotonic()
            recording = await record_group(stores, engine, group)
            return group, recording, time.monotonic() - began

    for ended in asyncio.as_completed([recorded(group) for group in groups]):
        yield await ended


async def _main(engine: str, names: list[str], *, writes: bool, at_once: int) -> int:
    failures = 0
    began = time.monotonic()
    groups = [group for group in GROUPS if not names or group.name in names]
    async with running_stores() as stores:
        async for group, found, seconds in record_all(stores, engine, groups, at_once=at_once):
            if writes:
                RECORDINGS.mkdir(exist_ok=True)
                path_of(group).write_text(as_text(found))
            differing = differences(group, found)
            failures += len(differing)
            sys.stdout.write("".join(f"{one}\n\n" for one in differing))
            sys.stdout.write(
                f"{engine} {group.name}: {len(group.conversations)} conversations,"
                f" {len(differing)} differ, {seconds:.1f} s\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"{engine}: {failures} differ, {time.monotonic() - began:.0f} s in all\n")
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", help="all, unless named")
    parser.add_argument("--engine", choices=["grpcio", "h2corn"], default="grpcio")
    parser.add_argument("--write", action="store_true", help="record anew")
    parser.add_argument("--at-once", type=int, default=2, help="groups, each with a worker")
    given = parser.parse_args()
    sys.exit(
        asyncio.run(_main(given.engine, given.groups, writes=given.write, at_once=given.at_once))
    )
