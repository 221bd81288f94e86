"""Reading the caller's trace context, whatever it sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.telemetry.traceparent import (
    TraceParent,
    format_trace_id,
    parse_trace_parent,
    sampled_trace_id,
    unsampled_trace_id,
)
from tests.support.reports import PARENT_ID, SAMPLED, TRACE_ID, UNSAMPLED

PARENT = TraceParent(int(TRACE_ID, 16), int(PARENT_ID, 16), 1)


@pytest.mark.parametrize(
    ("traceparent", "parent"),
    [
        pytest.param(SAMPLED, PARENT, id="sampled"),
        pytest.param(UNSAMPLED, TraceParent(PARENT.trace_id, PARENT.span_id, 0), id="unsampled"),
        pytest.param(f"01-{TRACE_ID}-{PARENT_ID}-01-later", PARENT, id="a later version"),
        pytest.param(None, None, id="absent"),
        pytest.param("", None, id="empty"),
        pytest.param("what is this", None, id="prose"),
        pytest.param(SAMPLED.upper(), None, id="upper case"),
        pytest.param(SAMPLED + "-more", None, id="version 00 with more"),
        pytest.param(f"01-{TRACE_ID}-{PARENT_ID}-01x", None, id="no dash before more"),
        pytest.param(f"ff-{TRACE_ID}-{PARENT_ID}-01", None, id="the forbidden version"),
        pytest.param(f"00-{'0' * 32}-{PARENT_ID}-01", None, id="no trace"),
        pytest.param(f"00-{TRACE_ID}-{'0' * 16}-01", None, id="no span"),
        pytest.param(f"00-{TRACE_ID}-{PARENT_ID}", None, id="cut short"),
        pytest.param("0" * 10_240, None, id="10 KB"),
    ],
)
def test_a_trace_parent_is_read_or_is_none(
    traceparent: str | None, parent: TraceParent | None
) -> None:
    """Section 3.2 of the W3C trace context."""
    assert parse_trace_parent(traceparent, None) == parent
    is_sampled = parent is not None and parent.is_sampled
    assert sampled_trace_id(traceparent) == (TRACE_ID if is_sampled else None)
    is_unsampled = parent is not None and not parent.is_sampled
    assert unsampled_trace_id(traceparent) == (TRACE_ID if is_unsampled else None)


@given(
    trace=st.sampled_from(["0", "a", "1"]),
    span=st.sampled_from(["0", "b"]),
    flags=st.integers(0, 255),
    version=st.sampled_from(["00", "01", "ff"]),
    rest=st.sampled_from(["", "-", "x", "\n"]),
)
def test_the_quick_look_says_what_the_close_one_says(
    trace: str, span: str, flags: int, version: str, rest: str
) -> None:
    """Of a version that may have more fields it says nothing."""
    text = f"{version}-{trace * 32}-{span * 16}-{flags:02x}{rest}"
    parent = parse_trace_parent(text, None)
    is_unsampled = parent is not None and not parent.is_sampled and version == "00"
    said = format_trace_id(parent.trace_id) if parent is not None and is_unsampled else None
    assert unsampled_trace_id(text) == said


@pytest.mark.parametrize(
    ("tracestate", "ot"),
    [
        (None, None),
        ("", None),
        ("ot=th:8", "th:8"),
        ("a=1, ot=th:8 ,b=2", "th:8"),
        ("ot=", None),
        ("ot=a prompt", None),
        ("xot=th:8", None),
        ("ot=th:8," + "v" * 10_240, None),
    ],
)
def test_only_the_ot_member_of_a_trace_state_is_kept(
    tracestate: str | None, ot: str | None
) -> None:
    """What others put there may be anybody's text."""
    parent = parse_trace_parent(SAMPLED, tracestate)

    assert parent is not None
    assert parent.ot == ot


@given(st.text(), st.text() | st.none())
def test_no_text_makes_the_parser_raise(traceparent: str, tracestate: str | None) -> None:
    """It runs on whatever Envoy forwards."""
    assert parse_trace_parent(traceparent, tracestate) is None or traceparent[2] == "-"


@given(
    st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255), st.text(max_size=9)
)
def test_what_is_well_formed_is_read_back_whole(
    trace_id: int, span_id: int, flags: int, tracestate: str
) -> None:
    """Every id and flag survives, whatever the trace state is."""
    parent = parse_trace_parent(f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}", tracestate)

    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.flags) == (trace_id, span_id, flags)
    assert parent.is_sampled == (flags % 2 == 1)
