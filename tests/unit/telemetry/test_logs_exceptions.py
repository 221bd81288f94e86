"""Exceptions as fields: types and our frames, no text."""

from __future__ import annotations

import json

import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.settings.process import SettingsError, read_settings
from sidecar.telemetry.logs import MAX_CAUSES, exception_fields

PROMPT = "my card is 4111 1111 1111 1111"


def test_a_foreign_exception_is_named_and_not_quoted() -> None:
    """A JSON error quotes the document it failed on; its class does not."""
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads(PROMPT)

    assert exception_fields(raised.value) == {
        "error_type": "json.decoder.JSONDecodeError",
        "frames": [],
    }


def test_our_own_frames_are_named_by_module_and_line_innermost_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where to look, without what was being handled."""
    monkeypatch.setenv("EGRET_SERVER__WORKERS", PROMPT)
    with pytest.raises(SettingsError) as raised:
        read_settings()
    fields = exception_fields(raised.value)
    frames = fields["frames"]

    assert fields["error_type"] == "sidecar.settings.process.SettingsError"
    assert isinstance(frames, list)
    assert [frame.partition(":")[0] for frame in frames] == ["sidecar.settings.process"]
    assert PROMPT not in json.dumps(fields)


def test_causes_and_members_of_a_group_are_listed_by_type() -> None:
    """A TaskGroup's failure says what failed inside."""
    cause = ConnectionError(PROMPT)
    inner = TimeoutError(PROMPT)
    inner.__cause__ = cause
    group = ExceptionGroup(PROMPT, [inner, KeyError(PROMPT)])

    assert exception_fields(group) == {
        "error_type": "ExceptionGroup",
        "frames": [],
        "causes": ["TimeoutError", "KeyError", "ConnectionError"],
    }


def test_a_cycle_of_causes_ends() -> None:
    """`raise a from b` and `raise b from a` can be written; a log line must still be."""
    one, other = ValueError(PROMPT), KeyError(PROMPT)
    one.__cause__, other.__cause__ = other, one

    assert exception_fields(one)["causes"] == ["KeyError"]


def test_a_long_chain_is_cut() -> None:
    """A retry loop may chain thousands."""
    first = last = ValueError(ErrorKind.INTERNAL_ERROR.value)
    for _ in range(100):
        last.__context__ = ValueError(PROMPT)
        last = last.__context__

    assert exception_fields(first)["causes"] == ["ValueError"] * MAX_CAUSES
