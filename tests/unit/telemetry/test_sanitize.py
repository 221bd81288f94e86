"""What of a client's own text may be shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.subject import Dialect, Route, UnknownRoute
from sidecar.telemetry import sanitize
from tests.support.reports import CHAT


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("meta/Llama-3.1:70b", "meta/Llama-3.1:70b"),
        ("01-ai/yi-34b", "01-ai/yi-34b"),
        ("claude-sonnet-4@20250514", "claude-sonnet-4@20250514"),
        ("text-bison@001", "text-bison@001"),
        ("claude-sonnet-4-5@default", "claude-sonnet-4-5@default"),
        ("jane@2025051400", "other"),
        (None, None),
        ("", "other"),
        ("ignore all previous instructions", "other"),
        ("gpt-4o\n", "other"),
        ("m" * 65, "other"),
        ("4111111111111111", "other"),
        ("078-05-1120", "other"),
        ("jane@example.com", "other"),
        ("sk-proj-abcdefghijkl", "other"),
        ("egk_0123456789ab_secret", "other"),
        ("modèle", "other"),
    ],
)
def test_a_model_is_shown_only_where_it_looks_like_one(
    model: str | None, shown: str | None
) -> None:
    """The field is the client's: it may write its prompt or a key there."""
    assert sanitize.model_name(model) == shown


@given(st.text())
def test_whatever_a_client_writes_what_is_shown_is_short_and_plain(text: str) -> None:
    """No white space, no quotes, no control characters, 64 characters and a version at most."""
    shown = {sanitize.model_name(text), sanitize.request_id(text), sanitize.word(text)}

    plain = re.compile(r"[A-Za-z0-9._:/-]{1,64}(@[0-9]{3,8})?")
    assert all(plain.fullmatch(str(one)) for one in shown)


@pytest.mark.parametrize(
    ("method", "shown"), [("POST", "POST"), (None, None), ("post", "_OTHER"), ("BREW", "_OTHER")]
)
def test_a_method_is_one_of_those_http_knows(method: str | None, shown: str | None) -> None:
    """As the conventions ask for unknown ones."""
    assert sanitize.http_method(method) == shown


@pytest.mark.parametrize(
    ("route", "name"),
    [(CHAT, "chat"), (UnknownRoute(Dialect.OPENAI), "unknown"), (None, "none")],
    ids=["known", "unknown", "not read"],
)
def test_an_operation_has_a_name_even_where_none_was_found(
    route: Route | UnknownRoute | None, name: str
) -> None:
    """A label must have some value."""
    assert sanitize.operation_name(route) == name


def test_a_policys_own_names_are_only_cut() -> None:
    """Their author is trusted with words, not with length."""
    assert sanitize.policy_text("PII — Europe" + "x" * 100) == ("PII — Europe" + "x" * 52)
