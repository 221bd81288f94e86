"""`egret logs`: lines of a stream as people read them, whatever is in it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from egret_tools.cli.log_format import (
    MAX_VALUE_CHARACTERS,
    harmless,
    harmless_json,
    other,
    picture,
    read_line,
)
from egret_tools.cli.logs import MAX_LINE_BYTES, Lines
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from sidecar.cli.main import command_tree
from sidecar.settings.sections import inherited_environment
from sidecar.telemetry.logs import ExchangeLog, get_logger
from tests.support.log_lines import LogLines
from tests.support.reports import redacted_report

EXCHANGE = {
    "timestamp": "2026-11-25T17:58:03.123456Z", "level": "info", "event": "exchange.completed",
    "request_id": "r-1", "trace_id": "0af7651916cd43dd8448eb211c80319c", "outcome": "redacted",
    "latency_ms": 10.0, "overhead_ms": 4.0, "key_id": "k1", "team": "search",
    "organization": "acme",
    "guardrails": [
        {"name": "pii", "verdict": "redact", "ms": 0.4, "findings": ["EMAIL", "IBAN"]},
        {"name": "tone", "verdict": "error_open", "ms": 3.0, "error": "connection"},
    ],
}  # fmt: skip
SLOW = {
    "timestamp": "2026-11-25T17:59:00Z", "level": "warning", "event": "slow_request",
    "request_id": "r-2", "overhead_ms": 300.0, "outcome": "allowed",
}  # fmt: skip
DIED = {
    "timestamp": "2026-11-25T18:00:00Z", "level": "error", "event": "worker.died", "exit_code": -9,
}  # fmt: skip
ACCESS = {
    "time": "2026-11-25T18:01:00.000Z", "request_id": "r-3", "trace_id": "b" * 32, "status": 503,
    "egret": {
        "request_id": "r-3", "key_id": "k2", "team": "ads", "organization": "acme",
        "verdict": "refused", "egret_us": 1500, "guardrails": "keys=block pii=pass",
    },
}  # fmt: skip
ALL = [EXCHANGE, SLOW, DIED, ACCESS]
NOISE = b"Traceback (most recent call last):"
STREAM = b"\n".join([orjson.dumps(ALL[0]), NOISE, *map(orjson.dumps, ALL[1:])]) + b"\n"


def _logs(*words: str, stdin: bytes = STREAM) -> Result:
    line = ("logs", *words)
    return CliRunner().invoke(command_tree(line), line, input=stdin)


def _named(*words: str) -> list[int]:
    """Return which of ALL pass."""
    ran = _logs(*words, "--output", "json")
    assert ran.exit_code == 0, ran.stderr
    return [ALL.index(json.loads(line)) for line in ran.stdout.splitlines()]


def test_a_person_reads_one_line_each_with_what_counts_first() -> None:
    """Time, level, event, fields; what is no JSON stands between."""
    ran = _logs()

    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        (
            "11-25 17:58:03.123 info    exchange.completed request_id=r-1"
            " trace_id=0af7651916cd43dd8448eb211c80319c outcome=redacted latency_ms=10.0"
            " overhead_ms=4.0 key_id=k1 team=search organization=acme"
            " guardrails=pii:redact:0.4ms:EMAIL:IBAN,tone:error_open:3.0ms:connection"
        ),
        "Traceback (most recent call last):",
        "11-25 17:59:00.000 warning slow_request request_id=r-2 overhead_ms=300.0 outcome=allowed",
        "11-25 18:00:00.000 error   worker.died exit_code=-9",
        (
            f"11-25 18:01:00.000 error   envoy.access request_id=r-3 trace_id={'b' * 32}"
            " status=503 egret={request_id=r-3 key_id=k2 team=ads organization=acme"
            ' verdict=refused egret_us=1500 guardrails="keys=block pii=pass"}'
        ),
    ]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--level", "warning"), [1, 2, 3]),
        (("--level", "critical"), []),
        (("--event", "exchange.*"), [0]),
        (("--event", "worker.died", "--event", "envoy.*"), [2, 3]),
        (("--key", "k1"), [0]),
        (("--key", "k2"), [3]),
        (("--team", "ads"), [3]),
        (("--team", "acme/search"), [0]),
        (("--team", "other/search"), []),
        (("--verdict", "redacted"), [0]),
        (("--verdict", "error_*"), [0]),
        (("--verdict", "block"), [3]),
        (("--verdict", "refused", "--verdict", "allowed"), [1, 3]),
        (("--trace", "0af7651916cd43dd8448eb211c80319c"), [0]),
        (("--request-id", "r-3"), [3]),
        (("--slow", "1.5"), [0, 1, 3]),
        (("--slow", "4.1"), [1]),
        (("--since", "2026-11-25T18:00:00Z"), [2, 3]),
        (("--since", "999999w"), [0, 1, 2, 3]),
        (("--level", "error", "--since", "2026-11-25T18:00:30"), [3]),
    ],
)
def test_a_filter_keeps_what_it_names_of_both_logs(
    words: tuple[str, ...], wanted: list[int]
) -> None:
    """Several filters are all to be met; one given twice needs one of its values."""
    assert _named(*words) == wanted


def test_since_counts_from_now() -> None:
    """A line of a minute ago is within five minutes, one of an hour ago is not."""
    now = datetime.now(UTC)
    lines = [
        {"timestamp": (now - timedelta(minutes=minutes)).isoformat(), "event": f"e{minutes}"}
        for minutes in (60, 1)
    ]
    ran = _logs("--since", "5m", stdin=b"\n".join(map(orjson.dumps, lines)))

    assert "e1" in ran.stdout
    assert "e60" not in ran.stdout


def test_programs_get_the_lines_as_they_were_written() -> None:
    """Byte for byte, odd blanks and order included; what is no JSON is counted beside them."""
    odd = b'{ "event" : "a", "caf\xc3\xa9":"\\u00e9", "n": 1.50 }\r'
    ran = _logs("--output", "json", stdin=odd + b"\n" + NOISE + b"\n\n" + odd)

    assert ran.stdout_bytes == odd + b"\n" + odd + b"\n"
    assert ran.stderr == "lines that are no JSON: 1\n"


def test_what_is_asked_for_hides_what_is_no_json_and_says_so() -> None:
    """It cannot be known whether it would have been wanted."""
    ran = _logs("--level", "debug")

    assert NOISE.decode() not in ran.stdout
    assert ran.stderr == "lines that are no JSON: 1\n"


HOSTILE = [
    pytest.param(b"\x00\xff\xfe\x1b[2J" * 100, id="binary"),
    pytest.param(b"[" * 100_000, id="an endless array"),
    pytest.param(b'{"event":' * 400 + b"1" + b"}" * 400, id="deeper than can be written"),
    pytest.param(b'{"event":{"a":1},"level":[],"timestamp":3,"guardrails":"x"}', id="types"),
    pytest.param(b'{"event":"e","guardrails":[1,{"name":2,"verdict":3},null]}', id="guardrails"),
    pytest.param(b'{"time":null,"status":"x","egret":[1]}', id="types of an access log"),
    pytest.param(b'{"timestamp":"9999-99-99T00:00:00Z","event":"e"}', id="no time"),
    pytest.param(b'{"event":"e","n":1e999,"m":123456789012345678901234567890}', id="numbers"),
    pytest.param(b'{"event":"\\ud800"}', id="half a character"),
    pytest.param(b'{"event":"e","event":"f"}', id="twice the same name"),
    pytest.param(b'1\n[]\nnull\n"{}"\n{}', id="JSON that is no object"),
    pytest.param(b"x" * (3 * MAX_LINE_BYTES), id="three megabytes"),
    pytest.param(b"", id="nothing"),
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE)
@pytest.mark.parametrize("words", [(), ("--output", "json"), ("--slow", "1", "--verdict", "x")])
def test_no_line_makes_it_fail_or_hides_the_next_one(line: bytes, words: tuple[str, ...]) -> None:
    """Whatever comes before, the line after it is shown."""
    after = EXCHANGE | {"outcome": "x", "overhead_ms": 5}
    ran = _logs(*words, stdin=line + b"\n" + orjson.dumps(after))

    assert ran.exception is None
    assert ran.exit_code == 0
    assert "exchange.completed" in ran.stdout.splitlines()[-1]


def test_what_is_too_long_is_not_kept_and_is_counted() -> None:
    """Memory stays that of one line, also while it has no end."""
    lines = Lines()
    for _ in range(100):
        assert list(lines.feed(b"x" * MAX_LINE_BYTES)) == []
        assert len(lines._begun) <= MAX_LINE_BYTES
    assert list(lines.feed(b"\nshort\nrest")) == [b"short"]
    assert (list(lines.close()), lines.too_long) == ([b"rest"], 1)

    ran = _logs(stdin=b"x" * (MAX_LINE_BYTES + 1) + b"\n")
    assert (ran.stdout, ran.stderr) == ("", "lines of over 1048576 bytes: 1\n")


@given(st.lists(st.binary(max_size=20).filter(lambda one: b"\n" not in one)), st.integers(1, 9))
def test_lines_are_the_same_however_they_come(wanted: list[bytes], size: int) -> None:
    """Cut anywhere, a byte at a time included."""
    text, lines = b"\n".join(wanted), Lines()
    got = [one for at in range(0, len(text), size) for one in lines.feed(text[at : at + size])]
    got += lines.close()

    assert b"\n".join(got) == (text.removesuffix(b"\n") if text.endswith(b"\n") else text)


STEERING = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egnissim\u2066\u200b\u2028\x7f\U000e0041"


def _steers(text: str) -> bool:
    return any(unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for one in text)


def test_nothing_in_a_line_steers_the_terminal_that_shows_it() -> None:
    """Escapes stand in the place of escape sequences, in names, values, events and odd lines."""
    line = {"event": STEERING, "level": STEERING, STEERING: {STEERING: [STEERING]}, "a": STEERING}
    shown = _logs(stdin=orjson.dumps(line) + b"\n" + STEERING.encode()).stdout

    assert len(shown.splitlines()) == 2
    assert not _steers(shown.replace("\n", ""))
    assert r"\u001b]0;title\u0007" in shown
    assert r"\udb40\udc41" in shown


@given(st.text())
def test_harmless_text_says_the_same_in_json(text: str) -> None:
    """Into a terminal, lines for programs lose no meaning."""
    raw = orjson.dumps({"a": text})
    shown = harmless_json(raw)

    assert not _steers(shown)
    assert json.loads(shown) == json.loads(raw)


VALUES = st.recursive(
    st.none() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["event", "egret", "guardrails", "a"]), VALUES))
def test_any_json_is_one_line_that_steers_nothing(fields: dict[str, object]) -> None:
    """Also where names of fields are those that have a meaning."""
    for extra in ({}, {"time": "", "status": 1}):
        raw = json.dumps({**fields, **extra}, allow_nan=True).encode()
        line = read_line(raw)
        pieces = (other(raw),) if line is None else picture(line)
        assert not _steers("".join(text for text, _ in pieces))


def test_a_value_cannot_pass_for_fields() -> None:
    """It is in quotes where it holds what fields are parted by; a long one is cut."""
    line = {
        "event": "e",
        "a": "1 outcome=allowed",
        "b": 'x"y',
        "c": "v" * 999,
        "d": "",
        "e": "a,b:x",
    }
    shown = _logs(stdin=orjson.dumps(line)).stdout

    assert shown == (
        f'{"-" * 18} -       e a="1 outcome=allowed" b="x\\"y" c={"v" * MAX_VALUE_CHARACTERS}…'
        ' d="" e="a,b:x"\n'
    )


def test_what_can_be_read_is_left_as_it_is() -> None:
    """No script of the world is an attack by itself."""
    assert harmless("Grüße, مرحبا, 你好, 🦩") == "Grüße, مرحبا, 你好, 🦩"


def test_lines_as_egret_writes_them_are_read(log_lines: LogLines) -> None:
    """No example of ours: the logger's own."""
    ExchangeLog(get_logger(), slow_request_ms=1.0).completed(redacted_report(), None)
    ran = _logs("--verdict", "redacted", "--slow", "4", stdin=log_lines.stream.getvalue())

    assert "exchange.completed" in ran.stdout
    assert "slow_request" in ran.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--level", "loud"), "there is no level loud"),
        (("--since", "soon"), "--since"),
        (("--follow",), "--follow needs a file"),
        (("/nowhere/egret.log",), "No such file"),
        (("/",), "Is a directory"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_hint(words: tuple[str, ...], problem: str) -> None:
    """In one line, and as wrong usage."""
    ran = _logs(*words)

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert problem in ran.stderr
    assert ran.stderr.count("\n") == 1


def _started(*words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sidecar", "logs", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=inherited_environment() | {"COLUMNS": "80", "TERM": "xterm"},
    )


def test_a_followed_file_is_read_on_when_it_grows_is_cut_or_replaced(tmp_path: Path) -> None:
    """And Ctrl-C ends it quietly."""
    file = tmp_path / "egret.log"
    file.write_bytes(b'{"event":"one"}\n')
    process = _started("--follow", "--output", "json", str(file))
    assert process.stdout is not None
    assert process.stdout.readline() == b'{"event":"one"}\n'
    with file.open("ab") as added:
        added.write(b'{"event":"two"}\n{"event":"ha')
    assert process.stdout.readline() == b'{"event":"two"}\n'
    (tmp_path / "next").write_bytes(b'{"event":"three"}\n')
    (tmp_path / "next").rename(file)
    assert process.stdout.readline() == b'{"event":"three"}\n'
    file.write_bytes(b'{"e":4}\n')
    assert process.stdout.readline() == b'{"e":4}\n'
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=60) == (b"", b"lines that are no JSON: 1\n")
    assert process.returncode == 0


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    """As `| head` does."""
    file = tmp_path / "egret.log"
    file.write_bytes(STREAM * 3000)
    process = _started(str(file))
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    problems = process.stderr.read()
    process.stderr.close()

    assert (process.wait(timeout=60), problems) == (0, b"")


def test_a_terminal_gets_colours_and_nothing_else_that_steers_it(tmp_path: Path) -> None:
    """Also with --output json, where a pipe gets the bytes as they are."""
    file = tmp_path / "egret.log"
    raw = orjson.dumps(EXCHANGE | {"model": "\x1b\x9b\u202e"}).replace(b",", b",\r", 1)
    file.write_bytes(raw)
    table, lines = _on_a_terminal(str(file)), _on_a_terminal(str(file), "--output", "json")

    assert "\x1b[33mredacted\x1b[0m" in table
    assert not _steers(re.sub(r"\x1b\[[0-9;]*m", "", table).rstrip("\r\n"))
    assert not _steers(lines.rstrip("\r\n"))
    assert json.loads(lines) == json.loads(raw)


def _on_a_terminal(*words: str) -> str:
    ours, theirs = pty.openpty()
    with _started(*words, stdout=theirs) as process:
        os.close(theirs)
        seen = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()
