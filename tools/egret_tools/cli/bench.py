"""`egret bench`: load on a running stack."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import orjson
import typer
from pydantic import SecretStr

from egret_tools.conversations import even_conversation
from sidecar.cli.arguments import check_api_key, read_file, trusting
from sidecar.cli.connection import DEFAULT_RUN, facts_file, read_facts
from sidecar.cli.terminal import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    counted,
    fail,
    note,
    print_json,
    print_rows,
    progress,
)
from sidecar.domain.http import HeaderName

_DURATION: Final = re.compile(r"([a-z]+);dur=([0-9.]+)")
"""One metric of `server-timing`, in milliseconds (W3C Server Timing)."""

_SIZE: Final = re.compile(r"([0-9]{1,9})([km]?)")
_ERROR: Final = 400
"""The lowest status of an error (RFC 9110)."""

_ERROR_BYTES: Final = 16_384
_ERROR_CHARACTERS: Final = 300
"""More of an error than a person needs to read."""

_HINTS: Final = {
    "ClientConnectorCertificateError": "the certificate is not trusted, or is for another name: "
    "pass its CA with --ca-file, and the name that it has",
    "ClientConnectorDNSError": "the host is unknown: check its name",
    "ClientConnectorError": "nothing listens there: check host and port",
    "ClientConnectorSSLError": "no TLS is spoken there: check the port, or write http://",
    "TimeoutError": "the answers take longer than --timeout",
}
"""For requests without an answer, by the class of their error."""

WHOLE: Final = "whole answer"
FIRST_BYTE: Final = "first byte of the body"


@dataclass(frozen=True, slots=True)
class Order:
    """Bodies of all requests, each sent once, over so many connections at a time."""

    url: str
    key: SecretStr | None
    bodies: Sequence[bytes]
    connections: int
    tls: ssl.SSLContext | None
    timeout_seconds: float


@dataclass(slots=True)
class Measured:
    """The outcome. `milliseconds` has, by name, a time of each answer that was let through.

    `statuses` counts answers; `lost` counts requests without one, by the kind of failure. `error`
    is the text of the first answer that was an error.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    error: str = ""

    def note(self, name: str, milliseconds: float) -> None:
        """Keep one time."""
        self.milliseconds.setdefault(name, []).append(milliseconds)

    @property
    def has_failures(self) -> bool:
        """Whether a request was lost, or answered with an error."""
        return bool(self.lost) or any(status >= _ERROR for status in self.statuses)

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.statuses.total() / self.seconds if self.seconds else 0.0


async def put(order: Order, advance: Callable[[int], None]) -> Measured:
    """Send all requests of *order*; *advance* receives the number that ended."""
    measured = Measured()
    left = iter(order.bodies)
    connector = aiohttp.TCPConnector(limit=order.connections, ssl=order.tls or True)
    timeout = aiohttp.ClientTimeout(total=order.timeout_seconds)
    headers = {"content-type": "application/json"}
    if order.key is not None:
        headers["authorization"] = f"Bearer {order.key.get_secret_value()}"
    began_at = time.perf_counter()
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers
    ) as client:
        clients = (_send(client, order, left, measured, advance) for _ in range(order.connections))
        await asyncio.gather(*clients)
    measured.seconds = time.perf_counter() - began_at
    return measured


async def _send(
    client: aiohttp.ClientSession,
    order: Order,
    left: Iterator[bytes],
    measured: Measured,
    advance: Callable[[int], None],
) -> None:
    for body in left:
        began_at = time.perf_counter()
        try:
            async with client.post(order.url, data=body) as answer:
                content = await answer.content.readany()
                first_byte = time.perf_counter() - began_at
                async for piece in answer.content.iter_any():
                    if not answer.ok and len(content) < _ERROR_BYTES:
                        content += piece
        except (aiohttp.ClientError, TimeoutError) as error:
            measured.lost[type(error).__name__] += 1
        else:
            measured.statuses[answer.status] += 1
            if answer.ok:
                measured.note(WHOLE, (time.perf_counter() - began_at) * 1e3)
                measured.note(FIRST_BYTE, first_byte * 1e3)
                for name, milliseconds in timings(
                    answer.headers.get(HeaderName.SERVER_TIMING, "")
                ):
                    measured.note(name, milliseconds)
            elif not measured.error:
                measured.error = error_text(content, key=order.key)
        advance(measured.statuses.total() + measured.lost.total())


