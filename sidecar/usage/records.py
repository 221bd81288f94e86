"""Usage records from ended requests, with estimated tokens if the provider reported none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from msgspec.structs import replace

from sidecar.domain.subject import Dialect, Operation, OperationSpec
from sidecar.domain.usage import (
    NO_TOKENS,
    AnswerEnd,
    Estimate,
    ExchangeEnded,
    JudgedRequest,
    TokenCounts,
    UsageRecord,
)

BYTES_A_TOKEN: Final = 4
"""Of plain text: English in the tokenizers of today's models has about four characters a token.
Reserved by it are rather too many tokens than too few: the surplus is given back in the end."""

MEDIA_BYTES_A_TOKEN: Final = 500
"""Of all else in a body, and of uploads: a picture of a megabyte, in base64, has 1,600 tokens at
Anthropic, and ten minutes of speech in as many bytes have 6,000 at OpenAI."""

WHOLE_FRAME_BYTES: Final = 350
"""Bytes of an answer in one JSON document beside its text: ids, role, finish reason, usage."""

EVENT_BYTES: Final = {
    Dialect.OPENAI.value: 225,
    Dialect.AZURE_OPENAI.value: 225,
    Dialect.ANTHROPIC.value: 120,
    Dialect.BEDROCK.value: 200,
}
"""Bytes of one event of a stream with about one token in it, by API."""

DEFAULT_EVENT_BYTES: Final = 225

MOST_TOKENS: Final = 20_000_000
"""Of input and of output: no model takes half as many. More is a fault of the server, such as -1
in 32 bits, and would close a limit on tokens for days."""

LONGEST_TEXT_TOKENS: Final = 128_000
"""No model of today writes more text in one answer: bytes beyond it are a picture or sound."""

HTTP_ERRORS: Final = 400

UNKNOWN_OPERATION: Final = OperationSpec()
"""A request whose operation is not known is counted."""
_SPECS: Final[dict[str | None, OperationSpec]] = {
    operation.value: operation.spec for operation in Operation
}


def record_of(ended: ExchangeEnded) -> UsageRecord:
    """Return the usage record of a request that ended."""
    tokens, is_estimated = _tokens(ended)
    model, requested = ended.response_model, ended.request.model
    if model and requested and "/" in model and model.endswith("/" + requested):
        model = requested  # Google states the place before it, where its clients may write it
    return UsageRecord(
        request=ended.request,
        status=ended.status,
        end=ended.end,
        tokens=tokens,
        is_estimated=is_estimated,
        response_model=model,
        provider_request_id=ended.provider_request_id,
        latency_seconds=ended.latency_seconds,
        first_token_seconds=ended.first_token_seconds,
    )


def record_of_lost(request: JudgedRequest) -> UsageRecord:
    """Return the record of a request that went to the provider and has no log entry."""
    return UsageRecord(
        request=request,
        status=0,
        end=AnswerEnd.LOST,
        tokens=TokenCounts(input=-(-request.text_bytes // BYTES_A_TOKEN)),
        is_estimated=True,
    )


def _tokens(ended: ExchangeEnded) -> tuple[TokenCounts, bool]:
    """Return the tokens of a request, and whether they are estimated."""
    request = ended.request
    spec = _SPECS.get(request.operation, UNKNOWN_OPERATION)
    if ended.end is AnswerEnd.REFUSED or not spec.uses_tokens:
        return NO_TOKENS, False  # a stored answer is shown again, with the counts it once had
    tokens = ended.tokens
    if tokens is not None:
        if (
            tokens.input > MOST_TOKENS
            or tokens.output > MOST_TOKENS
            or tokens.cached_input
            or tokens.cache_write_input
            or tokens.reasoning
        ):
            return _within_wholes(tokens)
        return tokens, False
    is_over = ended.end in {AnswerEnd.COMPLETED, AnswerEnd.BLOCKED}
    status = ended.status if ended.answer_status is None else ended.answer_status
    is_error = status >= HTTP_ERRORS
    if is_over and is_error:
        # The provider refused: an error is no completion, and is not billed as one.
        return NO_TOKENS, False
    output = 0
    if spec.estimates_output and not is_error:
        is_stream, produced = ended.is_event_stream, ended.sent_bytes
        if ended.end is AnswerEnd.BLOCKED:
            # The client received our refusal, which is shorter than the provider's answer.
            is_stream = request.is_streamed
            produced = max(produced, ended.answer_bytes)
        unit = BYTES_A_TOKEN
        if is_stream:
            unit = EVENT_BYTES.get(request.provider or "", DEFAULT_EVENT_BYTES)
        else:
            produced = max(0, produced - WHOLE_FRAME_BYTES)
        written = min(produced, LONGEST_TEXT_TOKENS * unit)
        output = written // unit + (produced - written) // MEDIA_BYTES_A_TOKEN
        output = output or ended.assumed_output
    elif spec.reserves_output and not is_error and ended.sent_bytes and request.reserved:
        output = request.reserved.output_tokens  # rather too much: bytes say nothing here
    text, stated = request.text_bytes, _within_wholes(ended.stated)[0]
    if not text and spec.uploads is None:
        text = ended.received_bytes
    media = max(0, ended.received_bytes - text)
    given = max(-(-text // BYTES_A_TOKEN) + media // MEDIA_BYTES_A_TOKEN, stated.input)
    return replace(stated, input=given, output=max(output, stated.output)), True


def _within_wholes(stated: TokenCounts) -> tuple[TokenCounts, bool]:
    """Return counts of which none is larger than its whole, and whether one was cut."""
    if stated.reasoning > stated.output:
        # Some servers for OpenAI's API, as that of xAI, leave reasoning out of the output.
        stated = replace(stated, output=stated.output + stated.reasoning)
    given, made = min(stated.input, MOST_TOKENS), min(stated.output, MOST_TOKENS)
    written = min(stated.cache_write_input, given)  # first: it is the dearer part
    tokens = TokenCounts(
        input=given,
        output=made,
        cached_input=min(stated.cached_input, given - written),
        cache_write_input=written,
        reasoning=min(stated.reasoning, made),
        cache_write_hour=min(stated.cache_write_hour, written),
    )
    return tokens, tokens != stated


class EndedListener(Protocol):
    """Receives every request that ended, for metrics and limits.

    One worker of all receives it, which need not be the one that judged the request. If a worker
    dies before it has acknowledged an entry, another one receives it again.
    """

    def exchange_ended(self, ended: ExchangeEnded, record: UsageRecord) -> None:
        """Account for *ended*, whose *record* is stored. Must not wait and must not raise."""
        ...


class OwnEnds(Protocol):
    """Accounts for requests whose end the worker that judged them has seen itself."""

    def add(self, ended: ExchangeEnded, estimate: Estimate | None) -> None:
        """Account for *ended*; *estimate* is why. Must not wait and does not raise."""
        ...


class UsageNotes(Protocol):
    """Notes that a request goes to its provider, before its end is known."""

    def note(self, request: JudgedRequest) -> None:
        """Note *request*. Must not wait and does not raise."""
        ...


class VerdictNotes(Protocol):
    """Remembers a verdict until Envoy has surely received it."""

    def add(self, stream: str, request: JudgedRequest) -> None:
        """Remember it by Envoy's name of the stream. Must not wait and does not raise."""
        ...


class NotKeptError(Exception):
    """Neither the disk nor the database took the records; their sender must keep them."""


class UsageKeeper(Protocol):
    """Makes records safe."""

    async def keep(self, records: Sequence[UsageRecord]) -> None:
        """Return when *records* are safe.

        Raises:
            NotKeptError: they are not kept.
        """
        ...
