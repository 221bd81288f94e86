"""The request as its dialect reads it: route, operation, text parts."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, Final

import msgspec


class Dialect(enum.Enum):
    """The provider API that the client speaks; refusals are written in it."""

    OPENAI = "openai"
    AZURE_OPENAI = "azure.ai.openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gcp.gemini"
    VERTEX_AI = "gcp.vertex_ai"
    BEDROCK = "aws.bedrock"

    __hash__ = object.__hash__  # that of an enum is a call of Python for each look-up


GOOGLE: Final = frozenset({Dialect.GEMINI, Dialect.VERTEX_AI})
"""The dialects of Google's own clients."""


class Operation(enum.Enum):
    """The operation of a request, by `gen_ai.operation.name` if one exists."""

    CHAT = "chat"
    GENERATE_CONTENT = "generate_content"
    TEXT_COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"
    COUNT_TOKENS = "count_tokens"
    LIST_MODELS = "list_models"
    MODERATION = "moderation"
    IMAGE_GENERATION = "image_generation"
    SPEECH = "speech"
    TRANSCRIPTION = "transcription"
    STORED_RESPONSE = "stored_response"
    INVOKE_MODEL = "invoke_model"

    spec: OperationSpec
    """The rules for counting and reading requests of this operation and their answers."""


class RequestForm(enum.Enum):
    """The members a body must have, so that Egret and a provider read the same request."""

    ANY_OBJECT = "any_object"
    MESSAGES = "messages"
    CONVERSE = "converse"
    RESPONSES = "responses"
    PROMPT = "prompt"
    INPUT = "input"
    CONTENTS = "contents"
    CONTENT = "content"
    REQUESTS = "requests"
    INTERACTION = "interaction"


@dataclass(frozen=True, slots=True)
class Route:
    """A known path and method. With `has_body` content is expected.

    `model` and `is_streamed` are those of the path, in APIs that put them there. With
    `has_google_names` the model of a body may have Google's place for it before its name.
    """

    dialect: Dialect
    operation: Operation
    has_body: bool
    form: RequestForm = RequestForm.ANY_OBJECT
    model: str | None = None
    is_streamed: bool = False
    has_google_names: bool = False


@dataclass(frozen=True, slots=True)
class UnknownRoute:
    """A path or method of no dialect; `dialect` is the best guess for wording a refusal."""

    dialect: Dialect


class UnscannedReason(enum.Enum):
    """The reason why content cannot be checked; the value is a metric label."""

    UNKNOWN_ROUTE = "unknown_route"
    UNKNOWN_SHAPE = "unknown_shape"
    ENCODED_BODY = "encoded_body"
    CHARSET = "charset"
    IMAGE = "image"
    AUDIO = "audio"
    FILE = "file"
    MALFORMED_ANSWER = "malformed_answer"
    ANSWER_TOO_LARGE = "answer_too_large"


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """Rules for counting and reading one operation.

    `uses_tokens` is False if a provider bills none. With `reserves_output`, output tokens are
    reserved in limits beforehand; with `estimates_output`, missing counts are derived from the
    bytes of the answer, which sound and pictures do not allow. With `has_model_text` an answer
    holds text that a model has written. Content that `is_stored` needs no model, and was made or
    will be read by any operation. `uploads` is the content of a multipart form.
    """

    uses_tokens: bool = True
    reserves_output: bool = True
    estimates_output: bool = True
    has_model_text: bool = True
    is_stored: bool = False
    uploads: UnscannedReason | None = None


_UNBILLED: Final = OperationSpec(
    uses_tokens=False, reserves_output=False, estimates_output=False, has_model_text=False
)
_OPERATIONS: Final = {
    Operation.CHAT: OperationSpec(),
    Operation.GENERATE_CONTENT: OperationSpec(),
    Operation.TEXT_COMPLETION: OperationSpec(),
    Operation.EMBEDDINGS: OperationSpec(
        reserves_output=False, estimates_output=False, has_model_text=False
    ),
    Operation.COUNT_TOKENS: _UNBILLED,
    Operation.LIST_MODELS: _UNBILLED,
    Operation.MODERATION: _UNBILLED,
    Operation.IMAGE_GENERATION: OperationSpec(
        estimates_output=False, uploads=UnscannedReason.IMAGE
    ),
    Operation.SPEECH: OperationSpec(estimates_output=False),
    Operation.TRANSCRIPTION: OperationSpec(uploads=UnscannedReason.AUDIO),
    Operation.STORED_RESPONSE: OperationSpec(
        uses_tokens=False, reserves_output=False, is_stored=True
    ),
    Operation.INVOKE_MODEL: OperationSpec(),
}
# An attribute of each member: a look-up by member calls `Enum.__hash__`, once per use.
for _operation in Operation:
    _operation.spec = _OPERATIONS[_operation]


class TextPart(msgspec.Struct, frozen=True, gc=False):
    """One string, or one long number, of the request body that reaches the model.

    `content` is the decoded string in UTF-8; spans of findings are byte offsets into it.
    `location` says which string token of the body it is: the first number counts the JSON
    string tokens of the body from 0, keys included, and each further number counts those of
    the JSON text inside the string before it (tool arguments are JSON in a string, a request
    whose tokens are to be counted at Bedrock is JSON in base64 in one). A number
    token (a card number may stand without quotes) has the location `(-1 - k,)`, k counting
    the number tokens of the body from 0; it can only be replaced whole, by a string.
    `role` is the message's role, or the field's name outside of messages. One that *repeats*
    another part, read in another way, is not counted.
    """

    repeats: ClassVar[bool] = False
    content: bytes
    location: tuple[int, ...]
    role: str


class Subject(msgspec.Struct, frozen=True):
    """A request that was read whole.

    `model_as_sent` is the name in the body if it is not `model`, as with Google's place before it;
    a policy may have an alias of that name. `other_models` are further ones in the body that a
    provider could use instead. Each of `runs` lists parts, by index, that the model reads as one
    text. With `asks_for_usage` the client wants the counts of a stream. `max_output_tokens` bounds
    all choices together, None if nothing sets a bound; `choices` is how many there are.
    `least_output_tokens` are reserved also without a bound: a lenient server may read a text as
    one. `in_background` is of a request whose answer comes before its model has begun.
    `service_tier` is one of `usage.SERVICE_TIERS`. `billed_tools` are tools that the provider runs
    and bills beside the tokens.
    """

    model: str | None
    streamed: bool
    parts: tuple[TextPart, ...]
    unscanned: tuple[UnscannedReason, ...] = ()
    other_models: tuple[str, ...] = ()
    runs: tuple[tuple[int, ...], ...] = ()
    asks_for_usage: bool = False
    max_output_tokens: int | None = None
    choices: int = 1
    least_output_tokens: int = 0
    in_background: bool = False
    service_tier: str | None = None
    billed_tools: tuple[str, ...] = ()
    model_as_sent: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A body that was not read at all."""

    reason: UnscannedReason


@dataclass(frozen=True, slots=True)
class Malformed:
    """A body that two parsers could read differently, or none at all.

    `problem` is safe to show: it names the fault and repeats none of the body.
    """

    problem: str
