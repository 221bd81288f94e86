"""The answers of the mock model, their length in tokens, and its made-up vectors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MODELS: Final = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "mock-model")
ANTHROPIC_MODELS: Final = ("claude-mock", "claude-mock-small")
GEMINI_MODELS: Final = ("gemini-mock", "gemini-embedding-001")
CREATED_AT: Final = 1_700_000_000
"""A fixed moment, so that two equal requests get equal answers."""

CHARACTERS_A_TOKEN: Final = 4
DIMENSIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Reply:
    """The text of an answer and the tokens it is said to have cost."""

    text: str
    input_tokens: int

    @property
    def pieces(self) -> list[str]:
        """The text cut as a stream delivers it: a word with the space before it."""
        words = self.text.split(" ")
        return [words[0], *(f" {word}" for word in words[1:])]

    @property
    def output_tokens(self) -> int:
        """One token a piece."""
        return len(self.pieces)


def reply_to(texts: list[str], *, words: str | None) -> Reply:
    """Answer with the number of characters given, never with the characters themselves."""
    characters = sum(len(text) for text in texts)
    usual = f"The mock model was given {characters} characters."
    return Reply(
        text=usual if words is None else words,
        input_tokens=max(1, math.ceil(characters / CHARACTERS_A_TOKEN)),
    )


def texts_in(value: object) -> Iterator[str]:
    """Yield the text of a prompt: strings, lists of them, parts and messages with text in them."""
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from texts_in(item)
        case {"content": content}:
            yield from texts_in(content)
        case {"parts": parts}:
            yield from texts_in(parts)
        case {"text": text}:
            yield from texts_in(text)
        case _:
            return


def vector_of(text: str) -> list[float]:
    """Return a unit vector that depends on the text alone."""
    digest = hashlib.sha256(text.encode()).digest()
    raw = [byte / 127.5 - 1 for byte in digest[:DIMENSIONS]]
    length = math.sqrt(sum(x * x for x in raw)) or 1.0
    return [x / length for x in raw]
