"""Writes docs/protocol.md from the tables of the protocol: `python -m quality.protocol_page`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

from sidecar.extproc.phases import (
    ACTIONS,
    LATE,
    TRANSITIONS,
    Phase,
)

PAGE: Final = Path(__file__).parent.parent / "docs" / "protocol.md"

HEAD: Final = """# The protocol of one stream

Envoy opens one ext_proc stream for each HTTP request. `sidecar/extproc/protocol.py` tracks it as one object with one phase: which message may come when, and what answers it. This page is generated from the tables of `sidecar/extproc/phases.py` by `python -m quality.protocol_page`; a test holds it current.

- A message that a phase does not expect is a fault: the request is refused, or, once it went on, the stream is aborted.
- Nothing of a request goes on before `forward`, and nothing of a judged answer before its verdict.
- A stream that Egret aborts ends with a gRPC error, so that Envoy fails closed.

Messages have the names that ext_proc gives them; actions, in *italics*, are calls of the pipeline.
"""  # noqa: E501 - one line a paragraph


def page() -> str:
    """Return the page."""
    return "\n".join((HEAD, *_diagram(), "", *_table(), ""))


def _diagram() -> list[str]:
    """Return the moves from phase to phase; messages that change no phase are in the table."""
    moves: defaultdict[tuple[Phase, Phase], list[str]] = defaultdict(list)
    for phase, messages in TRANSITIONS.items():
        for message, leads_to in messages.items():
            for after in leads_to:
                if after not in {phase, Phase.ENDED}:
                    moves[phase, after].append(message.value)
    for action, phases in ACTIONS.items():
        for phase, leads_to in phases.items():
            for after in leads_to:
                if action != "refuse":
                    moves[phase, after].append(action)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.AWAIT_HEADERS.name}"]
    lines += [
        f"    {before.name} --> {after.name}: {', '.join(names)}"
        for (before, after), names in moves.items()
    ]
    return [*lines, f"    {Phase.ENDED.name} --> [*]", "```"]


def _table() -> list[str]:
    """Return what each phase takes."""
    rows = ["| phase | messages | actions | late after its budget |", "| --- | --- | --- | --- |"]
    for phase, messages in TRANSITIONS.items():
        taken = ", ".join(f"`{message.value}`" for message in messages)
        actions = ", ".join(f"*{name}*" for name, phases in ACTIONS.items() if phase in phases)
        late = f"`{LATE[phase].value}`" if phase in LATE else ""
        rows.append(f"| {phase.value} | {taken} | {actions} | {late} |")
    return rows


if __name__ == "__main__":
    PAGE.write_text(page())
