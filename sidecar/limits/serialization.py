"""Reads and writes the limits of an owner as JSON, and checks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.domain.validation import is_time_zone

MAX_LIMITS: Final = 20
"""Of one owner. Each is one more counter that every request has to ask."""
MAX_AMOUNT: Final = 10**12

_PIECES: Final = {Measure.REQUESTS, Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS, Measure.TOKENS}
_PERIODS: Final = (Window.DAY, Window.WEEK, Window.MONTH)


class LimitError(ValueError):
    """A limit is not valid; the message names it and the reason."""


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    measure: Measure
    window: Window
    amount: Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT)]
    burst: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT)] | None = None
    models: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    time_zone: str = "UTC"


_decoder: Final = msgspec.json.Decoder(tuple[_Written, ...])
_encoder: Final = msgspec.json.Encoder()


def read_limits(text: str | bytes, *, level: Level, owner: str) -> tuple[Limit, ...]:
    """Return the limits of *owner*, an id.

    Raises:
        LimitError: the text is not one of `write_limits`.
    """
    if text in {"[]", b"[]"}:
        return ()
    try:
        written = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise LimitError(str(error)) from None
    limits = tuple(
        Limit(
            id=limit_id(owner, one),
            level=level,
            measure=one.measure,
            window=one.window,
            amount=one.amount,
            burst=one.burst,
            models=one.models,
            operations=one.operations,
            time_zone=one.time_zone,
        )
        for one in written
    )
    check_limits(limits)
    return limits


def write_limits(limits: Iterable[Limit]) -> str:
    """Return the text that stands for the limits of one owner; equal limits, equal texts."""
    written = [
        _Written(
            measure=limit.measure,
            window=limit.window,
            amount=limit.amount,
            burst=limit.burst,
            models=limit.models,
            operations=limit.operations,
            time_zone=limit.time_zone,
        )
        for limit in limits
    ]
    return _encoder.encode(written).decode()


def limit_id(owner: str, one: _Written | Limit) -> str:
    """Return the id under which a limit is counted: the same while only amounts change."""
    selectors = repr((one.models, one.operations, one.time_zone)).encode()
    digest = hashlib.sha256(selectors).hexdigest()[:8]
    return f"{owner}/{one.measure.value}/{one.window.value}/{digest}"


def owner_of(limit_id: str) -> str:
    """Return the id of the owner of a limit."""
    return limit_id.partition("/")[0]


def check_limits(limits: tuple[Limit, ...]) -> None:
    """Check rules that concern several fields or limits.

    Raises:
        LimitError: two of the same kind, a window that does not go with the measure, a burst that
            is out of bounds, an unknown time zone, or too many limits.
    """
    if len(limits) > MAX_LIMITS:
        raise LimitError(f"more than {MAX_LIMITS} limits")
    if len({limit.id for limit in limits}) < len(limits):
        raise LimitError("two limits measure the same; keep one of them")
    for limit in limits:
        if limit.window not in (takes := windows_of(limit.measure)):
            name, given = limit.measure.value, limit.window.value
            if takes == (Window.ONCE,):
                raise LimitError(f"{name} has no window; write {name}=AMOUNT")
            names = ", ".join(window.value for window in takes)
            if limit.window is Window.ONCE:
                raise LimitError(f"{name} needs a window, one of {names}")
            raise LimitError(f"{name} goes with {names}, not {given}")
        if limit.burst is not None and limit.window in {*_PERIODS, Window.ONCE}:
            raise LimitError("a burst goes with second and minute only")
        if limit.burst is not None and not 1 <= limit.burst <= MAX_AMOUNT:
            raise LimitError(f"a burst is between 1 and {MAX_AMOUNT}")
        if not is_time_zone(limit.time_zone, was_stored=True):
            raise LimitError(f"there is no time zone {limit.time_zone[:60]}")


def windows_of(measure: Measure) -> tuple[Window, ...]:
    """Return the windows that go with *measure*, the shortest first."""
    if measure in _PIECES:
        return (Window.SECOND, Window.MINUTE, Window.DAY)
    return _PERIODS if measure is Measure.COST else (Window.ONCE,)
