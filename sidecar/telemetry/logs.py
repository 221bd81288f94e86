"""Log lines as JSON on stderr, without content: exceptions by type, every field cleaned.

`configure_logs` sets up structlog and the standard library's logging for a process. Each line goes
through `redact_fields`, so that no key, prompt or completion reaches a log even if code passes one
by mistake. `ExchangeLog` renders the line about a request on a shorter way with the same result.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import random
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, cast

import orjson
import structlog
from pydantic import SecretBytes, SecretStr
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger
from typing_extensions import override

from sidecar.domain.finding import Verdict
from sidecar.domain.report import ExchangeOutcome, ExchangeReport, FaultKind
from sidecar.domain.subject import Route
from sidecar.telemetry import sanitize
from sidecar.telemetry.names import OVERFLOW, LogEvent

MAX_FRAMES: Final = 12
MAX_CAUSES: Final = 6
OUR_PACKAGE: Final = "sidecar"

REDACTED: Final = "[redacted]"
MAX_TEXT_CHARACTERS: Final = 1024
MAX_ITEMS: Final = 32
MAX_DEPTH: Final = 4
MAX_FINDING_TYPES: Final = 8

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logs(level: str, stream: BinaryIO | None = None) -> None:
    """Send structlog's and the standard library's lines to *stream*, by default stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            name_exception,
            redact_fields,
            structlog.processors.JSONRenderer(
                serializer=lambda fields, **_options: orjson.dumps(fields)
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Lines(stream or sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.captureWarnings(capture=True)
    logging.basicConfig(
        level=max(_LEVELS[level], logging.WARNING), handlers=[_LibraryLines()], force=True
    )


def get_logger() -> FilteringBoundLogger:
    """Return the logger of this process, as configured when it is first used."""
    return cast("FilteringBoundLogger", structlog.get_logger())


class _Lines(structlog.BytesLogger):
    """Drops a line that cannot be written: a full disk or a closed pipe ends no process.

    `msg` raises: `ExchangeLog` uses it, whose lost lines are counted.
    """

    @override
    def debug(self, message: bytes) -> None:
        with contextlib.suppress(OSError):
            self.msg(message)

    info = warning = error = critical = exception = debug


class _LibraryLines(logging.Handler):
    """Turns the standard library's log records into lines of the same form."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        # asyncio formats tasks and exceptions into its message, one a line after the first.
        message = str(record.msg).partition("\n")[0]
        if isinstance(record.args, tuple) and record.args:
            shown = tuple(
                value
                if isinstance(value, (bool, int, float, enum.Enum))
                else f"<{type(value).__name__}>"
                for value in record.args
            )
            # `%d` may stand for a value that is shown as a type.
            with contextlib.suppress(TypeError, ValueError):
                message = message % shown
        fields: dict[str, Any] = {"logger": record.name, "message": message}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        get_logger().log(record.levelno, LogEvent.LIBRARY, **fields)


def name_exception(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    """Replace `exc_info` by the type of the exception and our frames, as a structlog processor."""
    info = fields.pop("exc_info", None)
    if not info:
        return fields
    error = info if isinstance(info, BaseException) else sys.exc_info()[1]
    if isinstance(info, tuple):
        error = info[1]
    if error is not None:
        fields.update(exception_fields(error))
    return fields


def exception_fields(error: BaseException) -> dict[str, object]:
    """Return the fields `error_type`, `frames` (innermost first) and, if any, `causes`."""
    frames: list[str] = []
    traceback = error.__traceback__
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == OUR_PACKAGE:
            frames.append(f"{module}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    fields: dict[str, object] = {
        "error_type": type_name(error),
        "frames": frames[::-1][:MAX_FRAMES],
    }
    causes: list[BaseException] = []
    waiting = _reasons(error)
    while waiting and len(causes) < MAX_CAUSES:
        cause = waiting.pop(0)
        if cause is not error and not any(cause is one for one in causes):
            causes.append(cause)
            waiting.extend(_reasons(cause))
    if causes:
        fields["causes"] = [type_name(cause) for cause in causes]
    return fields


def _reasons(error: BaseException) -> list[BaseException]:
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    reason = error.__cause__
    if reason is None and not error.__suppress_context__:
        reason = error.__context__
    return inner if reason is None else [*inner, reason]


def type_name(error: BaseException) -> str:
    """Return the class of an exception with its module, bare for built-in ones."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


_Many = dict[object, object] | list[object] | tuple[object, ...] | set[object] | frozenset[object]
_MANY: Final = frozenset({dict, list, tuple, set, frozenset})
_PLAIN: Final = frozenset({int, float, bool, type(None)})

_SECRET_NAME: Final = re.compile(
    r"authorization|api[-_]?key|secret|passw|credential|cookie|bearer|^key$|token$|dsn$"
    r"|^(prompt|completion|content|body|messages)$",
    re.IGNORECASE,
)
_EGRET_KEY: Final = re.compile(r"(eg[ak])_([0-9A-Za-z]{1,12})_[0-9A-Za-z]+")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+\S+")
_USER_INFO: Final = re.compile(r"://[^/\s@]+(?:@|…$)")
"""Up to its @, or to the end of a text that was cut before one."""


def redact_fields(
    _logger: object, _method: str, fields: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Clean every field of a log line, as a structlog processor."""
    for name, value in fields.items():
        fields[name] = _clean_named(name, value, MAX_DEPTH)
    return fields


def _clean_named(name: str, value: object, depth: int) -> object:
    # A number under such a name is a count (`input_token`), and None says that there is none.
    if type(value) in _PLAIN:
        return value
    return REDACTED if _SECRET_NAME.search(name) else _clean(value, depth)


def _clean(value: object, depth: int) -> object:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in _MANY and depth > 0:
        if isinstance(value, dict):
            pairs = list(cast("dict[object, object]", value).items())[:MAX_ITEMS]
            return {
                _clean_text(name): _clean_named(name, item, depth - 1)
                for name, item in pairs
                if isinstance(name, str)
            }
        return [_clean(item, depth - 1) for item in list(cast("list[object]", value))[:MAX_ITEMS]]
    match value:
        case SecretStr() | SecretBytes():
            shown: object = REDACTED
        case enum.Enum():
            shown = _clean(value.value, depth)
        case str():
            shown = _clean_text(str(value))
        case bytes() | bytearray() | memoryview():
            shown = f"<{len(value)} bytes>"
        case _:
            shown = f"<{type(value).__name__}>"
    return shown


def _clean_text(text: str) -> str:
    if len(text) > MAX_TEXT_CHARACTERS:
        text = text[:MAX_TEXT_CHARACTERS] + "…"
    if "egk_" in text or "ega_" in text:
        text = _EGRET_KEY.sub(rf"\1_\2_{REDACTED}", text)
    if "://" in text:
        text = _USER_INFO.sub(f"://{REDACTED}@", text)
    if " " in text:
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return text


_OF_A_SLOW_REQUEST: Final = (
    "request_id", "outcome", "latency_ms", "overhead_ms", "body_bytes", "trace_id",
)  # fmt: skip


class ExchangeLog:
    """The lines about exchanges.

    Each request pays for `exchange.completed`: the line is built here in one go, as structlog's
    processors would build it at three times the cost.
    """

    def __init__(
        self,
        logger: FilteringBoundLogger,
        *,
        slow_request_ms: float,
        completed_share: float = 1.0,
    ) -> None:
        self._logger = logger.bind()
        self._is_shown = self._logger.is_enabled_for(logging.INFO)
        self._write = cast("structlog.BytesLogger", structlog.get_config()["logger_factory"]()).msg
        self._slow_request_ms = slow_request_ms
        self._slow_request_seconds = slow_request_ms / 1000
        self._completed_share = completed_share

    def completed(self, report: ExchangeReport, trace_id: str | None) -> None:
        """Write `exchange.completed`, and `slow_request` if Egret's own share took too long.

        With a share below 1, every line about a refusal, a finding or a fault is written, and
        each of the others says by `sampled` which share of them is.
        """
        is_slow = report.overhead_seconds > self._slow_request_seconds
        share = self._completed_share
        if share < 1 and (
            is_slow
            or report.outcome is not ExchangeOutcome.ALLOWED
            or report.unscanned
            # Identities: a set would hash members of an enumeration in Python (3.11).
            or any(
                result.verdict is not Verdict.PASS and result.verdict is not Verdict.SKIPPED
                for result in report.results
            )
        ):
            share = 1.0
        # Not by the request's id, which a client may have chosen.
        is_wanted = share >= 1 or random.random() < share  # noqa: S311 - a sample, not a secret
        if is_wanted and self._is_shown:
            fields = exchange_fields(report, trace_id)
            if share < 1:
                fields["sampled"] = share
            fields["event"] = LogEvent.EXCHANGE_COMPLETED
            fields["level"] = "info"
            fields["timestamp"] = datetime.now(UTC)
            line = orjson.dumps(fields, option=orjson.OPT_UTC_Z)
            # All values have been through `sanitize`: redaction is a second line of defence, and
            # is skipped if it cannot change the line, which has no secret names and no long
            # values: neither a key nor a URL in it, and no blank of any kind between two words.
            if not (
                b" " not in line
                and b"\\" not in line  # other blanks are escaped
                and line.isascii()  # or no ASCII
                and (b"/" not in line or b"://" not in line)  # one byte is found faster than three
                and b"egk_" not in line
                and b"ega_" not in line
                and len(report.results) <= MAX_ITEMS
            ):
                line = orjson.dumps(redact_fields(None, "", orjson.loads(line)))
            self._write(line)
        if is_slow:
            known = exchange_fields(report, trace_id)
            shown: dict[str, Any] = {
                name: known[name] for name in _OF_A_SLOW_REQUEST if name in known
            }
            for phase, step in (
                ("authorize", report.authorize),
                ("read", report.read),
                ("guardrails", report.guardrails),
            ):
                if step is not None:
                    shown[f"{phase}_ms"] = int(step[1] * 1_000_000 + 0.5) / 1000
            if "guardrails" in known:
                shown["guardrails"] = known["guardrails"]
            self._logger.warning(
                LogEvent.SLOW_REQUEST, threshold_ms=self._slow_request_ms, **shown
            )

    def fault(self, kind: FaultKind, error: BaseException) -> None:
        """Write a fault around an exchange and its place, without the exception's text."""
        self._logger.error(LogEvent.EXCHANGE_FAULT, kind=kind.value, exc_info=error)

    def failed(self, part: str, error: Exception, failures: int) -> None:
        """Write that a part of telemetry lost a report."""
        self._logger.warning(
            LogEvent.TELEMETRY_FAILED, part=part, failures=failures, exc_info=error
        )


_SHOWN: Final = slice(sanitize.MAX_CHARACTERS)
"""The part of a name that is shown."""


def exchange_fields(  # noqa: C901 - in one function, as it runs for every request
    report: ExchangeReport, trace_id: str | None
) -> dict[str, Any]:
    """Return the fields of `exchange.completed`, without those that every line has.

    It runs for every request: calls of `sanitize` are written out where that is one expression.
    """
    route, request_id = report.route, report.request_id
    principal, policy, model = report.principal, report.policy, report.model
    fields: dict[str, Any] = {
        "request_id": request_id if sanitize.REQUEST_ID.fullmatch(request_id) else OVERFLOW,
        "outcome": report.outcome._value_,
        "latency_ms": int(report.seconds * 1_000_000 + 0.5) / 1000,
        "overhead_ms": int(report.overhead_seconds * 1_000_000 + 0.5) / 1000,
        "operation": route.operation._value_
        if isinstance(route, Route)
        else sanitize.operation_name(route),
        "cache_tier": report.cache_tier._value_,
        "body_bytes": report.body_bytes,
    }
    if report.error is not None:
        fields["error"] = report.error.value
        if report.limit is not None:
            fields["limit"] = report.limit
    if report.error_type is not None:
        fields["error_type"] = sanitize.word(report.error_type)
    if report.status is not None:
        fields["status"] = report.status
    if model is not None:
        fields["model"] = model if sanitize.MODEL.fullmatch(model) else OVERFLOW
    if trace_id is not None:
        fields["trace_id"] = trace_id
    if report.results:
        # Names are values here, not keys: redaction would take one called `secrets` for a secret.
        # And `_value_`, for `value` is a function of Python's own in 3.11: ten times as slow.
        guardrails = fields["guardrails"] = []
        pass_seconds = 0.0 if report.guardrails is None else report.guardrails[1]
        pass_ms = int(pass_seconds * 1_000_000 + 0.5) / 1000
        for result in report.results:
            seconds = result.seconds
            row: dict[str, Any] = {
                "name": result.guardrail.name[_SHOWN],
                "stage": result.stage._value_,
                "verdict": result.verdict._value_,
                "ms": pass_ms if seconds is None else int(seconds * 1_000_000 + 0.5) / 1000,
            }
            if result.findings:
                types = sorted({finding.type for finding in result.findings})
                row["findings"] = [sanitize.word(one) for one in types[:MAX_FINDING_TYPES]]
            if result.failure is not None:
                row["error"] = sanitize.word(result.failure.error_type)
            guardrails.append(row)
    if report.unscanned:
        fields["unscanned"] = [reason.value for reason in dict.fromkeys(report.unscanned)]
    if principal is not None:
        fields["key_id"] = principal.key_id
        fields["team"] = principal.team_name[_SHOWN]
        fields["organization"] = principal.organization_name[_SHOWN]
    if policy is not None:
        fields["policy"] = policy.name[_SHOWN]
        fields["policy_version"] = policy.version
    return fields
