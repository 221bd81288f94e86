"""How the mock answers next: pauses, failures and words, set through the debug endpoint."""

from __future__ import annotations

from typing import Final

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

MAX_PAUSE_MS: Final = 600_000


class Delay(BaseModel):
    """Pauses in milliseconds: before the answer starts, and between two events of a stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ms: float = Field(default=0, ge=0, le=MAX_PAUSE_MS)
    event_ms: float = Field(default=0, ge=0, le=MAX_PAUSE_MS)


class Failure(BaseModel):
    """A status to answer with instead, for the next `count` requests (None: until reset)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int = Field(ge=400, le=599)
    count: int | None = Field(default=None, ge=1)


class Answer(BaseModel):
    """Words to answer with instead of the usual ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(max_length=1_000_000)


class Compression(BaseModel):
    """Whether answers are compressed with gzip, accepted by the client or not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gzip: bool


class Raw(BaseModel):
    """An answer byte for byte, to any request: chunks in base64, each in a write of its own.

    `is_cut` closes the connection instead of ending the answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int = Field(default=200, ge=200, le=599)
    headers: dict[str, str] = Field(default_factory=dict)
    chunks: tuple[Base64Bytes, ...] = ()
    is_cut: bool = False


class Behaviour:
    """The one mutable part of the mock besides its received requests."""

    def __init__(self) -> None:
        self.delay = Delay()
        self.failure: Failure | None = None
        self.answer: Answer | None = None
        self.is_compressing = False
        self.raw: Raw | None = None

    def reset(self) -> None:
        """Answer as at the start."""
        self.delay, self.failure, self.answer, self.raw = Delay(), None, None, None
        self.is_compressing = False

    def take_failure(self) -> int | None:
        """Return the status the present request fails with, and use one up."""
        failure = self.failure
        if failure is None:
            return None
        if failure.count is not None:
            remaining = failure.count - 1
            self.failure = Failure(status=failure.status, count=remaining) if remaining else None
        return failure.status
