"""Plans of `egret apply` and `diff` as they are printed, and both commands by the API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from sidecar.admin.installation.objects import Kind
from sidecar.admin.installation.plan import PlannedAction
from sidecar.cli.admin_server import words_in_force
from sidecar.cli.connection import on_server
from sidecar.cli.policy_change import print_code
from sidecar.cli.terminal import Output, Row, ask, counted, fail, note, print_json, print_rows

_COLUMNS: Final = ("action", "kind", "name", "field", "before", "after", "why")
_SHOWN_ROWS: Final = 500
STDIN: Final = "stdin"
"""The path of standard input, from which no answer can be read as well."""
_PATH: Final = re.compile(r"[a-z-]+(/[a-z0-9][a-z0-9._-]*){0,2}(\.yaml)?")
"""Of an exported file: no part of it begins with a dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesThere:
    """Files for the server, by path, and the set that they are."""

    texts: Mapping[str, str] = field(repr=False)
    file_set: str
    prune: bool

    def body(self, **more: object) -> dict[str, object]:
        """Return the body of a request."""
        return {"files": self.texts, "file_set": self.file_set, "prune": self.prune, **more}


def show_plan(
    plan: Mapping[str, Any], *, file_set: str, lost: Mapping[str, str] | None = None
) -> None:
    """Print the plan: a table of objects, the difference of each policy, and counts.

    *lost* has a warning for policies, by name.
    """
    rows = [row for one in plan["changes"] for row in _rows(one)]
    if rows:
        print_rows(rows[:_SHOWN_ROWS], columns=_COLUMNS, output=Output.TABLE)
    if len(rows) > _SHOWN_ROWS:
        note(f"… and {len(rows) - _SHOWN_ROWS} more lines; --output json has all")
    for one in plan["changes"]:
        if one["diff"] is not None:
            print_code(one["diff"], language="diff")
            if words := (lost or {}).get(one["name"]):
                note(f"warning: {words}")
    for words in plan["kept"]:
        note(f"warning: {words}")
    if left := plan["left"]:
        some = f"{counted(len(left), 'object')} in no file, such as {left[0]}"
        note(f"Of the set {file_set}, {some}; --prune deletes them.")
    if plan["adopted"]:
        note(f"New in the set {file_set}: {counted(plan['adopted'], 'object')}.")
    counts = ", ".join(f"{count} to {action}" for action, count in _counts(plan).items())
    note(f"{counts}, {plan['unchanged']} unchanged." if rows else "No changes.")


def _rows(one: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a row for each field of a change, one for any other action."""
    row = {
        **{name: one[name] for name in ("action", "kind", "name")},
        **dict.fromkeys(("field", "before", "after"), ""),
        "why": one["why"],
    }
    if one["action"] != PlannedAction.CHANGE.value or not one["fields"]:
        yield row
        return
    for each in one["fields"]:
        before, after = _cell(each["before"]), _cell(each["after"])
        yield {**row, "field": each["field"], "before": before, "after": after}


def _cell(value: Any) -> str | bool | None:
    """Return a value of JSON as a person reads it."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, list):
        return ", ".join(str(_cell(one)) for one in value) or "none"
    return orjson.dumps(value).decode()


def _counts(plan: Mapping[str, Any]) -> dict[str, int]:
    actions = [one["action"] for one in plan["changes"]]
    return {action.value: actions.count(action.value) for action in PlannedAction}


def print_plan(plan: Mapping[str, Any], *, applied: bool) -> None:
    """Print the plan as JSON."""
    kinds = {kind.value.lower(): kind.value for kind in Kind}
    left = [one.partition(" ") for one in plan["left"]]
    print_json(
        {
            "applied": applied,
            "drift": plan["is_drift"],
            "counts": _counts(plan) | {"unchanged": plan["unchanged"], "adopted": plan["adopted"]},
            "changes": plan["changes"],
            "kept": plan["kept"],
            "left": [{"kind": kinds[kind], "name": name} for kind, _, name in left],
        }
    )


def plan_there(files: FilesThere) -> Mapping[str, Any]:
    """Return the server's plan."""
    return on_server(
        lambda server: server.call(dict[str, Any], "POST", "/installation/plan", body=files.body())
    )


def apply_there(
    files: FilesThere,
    *,
    why: str | None,
    output: Output,
    yes: bool,
    is_dry: bool,
    no_wait: bool,
) -> None:
    """Let the server plan, ask, and let it apply that very plan."""
    plan = plan_there(files)
    is_done = is_dry or not (plan["changes"] or plan["adopted"])
    if output is Output.TABLE:
        show_plan(plan, file_set=files.file_set)
    elif is_done:
        print_plan(plan, applied=False)
    if is_done:
        return
    if plan["changes"] and not yes:
        can_ask = STDIN not in files.texts
        ask(f"Make {counted(len(plan['changes']), 'change')}?", can_ask=can_ask)
    body = files.body(digest=plan["digest"], note=why)
    applied = on_server(
        lambda server: server.call(
            dict[str, Any], "POST", "/installation/apply", body=body, wait=not no_wait
        )
    )
    if output is Output.JSON:
        print_plan(applied, applied=True)
    note(f"This {words_in_force(no_wait=no_wait)}.")


def export_there() -> tuple[dict[str, str], Sequence[str]]:
    """Return the files of the installation, and the policies with values that are not in them."""
    found = on_server(lambda server: server.call(dict[str, Any], "GET", "/installation"))
    files: dict[str, str] = found["files"]
    if not all(_PATH.fullmatch(path) for path in files):
        # It would be written outside the folder that was named.
        fail("the server names a file that is none of an installation", hint="use another server")
    return files, found["masked_policies"]
