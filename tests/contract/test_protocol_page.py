"""docs/protocol.md shows the tables of the protocol as they are."""

from __future__ import annotations

from quality.protocol_page import PAGE, page


def test_the_page_is_generated_from_the_tables() -> None:
    """Run `python -m quality.protocol_page` after a change of the tables."""
    assert PAGE.read_text() == page()
