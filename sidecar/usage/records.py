"""Usage records from access-log entries, with estimated tokens if none were reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from sidecar.domain.subject import Dialect, Operation, OperationSpec
from sidecar.domain.usage import (
    NO_TOKENS,
    AnswerEnd,
    ExchangeEnded,
    JudgedRequest,
    TokenCounts,
    UsageRecord,
)

BYTES_A_TOKEN: Final = 4
"""Of plain text: English in the tokenizers of today's models has about four characters a token."""

WHOLE_FRAME_BYTES: Final = 350
"""What an answer in one JSON document has around its text: ids, role, finish reason, usage."""

EVENT_BYTES: Final = {
    Dialect.OPENAI.value: 225,
    Dialect.AZURE_OPENAI.value: 225,
    Dialect.ANTHROPIC.value: 120,
    Dialect.BEDROCK.value: 200,
}
"""Bytes of one event of a stream with about one token in it, by whose API it is."""

DEFAULT_EVENT_BYTES: Final = 225

HTTP_ERRORS: Final = 400


def record_of(ended: ExchangeEnded) -> UsageRecord:
    """Return what is kept of an exchange that ended."""
    tokens, is_estimated = _tokens(ended)
    return UsageRecord(
        request=ended.request,
        status=ended.status,
        end=ended.end,
        tokens=tokens,
        is_estimated=is_estimated,
        response_model=ended.response_model,
        provider_request_id=ended.provider_request_id,
        latency_seconds=ended.latency_seconds,
        first_token_seconds=ended.first_token_seconds,
    )


def record_of_lost(request: JudgedRequest) -> UsageRecord:
    """Return what is kept of a request that went to the provider and was never heard of again."""
    return UsageRecord(
        request=request,
        status=0,
        end=AnswerEnd.LOST,
        tokens=TokenCounts(input=_input(request, received_bytes=0)),
        is_estimated=True,
    )


def _tokens(ended: ExchangeEnded) -> tuple[TokenCounts, bool]:
    request = ended.request
    if ended.end is AnswerEnd.REFUSED or not _spec(request).uses_tokens:
        return NO_TOKENS, False  # what was stored is shown again, with the counts it once had
    if ended.tokens is not None:
        return ended.tokens, False
    is_over = ended.end in {AnswerEnd.COMPLETED, AnswerEnd.BLOCKED}
    if is_over and _provider_status(ended) >= HTTP_ERRORS:
        # The provider refused: an error is no completion, and is not billed as one.
        return NO_TOKENS, False
    counts = TokenCounts(
        input=_input(request, received_bytes=ended.received_bytes), output=_output(ended)
    )
    return counts, True


def _spec(request: JudgedRequest) -> OperationSpec:
    """Return the specification of the operation; a request without a known one is counted."""
    return _UNKNOWN if request.operation is None else _SPECS.get(request.operation, _UNKNOWN)


_UNKNOWN: Final = OperationSpec()
_SPECS: Final = {operation.value: operation.spec for operation in Operation}


def _input(request: JudgedRequest, *, received_bytes: int) -> int:
    return -(-(request.text_bytes or received_bytes) // BYTES_A_TOKEN)


def _provider_status(ended: ExchangeEnded) -> int:
    return ended.status if ended.answer_status is None else ended.answer_status


def _output(ended: ExchangeEnded) -> int:
    request = ended.request
    if not _spec(request).estimates_output or _provider_status(ended) >= HTTP_ERRORS:
        return 0
    is_stream, produced = ended.is_event_stream, ended.sent_bytes
    if ended.end is AnswerEnd.BLOCKED:
        # What the client was sent is our refusal, and less than what the provider wrote.
        is_stream = request.is_streamed
        produced = max(produced, ended.answer_bytes)
    if is_stream:
        event_bytes = EVENT_BYTES.get(request.provider or "", DEFAULT_EVENT_BYTES)
        return produced // event_bytes
    return max(0, produced - WHOLE_FRAME_BYTES) // BYTES_A_TOKEN


class EndedListener(Protocol):
    """Hears of every exchange that ended: metrics, limits.

    To one worker of all, which need not be the one that judged the request. Now and then twice:
    where a worker died before it could acknowledge, another one hears of it again.
    """

    def exchange_ended(self, ended: ExchangeEnded) -> None:
        """Take note. Must not wait and must not raise."""
        ...


class UsageNotes(Protocol):
    """Where it is noted that a request goes to its provider, before anybody knows its end."""

    def note(self, request: JudgedRequest) -> None:
        """Note *request*. Must not wait and does not raise."""
        ...


class VerdictNotes(Protocol):
    """Where a verdict is remembered until Envoy has surely heard of it."""

    def given(self, stream: str, request: JudgedRequest) -> None:
        """Remember it by Envoy's name of the stream. Must not wait and does not raise."""
        ...


class NotKeptError(Exception):
    """Neither the disk nor the database took the records; whoever has them must keep them."""


class UsageKeeper(Protocol):
    """Where records are safe once it has returned."""

    async def keep(self, records: Sequence[UsageRecord]) -> None:
        """Keep *records*.

        Raises:
            NotKeptError: they are not kept.
        """
        ...
