from __future__ import annotations

import json

import pytest

from sidecar.jsontext.open_strings import opened_after


def as_escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if character < "\u007f" else character


@pytest.mark.parametrize("is_ascii", [True, False])
def test_open_strings_are_counted_wherever_a_text_is_cut(is_ascii: bool) -> None:  # noqa: FBT001
    """In JSON text within strings as well: no cut, in an escape either, changes the count."""
    innermost = json.dumps([["in\\", 'q"é'], {"k": "😀"}], ensure_ascii=is_ascii)
    inner = json.dumps({"a": innermost, "b": '[x] "y"', "": "{"}, indent=2)
    quote = json.dumps if is_ascii else lambda one: '"' + "".join(map(as_escape, one)) + '"'
    text = f'[{{"s": {quote(inner)}}}, "{{no", "[x]", "", "[1, 2]"]'.encode()
    counts = [opened_after(text[:end]).count(b'"') for end in range(len(text) + 1)]
    assert max(counts) == 3
    for size in (1, 2, 3, 5, 11):
        opened = b""
        for at in range(0, len(text), size):
            opened = opened_after(text[at : at + size], opened)
            assert opened.count(b'"') == counts[min(at + size, len(text))], text[: at + size]
