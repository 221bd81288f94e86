"""Limits and budgets by the administration API, as the values that the database's reader returns.

Owners are named by their paths there: the API shows no ids of organizations and teams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from pydantic import TypeAdapter

from sidecar.admin.limits import (
    Holder,
    LiveLimit,
    LiveLimits,
    OwnedLimits,
    Owner,
    Source,
    SpentBudget,
)
from sidecar.admin.owners import ChangeRefusedError
from sidecar.cli.admin_server import AdminServer, owner_address
from sidecar.domain.limits import MICROS, Level, Limit, Measure
from sidecar.limits.budgets import Forecast
from sidecar.limits.limit_syntax import Selectors, read_limit, written

_LIMIT: Final = TypeAdapter(Limit)
_SELECTORS: Final = TypeAdapter(Selectors)
_PARAMETERS: Final = {Level.KEY: "key", Level.TEAM: "team", Level.ORGANIZATION: "organization"}


def owned_limits_there(server: AdminServer, owner: Owner) -> OwnedLimits:
    """Return the limits that are set for *owner* itself."""
    return _owned(owner, server.call(dict[str, Any], "GET", _place(owner)))


def change_limits_there(
    server: AdminServer, owner: Owner, change: Callable[[OwnedLimits], tuple[Limit, ...]]
) -> OwnedLimits:
    """Replace the limits of *owner* by the result of *change*, unless another changed them."""
    limits = change(owned_limits_there(server, owner))
    body = {"limits": [written(one) for one in limits]}
    changed = server.call(dict[str, Any], "PUT", _place(owner), body=body, if_match=server.etag)
    return _owned(owner, changed)


def holders_there(server: AdminServer) -> tuple[Holder, ...]:
    """Return a holder for each limit that the token may view, and those that cannot be read."""
    found = [_holder(one) for one in server.pages(dict[str, Any], "/limits")]
    return (*found, *map(_unreadable, server.unreadable))


def live_limits_there(server: AdminServer, owner: Owner) -> LiveLimits:
    """Return how the limits of *owner*, and of the levels above it, stand."""
    found = server.call(dict[str, Any], "GET", f"{_place(owner)}/state")
    return LiveLimits(tuple(map(_live, found["limits"])), found["away"])


def spent_budgets_there(
    server: AdminServer, owner: Owner | None
) -> tuple[tuple[Holder, ...], list[SpentBudget]]:
    """Return the budgets of *owner* and those it holds, of all without one.

    Before them come the holders whose limits cannot be read.
    """
    query = {} if owner is None else {_PARAMETERS[owner.level]: owner.name}
    found = [_budget(one) for one in server.pages(dict[str, Any], "/budgets", query=query)]
    return tuple(map(_unreadable, server.unreadable)), found


def _place(owner: Owner) -> str:
    return f"{owner_address(owner.level, owner.name)}/limits"


def _owned(owner: Owner, document: Mapping[str, Any]) -> OwnedLimits:
    def limit(words: Mapping[str, Any]) -> Limit:
        selectors = _SELECTORS.validate_python(words)
        return read_limit(words["limit"], level=owner.level, owner=owner.name, selectors=selectors)

    return OwnedLimits(owner.name, tuple(map(limit, document["limits"])))


def _holder(state: Mapping[str, Any], limit: Limit | None = None) -> Holder:
    limit = _LIMIT.validate_python(state) if limit is None else limit
    owner_id = state.get("owner_id", state["owner"])
    return Holder(limit.level, owner_id, state["owner"], "", (limit,))


def _unreadable(words: Mapping[str, Any]) -> Holder:
    error = ChangeRefusedError(words["problem"], hint=words["hint"])
    level = Level(words["level"])
    return Holder(level, words["owner_id"], words["owner"], "", (), unreadable=error)


def _live(state: Mapping[str, Any]) -> LiveLimit:
    holder = _holder(state)
    resets_at = state["resets_at"]
    return LiveLimit(
        holder=holder,
        limit=holder.limits[0],
        room=state["room"],
        used=state["used"],
        remaining=state["remaining"],
        resets_at=None if resets_at is None else datetime.fromisoformat(resets_at).timestamp(),
        source=Source(state["source"]),
    )


def _budget(state: Mapping[str, Any]) -> SpentBudget:
    amount, spent, projected = (
        None if state[name] is None else int(Decimal(state[name]) * MICROS)
        for name in ("amount_usd", "spent_usd", "projected_usd")
    )
    starts_at, resets_at, runs_out_at = (
        None if state[name] is None else datetime.fromisoformat(state[name]).timestamp()
        for name in ("starts_at", "resets_at", "runs_out_at")
    )
    limit = _LIMIT.validate_python({**state, "measure": Measure.COST, "amount": amount})
    period = Forecast(int(starts_at or 0), int(resets_at or 0), projected, runs_out_at)
    return SpentBudget(_holder(state, limit), limit, period, spent or 0)
