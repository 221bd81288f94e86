"""Whole log lines, as a collector of stderr reads them."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sidecar.domain.errors import ErrorKind
from sidecar.domain.report import CacheTier, ExchangeOutcome, ExchangeReport
from sidecar.domain.subject import UnscannedReason
from sidecar.telemetry.logs import ExchangeLog, configure_logs, exchange_fields, get_logger
from sidecar.telemetry.names import LogEvent
from tests.support.log_lines import LogLines
from tests.support.reports import (
    POLICY,
    PRINCIPAL,
    TRACE_ID,
    WALL_NS,
    redacted_report,
    timings,
)

PROMPT = "my card is 4111 1111 1111 1111"

GUARDRAILS = [
    {
        "name": "pii",
        "stage": "input",
        "verdict": "redact",
        "ms": 0.4,
        "findings": ["EMAIL", "IBAN"],
    },
    {
        "name": "keys",
        "stage": "input",
        "verdict": "block",
        "ms": 0.4,
        "findings": ["AWS_KEY"],
    },
    {
        "name": "tone",
        "stage": "input",
        "verdict": "error_open",
        "ms": 3.0,
        "error": "ClientConnectorError",
    },
]


def _fail(error: Exception, cause: Exception | None) -> NoReturn:
    raise error from cause


def _complete(report: ExchangeReport, trace_id: str | None = None) -> None:
    ExchangeLog(get_logger(), slow_request_ms=250.0).completed(report, trace_id)


def test_an_exchange_is_one_line_with_all_that_is_known(log_lines: LogLines) -> None:
    """The whole line of a redacted request."""
    _complete(redacted_report(), TRACE_ID)

    assert log_lines.read() == [
        {
            "event": "exchange.completed",
            "level": "info",
            "request_id": "6f1d2c3b-0000-4000-8000-000000000001",
            "outcome": "redacted",
            "latency_ms": 10.0,
            "overhead_ms": 4.0,
            "operation": "chat",
            "cache_tier": "l1",
            "body_bytes": 2048,
            "model": "gpt-4o-mini",
            "trace_id": TRACE_ID,
            "guardrails": GUARDRAILS,
            "key_id": "k1a2b3c4d5e6",
            "team": "search",
            "organization": "acme",
            "policy": "standard",
            "policy_version": 7,
        }
    ]


TEXTS = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        [
            "acme", "bearer abc", "Basic\tdXNlcg==", "bearer\u00a0abc", "basic\x1fabc", "a\\b",
            "https://user:password@host/", "egk_0123456789ab_" + "s" * 43, "x" * 2000, "\ud7ff",
            "ega_0123456789ab_" + "s" * 43,
        ]
    ),
)  # fmt: skip


@given(
    texts=st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    repeats=st.integers(min_value=0, max_value=40),
)
def test_the_line_of_an_exchange_is_the_same_as_through_all_of_structlog(
    texts: tuple[str, str, str, str, str], repeats: int
) -> None:
    """Although most of the time it takes a shorter way: whatever names hold, and however many."""
    team, organization, policy, guardrail, model = texts
    report = redacted_report()
    result = report.results[0]._replace(
        guardrail=dataclasses.replace(report.results[0].guardrail, name=guardrail),
    )
    odd = structs.replace(
        report,
        model=model,
        principal=dataclasses.replace(PRINCIPAL, team_name=team, organization_name=organization),
        policy=dataclasses.replace(POLICY, name=policy),
        results=(result,) * repeats,
    )
    lines = LogLines()
    configure_logs("info", lines.stream)
    ExchangeLog(get_logger(), slow_request_ms=250).completed(odd, TRACE_ID)
    get_logger().info(LogEvent.EXCHANGE_COMPLETED, **exchange_fields(odd, TRACE_ID))
    short, long = lines.read()

    assert short == long
    assert list(short) == list(long)


def test_a_refusal_by_a_limit_names_the_limit(log_lines: LogLines) -> None:
    """Of the twenty that each of key, team and organization may have."""
    _complete(
        ExchangeReport(
            request_id="r-1",
            outcome=ExchangeOutcome.REFUSED,
            wall_ns=WALL_NS,
            started_at=0.0,
            seconds=0.0012,
            overhead_seconds=0.0012,
            error=ErrorKind.RATE_LIMIT_EXCEEDED,
            limit="team requests/minute=60",
            status=429,
        )
    )

    [line] = log_lines.read()
    assert (line["error"], line["limit"]) == ("rate_limit_exceeded", "team requests/minute=60")


def test_a_refusal_without_an_owner_says_why_and_leaves_out_what_is_not_known(
    log_lines: LogLines,
) -> None:
    """Nothing is logged as null."""
    _complete(
        ExchangeReport(
            request_id="r-1",
            outcome=ExchangeOutcome.FAILED,
            wall_ns=WALL_NS,
            started_at=0.0,
            seconds=0.0012,
            overhead_seconds=0.0012,
            error=ErrorKind.INTERNAL_ERROR,
            error_type="KeyError",
            status=500,
            unscanned=(UnscannedReason.IMAGE, UnscannedReason.IMAGE),
            cache_tier=CacheTier.NONE,
        )
    )

    assert log_lines.read() == [
        {
            "event": "exchange.completed",
            "level": "info",
            "request_id": "r-1",
            "outcome": "failed",
            "latency_ms": 1.2,
            "overhead_ms": 1.2,
            "operation": "none",
            "cache_tier": "none",
            "body_bytes": 0,
            "error": "internal_error",
            "error_type": "KeyError",
            "status": 500,
            "unscanned": ["image"],
        }
    ]


def test_a_slow_exchange_warns_with_where_the_time_went(log_lines: LogLines) -> None:
    """Egret's own share counts: a client's slow upload is not our slowness."""
    _complete(structs.replace(redacted_report(), **timings(overhead_seconds=0.2501)))
    _complete(structs.replace(redacted_report(), **timings(overhead_seconds=0.25)))
    slow = [line for line in log_lines.read() if line["event"] == "slow_request"]

    assert slow == [
        {
            "event": "slow_request",
            "level": "warning",
            "threshold_ms": 250.0,
            "request_id": "6f1d2c3b-0000-4000-8000-000000000001",
            "outcome": "redacted",
            "latency_ms": 10.0,
            "overhead_ms": 250.1,
            "body_bytes": 2048,
            "authorize_ms": 0.2,
            "read_ms": 0.4,
            "guardrails_ms": 3.0,
            "guardrails": GUARDRAILS,
        }
    ]


PASSED = structs.replace(redacted_report(), outcome=ExchangeOutcome.ALLOWED, results=())


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": ExchangeOutcome.REDACTED},
        {"outcome": ExchangeOutcome.REFUSED},
        {"outcome": ExchangeOutcome.FAILED},
        {"outcome": ExchangeOutcome.ABORTED},
        {"unscanned": (UnscannedReason.IMAGE,)},
        {"results": redacted_report().results},
        timings(overhead_seconds=0.3),
    ],
    ids=["redacted", "refused", "failed", "aborted", "unscanned", "a finding", "slow"],
)
def test_whatever_tells_of_something_is_logged_although_the_others_are_not(
    log_lines: LogLines, changes: dict[str, Any]
) -> None:
    """With a share of none, and as if there were no sampling."""
    log = ExchangeLog(get_logger(), slow_request_ms=250.0, completed_share=0.0)
    log.completed(PASSED, None)
    log.completed(structs.replace(PASSED, **changes), None)
    first = log_lines.read()[0]

    assert first["event"] == "exchange.completed"
    assert "sampled" not in first
    assert first["outcome"] == changes.get("outcome", ExchangeOutcome.ALLOWED).value


def test_of_what_tells_of_nothing_a_share_is_logged_that_says_so(log_lines: LogLines) -> None:
    """Some thousand of ten thousand, each of which stands for ten."""
    log = ExchangeLog(get_logger(), slow_request_ms=250.0, completed_share=0.1)
    for _ in range(10_000):
        log.completed(PASSED, None)
    lines = log_lines.read()

    assert 800 < len(lines) < 1200  # six standard deviations
    assert {line["sampled"] for line in lines} == {0.1}


def test_a_level_hides_what_is_below_it(log_lines: LogLines) -> None:
    """At `warning` the line an exchange is gone and the warnings stay."""
    configure_logs("warning", log_lines.stream)
    _complete(structs.replace(redacted_report(), **timings(overhead_seconds=1.0)))

    assert [line["event"] for line in log_lines.read()] == ["slow_request"]


def test_an_exception_is_logged_by_type_and_never_by_text(log_lines: LogLines) -> None:
    """Its message may quote a request."""
    try:
        _fail(ValueError(PROMPT), KeyError(PROMPT))
    except ValueError as error:
        get_logger().error("exchange.failed", exc_info=error)
        get_logger().exception("exchange.failed")

    assert (
        log_lines.read()
        == [
            {
                "event": "exchange.failed",
                "level": "error",
                "error_type": "ValueError",
                "frames": [],
                "causes": ["KeyError"],
            }
        ]
        * 2
    )


def test_a_librarys_warning_comes_out_as_json_without_its_arguments(log_lines: LogLines) -> None:
    """Numbers are filled in; text may be anybody's and is named by its type."""
    logger = logging.getLogger("somelibrary.pool")
    logger.info("not shown: %s", PROMPT)
    logger.warning("retry %d of %s in %.2fs", 2, PROMPT, 0.5)
    logger.error("cannot take %d", Decimal(3))
    logger.warning("100% of it")

    assert log_lines.read() == [
        {
            "event": "library.log",
            "level": "warning",
            "logger": "somelibrary.pool",
            "message": "retry 2 of <str> in 0.50s",
        },
        {
            "event": "library.log",
            "level": "error",
            "logger": "somelibrary.pool",
            "message": "cannot take %d",
        },
        {
            "event": "library.log",
            "level": "warning",
            "logger": "somelibrary.pool",
            "message": "100% of it",
        },
    ]


