"""What a log line keeps and what it never shows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from typing_extensions import override

from sidecar.domain.finding import Verdict
from sidecar.telemetry.logs import MAX_DEPTH, MAX_ITEMS, redact_fields

SECRET = "hunter2hunter2"


class Talkative:
    """An object whose repr gives everything away."""

    @override
    def __repr__(self) -> str:
        return SECRET


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("dsn", f"postgresql://egret:{SECRET}@db/egret", "[redacted]"),
        ("Authorization", f"Bearer {SECRET}", "[redacted]"),
        ("x-api-key", SECRET, "[redacted]"),
        ("api_key", SECRET, "[redacted]"),
        ("password", SECRET, "[redacted]"),
        ("client_secret", SECRET, "[redacted]"),
        ("access_token", SECRET, "[redacted]"),
        ("set-cookie", SECRET, "[redacted]"),
        ("prompt", SECRET, "[redacted]"),
        ("content", [SECRET], "[redacted]"),
        ("body", SECRET.encode(), "[redacted]"),
        ("anything", SecretStr(SECRET), "[redacted]"),
        ("anything", SECRET.encode(), "<14 bytes>"),
        ("anything", Talkative(), "<Talkative>"),
        ("anything", ValueError(SECRET), "<ValueError>"),
        ("anything", f"egk_0123456789ab_{SECRET}", "egk_0123456789ab_[redacted]"),
        ("anything", f"redis://:{SECRET}@cache:6379/0", "redis://[redacted]@cache:6379/0"),
        (
            "text",
            f"{'é' * 1000} redis://:{SECRET}@cache:6379",
            f"{'é' * 1000} redis://[redacted]@",
        ),
        ("anything", f"sent bearer {SECRET} on", "sent bearer [redacted] on"),
        ("anything", {"password": SECRET, "host": "db"}, {"password": "[redacted]", "host": "db"}),
        ("anything", [(SecretStr(SECRET), 1)], [["[redacted]", 1]]),
        ("key_id", "k1a2b3c4d5e6", "k1a2b3c4d5e6"),
        ("output_tokens", 12, 12),
        ("input_token", 12, 12),
        ("prompt_injection", "pass", "pass"),
        ("body_bytes", 2048, 2048),
        ("verdict", Verdict.ERROR_OPEN, "error_open"),
        ("secret", None, None),
        ("url", "http://tone.test/check", "http://tone.test/check"),
        ("text", "é" * 2000, "é" * 1024 + "…"),
    ],
)
def test_a_field_is_shown_or_named_by_what_it_is(name: str, value: object, shown: object) -> None:
    """Secret by name, by type or by shape; harmless otherwise."""
    fields = redact_fields(None, "info", {name: value})

    assert fields == {name: shown}
    assert SECRET not in json.dumps(fields)


def test_nesting_and_length_are_bounded() -> None:
    """A line cannot be made endless, nor the recursion."""
    deep: object = SECRET
    for _ in range(50):
        deep = [deep]
    fields = redact_fields(None, "info", {"deep": deep, "long": list(range(1000))})
    levels, inner = 0, fields["deep"]
    while isinstance(inner, list):
        levels, inner = levels + 1, inner[0]

    assert (levels, inner) == (MAX_DEPTH, "<list>")
    assert fields["long"] == list(range(MAX_ITEMS))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES))
def test_any_value_becomes_json(fields: dict[str, object]) -> None:
    """No value a caller passes makes a line fail."""
    assert isinstance(json.dumps(redact_fields(None, "info", dict(fields))), str)


@given(VALUES, st.sampled_from(["password", "x-api-key", "authorization", "client_secret"]))
def test_a_credential_never_passes_under_its_name(value: object, name: str) -> None:
    """Only counts and nothing at all are shown there."""
    shown = redact_fields(None, "info", {"nested": {name: value}})["nested"]

    assert isinstance(shown, dict)
    assert shown[name] == "[redacted]" or value is None or isinstance(value, bool | int | float)
