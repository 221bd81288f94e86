"""What is being judged: a request as its dialect reads it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Dialect(enum.Enum):
    """Whose API the client speaks; refusals are written in it."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Operation(enum.Enum):
    """What is asked of the model, by `gen_ai.operation.name` where one exists."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"
    COUNT_TOKENS = "count_tokens"
    LIST_MODELS = "list_models"


@dataclass(frozen=True, slots=True)
class Route:
    """A known path and method. `has_body` tells whether content is expected."""

    dialect: Dialect
    operation: Operation
    has_body: bool


@dataclass(frozen=True, slots=True)
class UnknownRoute:
    """A path or method no dialect knows; `dialect` is the best guess for wording a refusal."""

    dialect: Dialect


class UnscannedReason(enum.Enum):
    """Why content cannot be judged; the value is a metric label."""

    UNKNOWN_ROUTE = "unknown_route"
    UNKNOWN_SHAPE = "unknown_shape"
    ENCODED_BODY = "encoded_body"
    CHARSET = "charset"
    IMAGE = "image"
    AUDIO = "audio"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class TextPart:
    """One string, or one long number, of the request body that reaches the model.

    `content` is the decoded string in UTF-8; spans of findings are byte offsets into it.
    `location` says which string token of the body it is: the first number counts the JSON
    string tokens of the body from 0, keys included, and each further number counts those of
    the JSON text inside the string before it (tool arguments are JSON in a string). A number
    token (a card number may stand without quotes) has the location `(-1 - k,)`, k counting
    the number tokens of the body from 0; it can only be replaced whole, by a string.
    `role` is the message's role, or the field's name where there is no message.
    """

    content: bytes
    location: tuple[int, ...]
    role: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A request that was read whole."""

    model: str | None
    streamed: bool
    parts: tuple[TextPart, ...]
    unscanned: tuple[UnscannedReason, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A body that was not read at all, so that nothing is known of its content."""

    reason: UnscannedReason


@dataclass(frozen=True, slots=True)
class Malformed:
    """A body that two parsers could read differently, or none at all.

    `problem` is safe to show: it names the fault and repeats none of the body.
    """

    problem: str
