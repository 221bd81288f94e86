"""Pieces of a streamed answer: the bytes of each as they came, and the JSON text they carry."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Protocol

import orjson
from typing_extensions import override

MAX_FRAME_BYTES: Final = 1024 * 1024
"""A delta is some hundred bytes, the closing event of a long answer some hundred thousand."""


class FrameFault(enum.Enum):
    """Why a stream cannot be cut any further."""

    TOO_LARGE = "too_large"  # a frame does not end within the limit
    BROKEN = "broken"  # the framing itself is not what it should be


@dataclass(frozen=True, slots=True)
class Frame(ABC):
    """One event of a stream. The frames of a stream joined are the stream, byte for byte.

    `payload` is its JSON text, None where it carries nothing (a comment, the end of an array).
    `event` is the event's name where the framing gives one.
    """

    raw: bytes
    payload: bytes | None
    event: str = ""

    @abstractmethod
    def with_payload(self, payload: bytes) -> bytes:
        """Return the frame's bytes with another JSON text in it."""


class Framer(Protocol):
    """Cuts a stream into frames, however it was cut into chunks.

    Once it has a `fault` it cuts no more: what is in no frame is in `rest`.
    """

    @property
    def fault(self) -> FrameFault | None:
        """What is wrong with the stream, if anything is."""
        ...

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that *chunk* completes."""
        ...

    def finish(self) -> list[Frame]:
        """Return what is left at the end of the stream: a last frame without its terminator."""
        ...

    def rest(self) -> bytes:
        """Return the bytes fed that are in no frame yet, and forget them."""
        ...


@dataclass(frozen=True, slots=True)
class Opaque(Frame):
    """Bytes that nobody reads."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        return self.raw


@dataclass(frozen=True, slots=True)
class WholeAnswer(Frame):
    """A JSON document that is an answer of its own."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        return payload


@dataclass(frozen=True, slots=True)
class PlainText(Frame):
    """Text that is no JSON, read as if it were the only string of an object."""

    @override
    def with_payload(self, payload: bytes) -> bytes:
        text: str = orjson.loads(payload)["text"]
        return text.encode()


def plain_text(body: bytes) -> PlainText | None:
    """Return *body* as a frame; None where it is no text at all."""
    try:
        return PlainText(body, orjson.dumps({"text": body.decode()}))
    except UnicodeDecodeError:
        return None
