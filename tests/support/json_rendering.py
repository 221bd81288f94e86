"""JSON text in every spelling: the same document with other escapes and other white space."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sidecar.jsontext.strict import JsonValue

_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f", "/": "\\/"}
_MUST = {'"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True, slots=True)
class StringToken:
    """A string token, spelt character by character."""

    characters: tuple[str, ...]


Chunk = str | StringToken


def render(value: JsonValue, style: random.Random) -> list[Chunk]:
    """Return the pieces of a JSON text of *value*, spelt as *style* throws its dice."""
    return list(_render(value, style))


def text_of(chunks: Sequence[Chunk]) -> str:
    """Return the text that the pieces make."""
    return "".join(
        chunk if isinstance(chunk, str) else '"' + "".join(chunk.characters) + '"'
        for chunk in chunks
    )


def spell(text: str, style: random.Random) -> StringToken:
    """Return one of the many string tokens that mean *text*."""
    return StringToken(tuple(_spell(character, style) for character in text))


def _spell(character: str, style: random.Random) -> str:
    escape = _MUST.get(character) or _SHORT.get(character)
    throw = style.random()
    if throw < 0.25:
        return "".join(
            f"\\u{unit:04x}" if style.random() < 0.5 else f"\\u{unit:04X}"
            for unit in _utf16(character)
        )
    if escape is not None and (character != "/" or throw < 0.5):
        return escape
    return f"\\u{ord(character):04x}" if character < " " else character


def _utf16(character: str) -> Iterator[int]:
    encoded = character.encode("utf-16-be")
    for at in range(0, len(encoded), 2):
        yield int.from_bytes(encoded[at : at + 2], "big")


def _render(value: JsonValue, style: random.Random) -> Iterator[Chunk]:
    space = style.choice(["", "", " ", "\n\t"])
    match value:
        case str():
            yield spell(value, style)
        case dict():
            yield "{" + space
            for index, (key, item) in enumerate(value.items()):
                yield "," + space if index else ""
                yield spell(key, style)
                yield space + ":"
                yield from _render(item, style)
            yield "}"
        case list():
            yield "[" + space
            for index, item in enumerate(value):
                yield "," if index else ""
                yield from _render(item, style)
            yield space + "]"
        case None:
            yield "null"
        case bool():
            yield "true" if value else "false"
        case _:
            yield repr(value)