def error_text(content: bytes, *, key: SecretStr | None) -> str:
    """Return the message of an error in any API's form, else the text; in one line, cut.

    A server may repeat the *key*: it is left out.
    """
    text = content[:_ERROR_BYTES].decode("utf-8", "replace")
    try:
        found = orjson.loads(content)
        error = found.get("error", found)
        text = str(error.get("message", text) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        pass
    if key is not None and key.get_secret_value():
        text = text.replace(key.get_secret_value(), "…")
    text = " ".join(text.split())
    return text if len(text) <= _ERROR_CHARACTERS else f"{text[:_ERROR_CHARACTERS]}…"


def timings(value: str) -> Iterator[tuple[str, float]]:
    """Yield names and milliseconds of a `server-timing` value; other metrics are left out."""
    for name, duration in _DURATION.findall(value):
        try:
            yield name, float(duration)
        except ValueError:
            continue


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of *values* that so many *percent* of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


_PERCENTS: Final = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "max_ms": 100}
_OURS: Final = ("upstream", "egret", "authorize", "guardrails")
"""Metrics of `server-timing` in the order they are shown."""


def bench(  # noqa: PLR0913, PLR0917 - options of a command
    url: Annotated[
        str | None, typer.Argument(help="https://host[:port]; without, that of `egret up`.")
    ] = None,
    path: Annotated[str, typer.Option("--path", help="Of the requests.")] = "/v1/chat/completions",
    model: Annotated[str, typer.Option("--model", help="Of the short chat request.")] = "gpt-4o",
    body: Annotated[
        Path | None, typer.Option("--body", help="A file with another request's body.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            envvar="EGRET_KEY",
            show_envvar=True,
            callback=check_api_key,
            help="An API key.",
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="Whom to trust, in PEM; else the system's.")
    ] = None,
    requests: Annotated[
        int, typer.Option("--requests", "-n", min=1, max=1_000_000, help="How many in all.")
    ] = 200,
    connections: Annotated[
        int, typer.Option("--connections", "-c", min=1, max=1_000, help="How many at a time.")
    ] = 4,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, max=3600, help="Seconds for one answer.")
    ] = 60.0,
    is_conversation: Annotated[
        bool,
        typer.Option("--conversation", help="Send conversations, each turn with all before it."),
    ] = False,
    turns: Annotated[
        int, typer.Option("--turns", min=2, max=1_000, help="Requests of each conversation.")
    ] = 10,
    size: Annotated[
        str, typer.Option("--size", help="Of a conversation's first request: 40 messages.")
    ] = "64k",
    run: Annotated[Path, typer.Option("--run", help="Directory of `egret up`.")] = DEFAULT_RUN,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send requests to a gateway and show where the time of its answers went.

    Egret's own share and the provider's are those of `server-timing`. Every request is a real
    one: a provider behind the gateway is asked, and charges. The client is a closed loop in
    Python: it measures latency, not the capacity of a gateway. Exits with 1 if a request is lost
    or answered with an error.

    With --conversation it sends the turns of new conversations, made up of random words, and shows
    the time of each turn: of --requests, each conversation takes as many as it has --turns.

    Example: EGRET_KEY=… egret bench https://llm.example.com --requests 500 --connections 8
    """
    if url is None:
        url, key, ca_file = _of_stack(run, key=key, ca_file=ca_file)
    if not url.startswith(("http://", "https://")):
        hint = "write it as https://host[:port]"
        fail(f"{url} is no URL of a gateway", hint=hint, code=WRONG_USAGE)
    if not key:
        fail("no API key is known", hint="give --key or EGRET_KEY", code=WRONG_USAGE)
    if is_conversation and body is not None:
        fail("--body is not sent with --conversation", hint="leave one out", code=WRONG_USAGE)
    order = Order(
        url=f"{url.rstrip('/')}/{path.lstrip('/')}",
        key=SecretStr(key),
        bodies=(),
        connections=min(connections, requests),
        tls=None if ca_file is None else trusting(ca_file),
        timeout_seconds=timeout,
    )
    if is_conversation:
        by_turn = _converse(order, model, requests=requests, turns=turns, size=_bytes(size))
        _show_turns(order, by_turn, output)
    else:
        request = _chat(model) if body is None else read_file(body)
        order = replace(order, bodies=[request] * requests)
        by_turn = [_measure(order, f"Sending {requests} requests")]
        _show(order, by_turn[0], output)
    _explain(by_turn)
    if any(measured.has_failures for measured in by_turn):
        raise typer.Exit(FAILED)


def _explain(by_turn: Sequence[Measured]) -> None:
    """Print the first error of the server, and a hint for each kind of lost requests."""
    if error := next((measured.error for measured in by_turn if measured.error), None):
        note(f"the first error says: {error}")
    for kind in sorted({kind for measured in by_turn for kind in measured.lost}):
        if hint := _HINTS.get(kind):
            note(f"{kind}: {hint}")


def _measure(order: Order, label: str) -> Measured:
    with progress(label, total=len(order.bodies)) as advance:
        return asyncio.run(put(order, advance))


def _bytes(size: str) -> int:
    """Read a size such as 64k or 1m."""
    match = _SIZE.fullmatch(size.lower())
    if match is None:
        fail(f"{size} is no size", hint="write for example 64k or 1m", code=WRONG_USAGE)
    return int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[match[2]]


def _converse(order: Order, model: str, *, requests: int, turns: int, size: int) -> list[Measured]:
    """Send each turn of new conversations, one turn of all after the other."""
    seed, count = secrets.randbits(32), requests // turns
    if not count:
        problem = f"a conversation has {turns} requests, and --requests is {requests}"
        fail(problem, hint="raise --requests or lower --turns", code=WRONG_USAGE)
    try:
        talks = [
            even_conversation(size, seed=seed + number, turns=turns, model=model)
            for number in range(count)
        ]
    except ValueError as error:
        fail(str(error), hint="ask for a longer --size", code=WRONG_USAGE)
    return [
        _measure(
            replace(order, bodies=[one.body(turn) for one in talks]),
            f"Turn {turn} of {turns}, {counted(count, 'conversation')}",
        )
        for turn in range(1, turns + 1)
    ]


def turn_rows(by_turn: Sequence[Measured]) -> list[dict[str, float | int | None]]:
    """Return a row for each turn: medians in milliseconds, and requests without success."""
    return [
        {
            "turn": turn,
            "requests": measured.statuses.total() + measured.lost.total(),
            "refused": sum(n for status, n in measured.statuses.items() if status >= _ERROR),
            "lost": measured.lost.total(),
            "p50_ms": _median(measured, WHOLE),
            "egret_p50_ms": _median(measured, "egret"),
            "guardrails_p50_ms": _median(measured, "guardrails"),
        }
        for turn, measured in enumerate(by_turn, start=1)
    ]


def _median(measured: Measured, name: str) -> float | None:
    times = measured.milliseconds.get(name)
    return round(percentile(times, 50), 3) if times else None


def _show_turns(order: Order, by_turn: Sequence[Measured], output: Output) -> None:
    """Print a row for each turn, and the medians of all later turns beside the first's."""
    rows = turn_rows(by_turn)
    later = _joined(by_turn[1:])
    summary = {
        name: {"first": _median(by_turn[0], name), "next": _median(later, name)}
        for name in (WHOLE, "egret", "guardrails")
    }
    if output is Output.JSON:
        print_json(
            {"url": order.url, "connections": order.connections, "turns": rows, "p50_ms": summary}
        )
        return
    table: list[Row] = [
        {
            name: f"{value:.2f}" if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    print_rows(table, columns=tuple(table[0]), output=Output.TABLE)
    for name, pair in summary.items():
        if pair["first"] is not None and pair["next"] is not None:
            note(f"{name}, p50: {pair['first']:.2f} ms at first, {pair['next']:.2f} ms afterwards")


def _of_stack(run: Path, *, key: str | None, ca_file: Path | None) -> tuple[str, str, Path | None]:
    hint = "name a gateway, or start `egret up`"
    try:
        facts = read_facts(run)
        found = facts["https_url"], key or facts["key"], ca_file or Path(facts["ca_file"])
    except OSError as error:
        fail(f"{facts_file(run)}: {error.strerror}", hint=hint, code=WRONG_USAGE)
    except (ValueError, KeyError):
        problem = f"{facts_file(run)}: not written by `egret up` of this version"
        fail(problem, hint=hint, code=WRONG_USAGE)
    return found


def _chat(model: str) -> bytes:
    message = {"role": "user", "content": "Say hello in one word."}
    return orjson.dumps({"model": model, "messages": [message]})


def _show(order: Order, measured: Measured, output: Output) -> None:
    times = _percentiles(measured)
    if output is Output.JSON:
        print_json(
            {
                "url": order.url,
                "connections": order.connections,
                "seconds": round(measured.seconds, 3),
                "answers_per_second": round(measured.per_second, 1),
                "statuses": {str(status): n for status, n in sorted(measured.statuses.items())},
                "lost": dict(measured.lost),
                "times": times,
            }
        )
        return
    if times:
        rows: list[Row] = [
            {"time": name, **{label: f"{one[label]:.2f}" for label in _PERCENTS}}
            for name, one in times.items()
        ]
        print_rows(rows, columns=("time", *_PERCENTS), output=Output.TABLE)
    statuses = ", ".join(
        f"{n} with status {status}" for status, n in sorted(measured.statuses.items())
    )
    lost = "".join(f", {n} lost ({kind})" for kind, n in sorted(measured.lost.items()))
    note(
        f"{statuses or 'no answer'}{lost}; {measured.seconds:.1f} s, "
        f"{measured.per_second:.1f} answers a second over {order.connections} connections"
    )
    if times and "egret" not in times:
        note("the answers have no `server-timing` of Egret's: is it in front of this provider?")


def _joined(several: Sequence[Measured]) -> Measured:
    joined = Measured()
    for measured in several:
        for name, times in measured.milliseconds.items():
            joined.milliseconds.setdefault(name, []).extend(times)
    return joined


def _percentiles(measured: Measured) -> dict[str, dict[str, float]]:
    return {
        name: {label: round(percentile(times, part), 3) for label, part in _PERCENTS.items()}
        for name in (WHOLE, FIRST_BYTE, *_OURS)
        if (times := measured.milliseconds.get(name))
    }
