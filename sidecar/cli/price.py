"""`egret price`: prices of tokens, and the time they hold from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from sidecar.cli.admin_server import AdminServer
from sidecar.cli.arguments import MomentError, parse_time, read_text
from sidecar.cli.connection import on_connection
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Cell,
    Output,
    OutputOption,
    Row,
    counted,
    fail,
    note,
    print_record,
    print_rows,
)
from sidecar.domain.validation import plain_fault
from sidecar.storage.usage_store import list_prices, set_prices
from sidecar.usage.prices import (
    ABOVE_PRICES,
    Price,
    PriceFileError,
    PriceRow,
    read_prices,
)

price = typer.Typer(no_args_is_help=True, help="Prices of tokens: US dollars per million.")

_COLUMNS: Final = ("model", "input", "output", "cached_input", "cache_write", "valid_from")
_MORE: Final = ("cache_write_hour", "above_tokens", *ABOVE_PRICES)
"""Columns that a table has only if a price of it has them."""
_OPTIONS: Final = {
    "model": "MODEL",
    "output": "--output-tokens",
    "output_above": "--output-tokens-above",
    "above_tokens": "--above",
    "valid_from": "--from",
}
"""Of fields that have another name as an option."""


@price.command("set")
def set_(  # noqa: PLR0913, PLR0917 - options of a command
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, or a glob.")],
    input_: Annotated[str, typer.Option("--input", help="For input that was not cached.")],
    output_: Annotated[str, typer.Option("--output-tokens", help="For output.")],
    cached_input: Annotated[
        str | None, typer.Option("--cached-input", help="Read from the provider's cache.")
    ] = None,
    cache_write: Annotated[
        str | None, typer.Option("--cache-write", help="Written to the provider's cache.")
    ] = None,
    cache_write_hour: Annotated[
        str | None, typer.Option("--cache-write-hour", help="Written to it and kept an hour.")
    ] = None,
    above_tokens: Annotated[
        int | None,
        typer.Option(
            "--above", min=1, help="Tokens of input beyond which another price holds.", metavar="N"
        ),
    ] = None,
    input_above: Annotated[
        str | None, typer.Option("--input-above", help="`--input` of such a request.")
    ] = None,
    output_above: Annotated[
        str | None, typer.Option("--output-tokens-above", help="`--output-tokens` of it.")
    ] = None,
    cached_input_above: Annotated[
        str | None, typer.Option("--cached-input-above", help="`--cached-input` of it.")
    ] = None,
    cache_write_above: Annotated[
        str | None, typer.Option("--cache-write-above", help="`--cache-write` of it.")
    ] = None,
    cache_write_hour_above: Annotated[
        str | None, typer.Option("--cache-write-hour-above", help="`--cache-write-hour` of it.")
    ] = None,
    since: Annotated[str, typer.Option("--from", help="When it begins to hold.")] = "now",
    output: OutputOption = Output.TABLE,
) -> None:
    """Set a price; the one before it holds until this one begins.

    Recorded usage keeps its cost.

    Example: egret price set 'gpt-4o*' --input 2.5 --output-tokens 10 --cached-input 1.25
    """
    amounts = {
        "input": input_,
        "output": output_,
        "cached_input": cached_input,
        "cache_write": cache_write,
        "cache_write_hour": cache_write_hour,
        "input_above": input_above,
        "output_above": output_above,
        "cached_input_above": cached_input_above,
        "cache_write_above": cache_write_above,
        "cache_write_hour_above": cache_write_hour_above,
    }
    others = {"model": model, "above_tokens": above_tokens, "valid_from": _moment(since)}
    try:
        made = PriceRow.model_validate(amounts | others).to_price(now=datetime.now(UTC))
    except ValidationError as error:
        fault = error.errors()[0]
        option = _OPTIONS.get(field := str(fault["loc"][0]), f"--{field.replace('_', '-')}")
        fail(f"{option}: {plain_fault(fault)}", hint="nothing was set", code=WRONG_USAGE)
    _set([made])
    print_record(_row(made), output=output)


@price.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Also former and future prices.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the prices that hold now.

    Example: egret price list --all
    """
    now = datetime.now(UTC)
    found = on_connection(
        lambda connection: list_prices(connection, at=None if every else now),
        remote=lambda server: [
            one.to_price(now=now)
            for one in server.pages(PriceRow, "/prices", query={"all": every})
        ],
    )
    more = [name for name in _MORE if any(getattr(one, name) is not None for one in found)]
    columns = (*_COLUMNS[:-1], *more, _COLUMNS[-1])
    print_rows([_row(one) for one in found], columns=columns, output=output)


@price.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with a head line, or JSON: model, input, output, cached_input, cache_write,"
            " cache_write_hour, valid_from, and above_tokens, input_above and so on for long"
            " prompts. Or LiteLLM's model_prices_and_context_window.json.",
        ),
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Set all prices of a file, or none if one of them is wrong.

    Example: egret price import prices.csv
    """
    try:
        prices = read_prices(file.name, read_text(file), now=datetime.now(UTC))
    except PriceFileError as error:
        fail(f"{file}: {error}", hint="nothing was set; correct it and run it again")
    _set(prices)
    if output is Output.JSON:
        print_rows([_row(one) for one in prices], columns=_COLUMNS, output=output)
    else:
        note(f"{counted(len(prices), 'price')} set")


def _set(prices: Sequence[Price]) -> None:
    def remote(server: AdminServer) -> None:
        body = [PriceRow.of(one).model_dump() for one in prices]
        server.call(list[PriceRow], "POST", "/prices", body=body)

    on_connection(lambda connection: set_prices(connection, prices), remote=remote)


def _moment(text: str) -> datetime:
    try:
        return parse_time(text, now=datetime.now(UTC))
    except MomentError as error:
        fail(f"--from: {error}", hint="nothing was set", code=WRONG_USAGE)


def _row(one: Price) -> Row:
    names = (*_COLUMNS[:-1], *_MORE, _COLUMNS[-1])
    return {name: _plain(getattr(one, name)) for name in names}


def _plain(value: Decimal | Cell) -> Cell:
    """Return *value*, an amount without zeros at its end."""
    if not isinstance(value, Decimal):
        return value
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
