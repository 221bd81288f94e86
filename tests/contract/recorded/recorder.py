"""Plays groups of conversations to workers and takes down all that comes of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, assert_never

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
from tests.contract.recorded.envoy import play
from tests.contract.recorded.groups import Group, first_use
from tests.contract.recorded.kept import Recording
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
from tests.contract.recorded.server import POLL_SECONDS, Served, Stores, serving

LINE_SECONDS: Final = 60.0
ROWS_SECONDS: Final = 60.0
CORRECTED_SECONDS: Final = 0.7
"""Until a worker has corrected the shared counts of limits."""
_OTHER_TRACE: Final = re.compile(r'"trace_id": "(?!TRACE_ID|a{32})[^"]*"')

Recorded = tuple[Group, Recording]


async def record_all(
    stores: Stores, groups: Iterable[Group], *, at_once: int = 2
) -> AsyncIterator[list[Recorded]]:
    """Record groups, on some workers at once, and yield those of a worker as it ends."""
    turns = asyncio.Semaphore(at_once)

    async def recorded(shared: Sequence[Group]) -> list[Recorded]:
        async with turns:
            return await _record(stores, shared)

    alone = [[group] for group in groups if not group.is_shared]
    together = [group for group in groups if group.is_shared]
    workers = [together, *alone] if together else alone
    for ended in asyncio.as_completed([recorded(shared) for shared in workers]):
        yield await ended


async def _record(stores: Stores, groups: Sequence[Group]) -> list[Recorded]:
    """Play groups to one worker, one after the other."""
    policies = frozenset[str]().union(*(group.policies for group in groups))
    keys = frozenset[str]().union(*(group.keys for group in groups))
    rooms = await stores.new_rooms(policies, keys)
    seen: set[str] = set()
    async with serving(stores, rooms, groups[0].settings) as served:
        recorded = [(group, await _record_group(served, group, seen)) for group in groups]
        await served.stop()
        traces = spans_by_trace(served.spans())
    for group, recording in recorded:
        _add_spans(recording, group, traces)
    unnamed = [span for spans in traces.values() for span in spans]
    recorded[-1][1]["(the end)"]["spans"] = sorted(unnamed, key=_line)
    return recorded


async def _record_group(served: Served, group: Group, seen: set[str]) -> Recording:
    recording: Recording = {}
    records: list[dict[str, str]] = []
    run_sql = _blocking(served)
    if group.is_shared:
        await _meet_keys(served, group)
    before = served.counts()
    for conversation in group.conversations:
        transcript = await asyncio.to_thread(play, served.calls, conversation, run_sql)
        lines = await _lines_of(served, conversation)
        record = access_log_record(conversation, transcript)
        if record is not None:
            records.append(record)
            if group.ends_at_once:
                await served.export(export_message([record]))
                await asyncio.sleep(CORRECTED_SECONDS)
        after = served.counts()
        recording[conversation.name] = {
            "sent": digest_of(conversation),
            **transcript_of(transcript),
            "log": log_lines(lines),
            "metrics": changes(before, after),
        }
        before = after
    if not group.ends_at_once:
        await served.export(export_message(records))
    expected = sum('"key_id"' in record["egret"] for record in records)
    rows = await _usage_rows(served, seen, expected=expected)
    late = changes(before, await _shown_counts(served))
    recording["(the end)"] = {"metrics": late, "spans": []}
    _add_usage(recording, group, rows)
    return recording


async def _meet_keys(served: Served, group: Group) -> None:
    """Use each key once: whether it is in the cache must not depend on the groups before."""
    for name in sorted(group.keys):
        conversation = first_use(name)
        await asyncio.to_thread(play, served.calls, conversation, _blocking(served))
        await _lines_of(served, conversation)


async def _shown_counts(served: Served) -> Counter[str]:
    """Return the counts once those in the worker's files are those that a scrape shows."""
    async with asyncio.timeout(ROWS_SECONDS):
        while (shown := counts(await served.metrics())) != served.counts():  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
    return shown


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


async def _usage_rows(served: Served, seen: set[str], *, expected: int) -> list[dict[str, Any]]:
    """Return the new rows of usage, once all that are expected are there."""
    deadline = time.monotonic() + ROWS_SECONDS
    while True:
        rows = await served.rows("SELECT * FROM usage ORDER BY request_id, occurred_at")
        new = [row for row in rows if str(row["occurred_at"]) + row["request_id"] not in seen]
        if len(new) >= expected or time.monotonic() > deadline:
            seen.update(str(row["occurred_at"]) + row["request_id"] for row in new)
            return [_row(row) for row in new]
        await asyncio.sleep(0.05)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (int, float, str)) or value is None else str(value)
        for name, value in sorted(row.items())
        if name != "occurred_at"
    }


def _add_usage(recording: Recording, group: Group, rows: list[dict[str, Any]]) -> None:
    for conversation in group.conversations:
        own = request_id(_played(conversation).name)
        recording[conversation.name]["usage"] = [row for row in rows if row["request_id"] == own]
    named = {request_id(_played(conversation).name) for conversation in group.conversations}
    others = [normalised(row) for row in rows if row["request_id"] not in named]
    recording["(the end)"]["usage"] = sorted(others, key=_line)


def _add_spans(
    recording: Recording, group: Group, traces: dict[str, list[dict[str, Any]]]
) -> None:
    for conversation in group.conversations:
        entry = recording[conversation.name]
        entry["spans"] = traces.pop(trace_id(_played(conversation).name), [])
        recording[conversation.name] = own_names(conversation, entry)


def _played(conversation: Conversation) -> Exchange | Script:
    return conversation.played if isinstance(conversation, Crowd) else conversation


def own_names(conversation: Conversation, told: dict[str, Any]) -> dict[str, Any]:
    """Return a recording with `REQUEST_ID` and `TRACE_ID` for the conversation's own."""
    name = _played(conversation).name
    text = json.dumps(told).replace(request_id(name), "REQUEST_ID")
    text = text.replace(trace_id(name), "TRACE_ID")
    own: dict[str, Any] = json.loads(_OTHER_TRACE.sub('"trace_id": "MADE_UP"', text))
    return own


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True)
