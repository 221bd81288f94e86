"""`egret bench` without a gateway: what it makes of wrong usage and of headers."""

from __future__ import annotations

from pathlib import Path

import pytest
from egret_tools.cli.bench import Measured, percentile, timings, turn_rows
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command_line import Egret

NOWHERE = Egret("postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("authorize;dur=0.2, egret;dur=1.25", {"authorize": 0.2, "egret": 1.25}),
        ('cache;desc="hit", upstream;dur=30', {"upstream": 30.0}),
        ("egret;dur=1.2.3, upstream;dur=", {}),
        ("", {}),
    ],
)
def test_durations_are_read_and_nothing_else(value: str, found: dict[str, float]) -> None:
    """A provider may write what it likes into the same header."""
    assert dict(timings(value)) == found


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(
    values: list[float], share: float
) -> None:
    """The smallest of them."""
    found = percentile(values, share)
    assert sum(one <= found for one in values) >= share * len(values)
    assert found == min(values) or sum(one < found for one in values) < share * len(values)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("ftp://gateway",), "is no URL of a gateway"),
        (
            ("https://gateway", "--key", "k", "--body", "none.json"),
            "none.json: No such file or directory",
        ),
        (
            ("https://gateway", "--key", "k", "--ca-file", "none.pem"),
            "none.pem: No such file or directory",
        ),
        (("https://gateway", "--key", ""), "no API key is known; give --key or EGRET_KEY"),
        (
            ("https://gateway", "--key", "k\n"),
            "--key has a line end or another control character; remove it",
        ),
        (("--run", "nowhere"), "nowhere/egret.json: No such file or directory"),
        (
            ("https://gateway", "--key", "k", "--conversation", "--size", "64 KB"),
            "64 KB is no size; write for example 64k or 1m",
        ),
        (
            ("https://gateway", "--key", "k", "--conversation", "--size", "1k"),
            "1024 bytes have no room for 40 messages; ask for a longer --size",
        ),
        (
            ("https://gateway", "--key", "k", "--conversation", "--body", "body.json"),
            "--body is not sent with --conversation; leave one out",
        ),
    ],
    ids=[
        "scheme",
        "no body",
        "no certificates",
        "no key",
        "line end in the key",
        "no stack",
        "size",
        "small size",
        "two bodies",
    ],
)
def test_wrong_usage_is_said_in_a_line_before_anything_is_sent(
    words: tuple[str, ...], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do."""
    monkeypatch.chdir(tmp_path)

    ran = NOWHERE("bench", *words)

    assert ran.code == 2
    assert problem in ran.err


def test_a_gateway_that_is_not_there_loses_all_and_says_of_what_kind() -> None:
    """Nothing is retried."""
    ran = NOWHERE("bench", "http://127.0.0.1:1", "--key", "k", "--requests", "3")

    assert ran.code == 1
    assert "no answer, 3 lost (ClientConnectorError)" in ran.err


def test_a_turn_has_its_medians_and_its_requests_without_success() -> None:
    """A turn of which none succeeded has no times."""
    first, then = Measured(), Measured()
    first.statuses.update({200: 2, 429: 1})
    for milliseconds in (3.0, 5.0):
        first.note("whole answer", milliseconds)
        first.note("egret", milliseconds / 2)
    then.lost["ClientConnectorError"] = 3

    rows = turn_rows([first, then])

    assert rows[0] == {
        "turn": 1, "requests": 3, "refused": 1, "lost": 0,
        "p50_ms": 3.0, "egret_p50_ms": 1.5, "guardrails_p50_ms": None,
    }  # fmt: skip
    assert [rows[1][name] for name in ("requests", "refused", "lost", "p50_ms")] == [3, 0, 3, None]
    assert (first.has_failures, then.has_failures, Measured().has_failures) == (True, True, False)
