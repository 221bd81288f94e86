"""Recordings as they are kept in files, and what differs from them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tests.contract.recorded.defects import DEFECTS
from tests.contract.recorded.groups import Group

RECORDINGS: Final = Path(__file__).with_name("recordings")
REFERRED_LENGTH: Final = 160
_ITEM: Final = re.compile(r"= (.+) #(\d+)")

Recording = dict[str, dict[str, Any]]
"""All that came of each conversation, by its name."""


def as_text(recording: Recording) -> str:
    """Return a recording as it is kept: JSON with one line an item.

    A list that an earlier conversation has as well is written as `= NAME`, an item as
    `= NAME #PLACE`, where that is shorter.
    """
    known: dict[str, str] = {}
    told = [
        f"{_line(name)}: {{\n"
        + ",\n".join(
            f"{_line(part)}: {_told(value, name, part, known)}"
            for part, value in sorted(entry.items())
        )
        + "\n}"
        for name, entry in recording.items()
    ]
    return "{\n" + ",\n".join(told) + "\n}\n"


def _told(value: object, name: str, part: str, known: dict[str, str]) -> str:
    if not isinstance(value, list):
        return _line(value)
    whole = _reference(_line(value), f"{part}= {name}", known)
    items = (
        _reference(_line(item), f"{part}= {name} #{place}", known)
        for place, item in enumerate(value)
    )
    listed = "[" + ",".join(f"\n {item}" for item in items) + "]"
    return whole if whole.startswith('"') else listed


def _reference(text: str, place: str, known: dict[str, str]) -> str:
    """Return where *text* stands already in the same part of another conversation, or itself."""
    if len(text) < REFERRED_LENGTH:
        return text
    part, _, here = place.partition("=")
    reference = _line(f"={known.setdefault(f'{part} {text}', here)}")
    return reference if reference != _line(f"={here}") and len(reference) < len(text) else text


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def kept(group: Group) -> Recording:
    """Return what was recorded of a group, every list and item in full."""
    recording: Recording = json.loads(path_of(group).read_text())
    for entry in recording.values():
        for part, value in entry.items():
            if isinstance(value, str) and value.startswith("= "):
                entry[part] = recording[value[2:]][part]
            elif isinstance(value, list):
                entry[part] = [_item(item, part, recording) for item in value]
    return recording


def _item(item: object, part: str, recording: Recording) -> object:
    found = _ITEM.fullmatch(item) if isinstance(item, str) else None
    return item if found is None else recording[found[1]][part][int(found[2])]


def path_of(group: Group) -> Path:
    """Return where the recording of a group is kept."""
    return RECORDINGS / f"{group.name}.json"


def differences(group: Group, found: Recording) -> list[str]:
    """Return each conversation that came out otherwise than recorded, as a readable diff."""
    before: Recording = kept(group)
    found = json.loads(json.dumps(found))
    return [
        "\n".join([_heading(group, name), *_diff(before.get(name), found.get(name))])
        for name in [*before, *(name for name in found if name not in before)]
        if before.get(name) != found.get(name)
    ]


def _heading(group: Group, name: str) -> str:
    defects = [defect for defect in DEFECTS if defect.concerns(group.name, name)]
    notes = "".join(f"\n  known defect, may change: {defect.what}" for defect in defects)
    return f"{group.name}: {name}{notes}"


def _diff(before: object, now: object) -> Iterable[str]:
    return difflib.unified_diff(
        _indented(before), _indented(now), "recorded", "now", lineterm="", n=2
    )


def _indented(value: object) -> list[str]:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True).splitlines()
