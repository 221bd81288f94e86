from __future__ import annotations

import itertools

from training.documents import joined, with_order


def test_texts_are_joined_to_documents_of_the_sizes_in_turn() -> None:
    """Each text is in one document, and a document knows its first text."""
    texts = ["a" * 40, "b" * 40, "c" * 40, "d" * 300, "e"]
    found = list(joined(texts, (60, 150)))
    assert [(len(text), first) for text, first in found] == [(60, 0), (150, 2)]
    assert found[0][0].startswith("a" * 40 + "\n\n" + "b")


def test_an_order_stands_on_its_own_lines_at_any_place() -> None:
    """Start, end and between; the same name gives the same place."""
    document = "\n".join(f"line {at}" for at in range(20))
    places = set()
    for at in itertools.count():
        text = with_order(document, "ORDER", str(at))
        assert text == with_order(document, "ORDER", str(at))
        lines = text.split("\n")
        assert len(lines) == 21
        places.add(lines.index("ORDER"))
        if len(places) == 3:
            break
    assert {0, 20} < places
