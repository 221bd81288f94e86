"""Exemplars on their way from a worker's file to its supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Exemplar

from sidecar.telemetry.exemplars import (
    SLOTS,
    BucketExemplars,
    ExemplarFile,
    Key,
    TraceRef,
    exemplar_path,
    read_exemplars,
)
from sidecar.telemetry.metrics import Metrics
from tests.support.full_disk import files_end_at
from tests.support.reports import STARTED_AT, TRACE_ID, WALL_NS, redacted_report
from tests.support.usage import ended, record

TRACE = int(TRACE_ID, 16)


def _key(name: str, **labels: str) -> Key:
    return (f"{name}_bucket", frozenset(labels.items()))


def _exemplar(trace_id: int, value: float, at: float) -> Exemplar:
    return Exemplar({"trace_id": f"{trace_id:032x}"}, value, at)


def _seconds(directory: Path, pid: int = 1) -> BucketExemplars:
    file = ExemplarFile(exemplar_path(directory, pid))
    return BucketExemplars(file, "seconds", buckets=(0.1, 1), labels=("who",))


def test_each_bucket_keeps_its_last_trace(tmp_path: Path) -> None:
    """A value on a bound belongs to that bucket; one beyond all has the last."""
    seconds = _seconds(tmp_path)
    for trace_id, value in ((1, 0.05), (2, 0.1), (3, 0.5), (4, 7.0)):
        seconds.note(value, TraceRef(trace_id, 100.0 + trace_id), "a")
    seconds.note(0.5, TraceRef(5, 105.0), "b")

    assert read_exemplars(tmp_path) == {
        _key("seconds", who="a", le="0.1"): _exemplar(2, 0.1, 102.0),
        _key("seconds", who="a", le="1.0"): _exemplar(3, 0.5, 103.0),
        _key("seconds", who="a", le="+Inf"): _exemplar(4, 7.0, 104.0),
        _key("seconds", who="b", le="1.0"): _exemplar(5, 0.5, 105.0),
    }


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0, max_value=5),
            st.integers(min_value=1, max_value=(1 << 128) - 1),
            st.floats(min_value=0, max_value=1e12),
            st.sampled_from(["a", "b", "\u00fc\n"]),
        )
    )
)
def test_whatever_is_noted_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, noted: list[tuple[float, int, float, str]]
) -> None:
    """Any values, traces and labels, in any order."""
    directory = tmp_path_factory.mktemp("exemplars")
    seconds = _seconds(directory)
    expected = {}
    for value, trace_id, at, who in noted:
        seconds.note(value, TraceRef(trace_id, at), who)
        bound = "0.1" if value <= 0.1 else "1.0" if value <= 1 else "+Inf"
        expected[_key("seconds", who=who, le=bound)] = _exemplar(trace_id, value, at)

    assert read_exemplars(directory) == expected


def test_of_several_workers_the_latest_is_shown(tmp_path: Path) -> None:
    """Whichever of them it was."""
    one, other = _seconds(tmp_path, 1), _seconds(tmp_path, 2)
    one.note(0.05, TraceRef(1, 200.0), "a")
    other.note(0.06, TraceRef(2, 199.0), "a")
    other.note(0.5, TraceRef(3, 201.0), "a")

    assert read_exemplars(tmp_path) == {
        _key("seconds", who="a", le="0.1"): _exemplar(1, 0.05, 200.0),
        _key("seconds", who="a", le="1.0"): _exemplar(3, 0.5, 201.0),
    }


def test_a_slot_that_is_half_written_is_left_out(tmp_path: Path) -> None:
    """A scrape may fall into a write: half of one trace id and half of another lead nowhere."""
    seconds = _seconds(tmp_path)
    seconds.note(0.05, TraceRef(1, 100.0), "a")
    seconds.note(0.5, TraceRef(2, 100.0), "a")
    path = exemplar_path(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[8] ^= 0xFF
    path.write_bytes(content)

    assert list(read_exemplars(tmp_path)) == [_key("seconds", who="a", le="1.0")]


def test_what_has_no_room_has_no_exemplar(tmp_path: Path) -> None:
    """Neither a bucket beyond the slots nor one with labels as long as a slot harms the others."""
    file = ExemplarFile(exemplar_path(tmp_path, 1))
    many = BucketExemplars(file, "many", buckets=(), labels=("who",))
    many.note(1, TraceRef(1, 1.0), "x" * 256)
    for number in range(SLOTS + 2):
        many.note(1, TraceRef(1, 1.0), f"{number}")

    found = read_exemplars(tmp_path)
    assert len(found) == SLOTS
    assert _key("many", who=f"{SLOTS - 1}", le="+Inf") in found
    assert exemplar_path(tmp_path, 1).stat().st_size == 1 << 20


def test_on_a_full_disk_a_worker_has_no_exemplars(tmp_path: Path) -> None:
    """Its memory is not that of a file with holes, which the disk could not fill."""
    with files_end_at(4096):
        file = ExemplarFile(exemplar_path(tmp_path, 1))
    BucketExemplars(file, "seconds", buckets=()).note(1, TraceRef(1, 1.0))

    assert read_exemplars(tmp_path) == {}
    assert exemplar_path(tmp_path, 1).stat().st_size == 0


def test_room_for_exemplars_is_reserved(tmp_path: Path) -> None:
    """A file with holes would end the worker at an exemplar on a disk that is full by then."""
    ExemplarFile(exemplar_path(tmp_path, 1))
    status = exemplar_path(tmp_path, 1).stat()

    assert status.st_blocks * 512 >= status.st_size == 1 << 20


def test_the_times_of_an_exchange_lead_to_its_trace(tmp_path: Path) -> None:
    """Its own share, each phase and each guardrail, at the moment it ended."""
    assert STARTED_AT > 0
    metrics = Metrics(CollectorRegistry(), ExemplarFile(exemplar_path(tmp_path, 1)))
    metrics.traced(redacted_report(), TRACE)
    found = read_exemplars(tmp_path)

    assert found[_key("egret_overhead_seconds", le="0.005")] == _exemplar(
        TRACE, 0.004, WALL_NS / 1e9 + 0.01
    )
    named = {
        (name, dict(labels).get("phase") or dict(labels).get("guardrail"))
        for name, labels in found
    }
    assert named == {
        ("egret_overhead_seconds_bucket", None),
        *(("egret_phase_seconds_bucket", phase) for phase in ("authorize", "read", "guardrails")),
        *(("egret_guardrail_seconds_bucket", name) for name in ("pii", "keys", "tone")),
    }


def test_the_times_of_an_answer_lead_to_its_trace(tmp_path: Path) -> None:
    """Where it was sampled: a stream with its first token, any other answer without."""
    usage = Metrics(CollectorRegistry(), ExemplarFile(exemplar_path(tmp_path, 1))).usage
    usage.exchange_ended(ended(is_event_stream=True), record())
    assert read_exemplars(tmp_path) == {}

    usage.exchange_ended(ended(trace_id=TRACE), record())
    whole = {name for name, _ in read_exemplars(tmp_path)}
    usage.exchange_ended(ended(is_event_stream=True, trace_id=TRACE), record())
    streamed = {name for name, _ in read_exemplars(tmp_path)}

    assert whole == {"gen_ai_server_request_duration_seconds_bucket"}
    assert streamed - whole == {"gen_ai_server_time_to_first_token_seconds_bucket"}
