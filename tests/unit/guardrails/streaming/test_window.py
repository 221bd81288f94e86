"""The window of one streamed text: views, context and edits."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.guardrails.matching.partial_match import PartialMatcher
from sidecar.guardrails.matching.rule import rule
from sidecar.guardrails.streaming.window import CONTEXT_BYTES, MAX_HELD_BYTES, Edit, StreamWindow
from tests.support.cpu_time import least_seconds

MATCHER = PartialMatcher([rule("X", "PRJ-[0-9]{4}")])


def held(window: StreamWindow) -> bytes:
    return window.buffer[window.unfinished_from(MATCHER, window.views()) :]


def test_only_the_beginning_of_a_match_is_held_back() -> None:
    """And nothing of it once it can be none any more."""
    window = StreamWindow(0)
    window.add(b"see PRJ-12")
    assert held(window) == b"PRJ-12"
    window.add(b"x")
    assert held(window) == b""


def test_a_search_begins_where_the_last_one_found_that_a_match_may_begin() -> None:
    """Also behind text that has left early as the first half of a finding."""
    window = StreamWindow(0, leaves=True)
    window.add(b"x" * 2 * CONTEXT_BYTES + b"PRJ-1")
    assert held(window) == b"PRJ-1"
    window.settle(window.end)
    window.leaves = False
    window.add(b"23")
    assert held(window) == b"PRJ-123"
    assert window.open_from == 2 * CONTEXT_BYTES


def test_escapes_of_json_text_are_resolved_for_the_search() -> None:
    """An escape that is not complete yet is held back with the match before it."""
    window = StreamWindow(0, is_json=True)
    window.add(rb'{"a": "P\u0052J-1')
    assert held(window) == rb"P\u0052J-1"
    window.add(rb"\u003")
    assert held(window) == rb"P\u0052J-1\u003"


def test_a_run_of_backslashes_is_looked_at_once() -> None:
    """Of eight kilobytes in the arguments of a tool, each event behind them took a second."""
    matcher = PartialMatcher([rule("A", "zz")])

    def held_behind(run: int) -> Callable[[], int]:
        window = StreamWindow(1, is_json=True, buffer=b'{"a":"' + rb"\\" * run + b" z")
        views = window.views()
        return lambda: len(window.buffer) - window.unfinished_from(matcher, views)

    assert held_behind(4_000)() == held_behind(500)() == 1
    assert least_seconds(held_behind(4_000)) < 20 * least_seconds(held_behind(500), tries=5)


def test_a_span_of_unescaped_text_leads_back_to_its_escapes() -> None:
    """Also through JSON text within JSON text."""
    window = StreamWindow(0, is_json=True)
    window.add(rb'{"a": "\\u0050RJ"}')
    innermost = window.views()[-1]
    start = innermost.content.index(b"PRJ")
    assert innermost.unmap(start, start + 3) == (7, 16)


def test_settled_text_is_dropped_but_for_its_context() -> None:
    """Rules look at a word's neighbours; no character is cut in two."""
    window = StreamWindow(0)
    window.add("é".encode() * 100)
    window.settle(200)
    assert window.is_settled
    assert window.end == 200
    assert len(window.buffer) == CONTEXT_BYTES
    window.add(b"x" * (MAX_HELD_BYTES + 500))
    window.settle(window.end, keep_from=200)
    assert len(window.buffer) == MAX_HELD_BYTES


def test_an_edit_over_two_tokens_goes_to_the_first() -> None:
    """From the second one it only removes."""
    window = StreamWindow(0)
    window.add(b"mail bob@example.com now")
    window.add_edit(Edit(5, 20, b"[EMAIL_1]"))
    assert window.take_edits(0, 10) == [Edit(5, 10, b"[EMAIL_1]")]
    assert window.take_edits(10, 24) == [Edit(0, 10, b"")]
    assert not window.edits


def test_an_edit_is_looked_at_once_a_token_that_it_changes() -> None:
    """Those of a whole stream were looked at for each event: ten thousand took two seconds."""
    count = 4_000
    window = StreamWindow(0)
    window.add(b"a b " * count)
    for at in reversed(range(count)):
        window.add_edit(Edit(4 * at, 4 * at + 1, b"x"))
    for at in range(count):
        assert window.take_edits(4 * at, 4 * at + 4) == [Edit(0, 1, b"x")]
        assert len(window.edits) == count - at - 1
