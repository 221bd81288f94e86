"""`egret apply`, `diff` and `export` by the administration API: the server plans and applies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.admin.installation.objects import Kind
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
    plan = _plan(files)
    is_done = is_dry or not (plan["changes"] or plan["adopted"])
    if output is Output.TABLE or is_done:
        _show(plan, output=output, applied=False)
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
        _show(applied, output=output, applied=True)
    note(f"This {words_in_force(no_wait=no_wait)}.")


def diff_there(files: FilesThere, *, output: Output) -> bool:
    """Show the server's plan, and return whether files and installation differ."""
    plan = _plan(files)
    _show(plan, output=output, applied=False)
    return bool(plan["is_drift"])


def export_there() -> tuple[dict[str, str], Sequence[str]]:
    """Return the files of the installation, and the policies with values that are not in them."""
    found = on_server(lambda server: server.call(dict[str, Any], "GET", "/installation"))
    files: dict[str, str] = found["files"]
    if not all(_PATH.fullmatch(path) for path in files):
        # It would be written outside the folder that was named.
        fail("the server names a file that is none of an installation", hint="use another server")
    return files, found["masked_policies"]


def _plan(files: FilesThere) -> Mapping[str, Any]:
    return on_server(
        lambda server: server.call(dict[str, Any], "POST", "/installation/plan", body=files.body())
    )


def _show(plan: Mapping[str, Any], *, output: Output, applied: bool) -> None:
    """Print a plan of the server as those of the database are printed."""
    kinds = {kind.value.lower(): kind.value for kind in Kind}
    actions = [one["action"] for one in plan["changes"]]
    counts = {action: actions.count(action) for action in ("create", "change", "delete")}
    if output is Output.JSON:
        left = [one.partition(" ") for one in plan["left"]]
        print_json(
            {
                "applied": applied,
                "drift": plan["is_drift"],
                "counts": counts | {"unchanged": plan["unchanged"], "adopted": plan["adopted"]},
                "changes": plan["changes"],
                "kept": plan["kept"],
                "left": [{"kind": kinds[kind], "name": name} for kind, _, name in left],
            }
        )
        return
    rows: list[Row] = []
    for one in plan["changes"]:
        fixed = {name: one[name] for name in ("action", "kind", "name", "why")}
        fields = one["fields"] if one["action"] == "change" else ()
        rows += [
            fixed | {name: _cell(each[name]) for name in ("field", "before", "after")}
            for each in fields
        ] or [fixed | dict.fromkeys(("field", "before", "after"), "")]
    if rows:
        print_rows(rows[:_SHOWN_ROWS], columns=_COLUMNS, output=output)
    if len(rows) > _SHOWN_ROWS:
        note(f"… and {len(rows) - _SHOWN_ROWS} more lines; --output json has all")
    for one in plan["changes"]:
        if one["diff"]:
            print_code(one["diff"], language="diff")
    for words in plan["kept"]:
        note(f"warning: {words}")
    if plan["left"]:
        objects = counted(len(plan["left"]), "object")
        note(f"{objects} of the set in no file, such as {plan['left'][0]}; --prune deletes them.")
    words = ", ".join(f"{count} to {action}" for action, count in counts.items())
    note(f"{words}, {plan['unchanged']} unchanged." if rows else "No changes.")


def _cell(value: object) -> str | bool | None:
    return value if value is None or isinstance(value, bool) else str(value)