def test_a_librarys_exception_loses_its_text_and_traceback(log_lines: LogLines) -> None:
    """`logger.exception` prints both by itself."""
    try:
        _fail(ConnectionError(PROMPT), None)
    except ConnectionError:
        logging.getLogger("somelibrary").exception("lost %s", PROMPT)

    assert log_lines.read() == [
        {
            "event": "library.log",
            "level": "error",
            "logger": "somelibrary",
            "message": "lost <str>",
            "error_type": "ConnectionError",
            "frames": [],
        }
    ]


async def test_an_unretrieved_task_is_reported_without_what_it_held(log_lines: LogLines) -> None:
    """Asyncio formats the task and its exception into the message itself."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError(PROMPT)

    task = asyncio.ensure_future(fail())
    await asyncio.wait([task])
    del task
    gc.collect()
    [line] = log_lines.read()

    assert line["message"] == "Task exception was never retrieved"
    assert line["error_type"] == "ValueError"
    assert PROMPT not in log_lines.text()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_every_level_of_the_settings_can_be_configured(log_lines: LogLines, level: str) -> None:
    """The pattern in settings and the table here agree."""
    configure_logs(level, log_lines.stream)
    get_logger().error("seen")

    assert log_lines.read() == [{"event": "seen", "level": "error"}]


def test_logs_go_to_stderr_and_leave_stdout_alone() -> None:
    """Stdout belongs to commands that print results."""
    program = (
        "from sidecar.telemetry.logs import configure_logs, get_logger;"
        "configure_logs('info'); get_logger().info('started', workers=2)"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True)

    assert run.stdout == ""
    assert run.stderr.startswith('{"workers":2,"event":"started","level":"info","timestamp":"')


def test_a_disk_that_is_full_ends_no_process_that_logs_to_it() -> None:
    """A supervisor that died of a line about a worker took all others with it."""
    program = (
        "import logging; from sidecar.telemetry.logs import configure_logs, get_logger;"
        "configure_logs('debug'); logs = get_logger();"
        "logs.debug('one'); logs.info('two'); logs.warning('three'); logs.error('four');"
        "logs.critical('five'); logs.exception('six'); logging.getLogger('x').error('seven');"
        "print('alive', flush=True)"
    )
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-c", program]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=False, text=True)

    assert run.stdout == "alive\n"
