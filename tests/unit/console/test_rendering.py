from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from sidecar.admin.audit_log import AuditEntry
from sidecar.console.rendering import (
    csrf_field,
    diff_lines,
    differences,
    money,
    render_plain,
    visible,
)


def test_control_characters_are_shown_as_pictures_and_long_text_is_cut() -> None:
    assert visible("a\x00\x1b[31m\x7f\x9bb\n") == "a␀␛[31m␡\ufffdb\n"
    assert visible("x" * 10_000) == "x" * 200 + " …"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (Decimal(0), "$0.00"),
        (Decimal("0.00123"), "$0.0012"),
        (Decimal("0.000018000"), "$0.000018"),
        (Decimal("1234.5"), "$1,234.50"),
        (Decimal(-2), "$-2.00"),
    ],
)
def test_small_amounts_of_money_have_four_decimals(amount: Decimal, shown: str) -> None:
    """More where four would read as zero."""
    assert money(amount) == shown


def test_a_difference_is_styled_by_line() -> None:
    assert diff_lines("--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n z\n") == [
        ("minus", "--- a"),
        ("plus", "+++ b"),
        ("at", "@@ -1 +1 @@"),
        ("minus", "-x"),
        ("plus", "+y"),
        ("", " z"),
    ]


def test_a_change_shows_only_columns_that_hold_something() -> None:
    entry = AuditEntry(
        1,
        datetime(2026, 1, 1, tzinfo=UTC),
        "postgres",
        None,
        "update",
        "teams",
        "team_1",
        1,
        {"policy_name": None, "tags": [], "name": "old"},
        {"policy_name": None, "tags": ["a"], "name": "new"},
    )

    assert differences(entry) == [("name", '"old"', '"new"'), ("tags", "[]", '["a"]')]


def test_all_that_a_template_receives_is_escaped() -> None:
    page = render_plain(
        "problem.html",
        title="<t>",
        detail="<d>",
        hint=None,
        is_signed_out=False,
        fields=[('"><script>', "</textarea><script>\n")],
        action='/x"onclick="',
        csrf=lambda: csrf_field('"><script>'),
    )

    assert b"<script>" not in page.body
    assert b'"onclick="' not in page.body
    assert b"<d>" not in page.body
