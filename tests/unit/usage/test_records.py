from __future__ import annotations

import pytest

from sidecar.domain.limits import Reservation
from sidecar.domain.usage import NO_TOKENS, AnswerEnd, ExchangeEnded, TokenCounts, UsageRecord
from sidecar.usage.records import record_of, record_of_lost
from tests.support.usage import ended, judged


def test_what_the_provider_counted_is_kept_as_it_is() -> None:
    """With all that is known of the request and its answer."""
    assert record_of(ended(provider_request_id="req_1")) == UsageRecord(
        request=judged(),
        status=200,
        end=AnswerEnd.COMPLETED,
        tokens=TokenCounts(input=100, output=20),
        is_estimated=False,
        response_model="gpt-4o-2024-08-06",
        provider_request_id="req_1",
        latency_seconds=0.25,
        first_token_seconds=0.125,
    )


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("google/gemini-2.5-pro", "gemini-2.5-pro"),
        ("google/gemini-2.5-pro-001", "google/gemini-2.5-pro-001"),
        ("my-gemini-2.5-pro", "my-gemini-2.5-pro"),
        (None, None),
    ],
)
def test_a_model_that_an_answer_states_with_its_place_is_the_one_requested(
    stated: str | None, kept: str | None
) -> None:
    """Else it would have another price than the request, and another line in reports."""
    end = ended(request=judged(model="gemini-2.5-pro"), response_model=stated)
    assert record_of(end).response_model == kept


def test_a_count_that_no_request_has_is_cut_and_marked() -> None:
    """A server's -1 in 32 bits would close a limit for days."""
    record = record_of(ended(tokens=TokenCounts(2**32 - 1, 7, cached_input=2**31)))

    assert (record.tokens, record.is_estimated) == (
        TokenCounts(20_000_000, 7, cached_input=20_000_000),
        True,
    )


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        (TokenCounts(10, 5, cached_input=1_000), TokenCounts(10, 5, cached_input=10)),
        (TokenCounts(0, 5, cached_input=7), TokenCounts(0, 5)),
        (TokenCounts(10, 5, cache_write_input=11), TokenCounts(10, 5, cache_write_input=10)),
        (TokenCounts(100, 5, 80, 80), TokenCounts(100, 5, 20, 80)),
        (TokenCounts(100, 5, 0, 8, 0, 9), TokenCounts(100, 5, 0, 8, 0, 8)),
        (
            TokenCounts(2**32, 2**32, 2**32, 2**32, 2**32, 2**32),
            TokenCounts(20_000_000, 20_000_000, 0, 20_000_000, 20_000_000, 20_000_000),
        ),
    ],
)
def test_a_part_that_is_larger_than_its_whole_is_cut_to_it_and_marked(
    stated: TokenCounts, kept: TokenCounts
) -> None:
    """Else a request would cost more, or less, than its tokens; the dearer part stays."""
    record = record_of(ended(tokens=stated))

    assert (record.tokens, record.is_estimated) == (kept, True)


@pytest.mark.parametrize(
    "stated", [TokenCounts(100, 5, 60, 40, 5, 40), TokenCounts(10, 5, 10), TokenCounts(3, 0, 0, 3)]
)
def test_parts_within_their_whole_are_kept(stated: TokenCounts) -> None:
    """Together the parts of the input may be all of it."""
    record = record_of(ended(tokens=stated))

    assert (record.tokens, record.is_estimated) == (stated, False)


def test_reasoning_that_a_provider_counts_beside_its_output_is_output_too() -> None:
    """No part is larger than its whole."""
    record = record_of(ended(tokens=TokenCounts(10, 5, reasoning=100)))

    assert record.tokens == TokenCounts(10, 105, reasoning=100)


@pytest.mark.parametrize(
    ("end", "tokens"),
    [
        pytest.param(
            ended(tokens=None, sent_bytes=2250, is_event_stream=True, received_bytes=401),
            TokenCounts(input=101, output=10),
            id="an OpenAI stream: an event a token",
        ),
        pytest.param(
            ended(
                tokens=None,
                sent_bytes=1200,
                is_event_stream=True,
                request=judged(provider="anthropic", text_bytes=400),
            ),
            TokenCounts(input=100, output=10),
            id="an Anthropic stream, and a body that was read",
        ),
        pytest.param(
            ended(tokens=None, sent_bytes=750, received_bytes=4),
            TokenCounts(input=1, output=100),
            id="a whole answer",
        ),
        pytest.param(
            ended(
                tokens=None,
                end=AnswerEnd.BLOCKED,
                status=400,
                answer_status=200,
                answer_bytes=2250,
                sent_bytes=90,
                request=judged(is_streamed=True, text_bytes=40),
            ),
            TokenCounts(input=10, output=10),
            id="a stream that we blocked: what its provider sent",
        ),
        pytest.param(
            ended(
                tokens=None,
                end=AnswerEnd.BLOCKED,
                answer_status=200,
                sent_bytes=750,
                request=judged(text_bytes=40),
            ),
            TokenCounts(input=10, output=100),
            id="a blocked answer, where Envoy does not tell its bytes",
        ),
        pytest.param(
            ended(tokens=None, sent_bytes=10, received_bytes=4),
            TokenCounts(input=1, output=0),
            id="an answer that is shorter than what is around its text",
        ),
        pytest.param(
            ended(tokens=None, sent_bytes=0, received_bytes=40, end=AnswerEnd.CLIENT_ABORTED),
            TokenCounts(input=10, output=0),
            id="the client left before the answer",
        ),
        pytest.param(
            ended(tokens=None, status=502, sent_bytes=900, received_bytes=8, end=AnswerEnd.FAILED),
            TokenCounts(input=2, output=0),
            id="the provider broke off: what it took in may be on the bill",
        ),
        pytest.param(
            ended(
                tokens=None,
                stated=TokenCounts(3_600, 1, 400, 200),
                end=AnswerEnd.CLIENT_ABORTED,
                sent_bytes=2250,
                is_event_stream=True,
                request=judged(text_bytes=40),
            ),
            TokenCounts(3_600, 10, 400, 200),
            id="a stream that had stated its input before it broke off",
        ),
        pytest.param(
            ended(
                tokens=None,
                stated=TokenCounts(2**53 - 1, 2**53 - 1, 2**53 - 1),
                end=AnswerEnd.CLIENT_ABORTED,
                request=judged(text_bytes=40),
            ),
            TokenCounts(20_000_000, 20_000_000, 20_000_000),
            id="a stream that had stated counts that no request has",
        ),
        pytest.param(
            ended(
                tokens=None,
                stated=TokenCounts(0, 1, 400, 0, 90),
                end=AnswerEnd.CLIENT_ABORTED,
                sent_bytes=2250,
                is_event_stream=True,
                request=judged(text_bytes=40),
            ),
            TokenCounts(10, 91, 0, 0, 90),
            id="a stream that had stated parts larger than its whole",
        ),
        pytest.param(
            ended(tokens=None, received_bytes=1_000_040, request=judged(text_bytes=40)),
            TokenCounts(input=10 + 2_000),
            id="a picture beside some text",
        ),
        pytest.param(
            ended(
                tokens=None, received_bytes=1_000_000, request=judged(operation="transcription")
            ),
            TokenCounts(input=2_000),
            id="sound in a form",
        ),
        pytest.param(
            ended(
                tokens=None,
                sent_bytes=12_000_000,
                request=judged(operation="image_generation", reserved=Reservation(0, 4_096, 9)),
            ),
            TokenCounts(output=4_096),
            id="a picture: what was reserved for it",
        ),
        pytest.param(
            ended(
                tokens=None,
                end=AnswerEnd.CLIENT_ABORTED,
                request=judged(operation="image_generation", reserved=Reservation(0, 4_096, 9)),
            ),
            TokenCounts(),
            id="the client left before a picture",
        ),
        pytest.param(
            ended(tokens=None, sent_bytes=350 + 512_000 + 5_000_000),
            TokenCounts(output=128_000 + 10_000),
            id="a whole answer with a picture in it",
        ),
        pytest.param(
            ended(tokens=None, sent_bytes=225 * 128_000 + 5_000, is_event_stream=True),
            TokenCounts(output=128_000 + 10),
            id="a stream with sound in it",
        ),
        pytest.param(
            ended(tokens=None, sent_bytes=900, request=judged(operation="embeddings")),
            TokenCounts(),
            id="embeddings have no output",
        ),
    ],
)
def test_what_nobody_counted_is_estimated_and_marked(
    end: ExchangeEnded, tokens: TokenCounts
) -> None:
    """From what was delivered."""
    record = record_of(end)

    assert (record.tokens, record.is_estimated) == (tokens, True)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(ended(tokens=None, status=429), id="the provider refused"),
        pytest.param(ended(tokens=None, status=403, end=AnswerEnd.REFUSED), id="we refused"),
        pytest.param(
            ended(
                tokens=None, status=400, end=AnswerEnd.BLOCKED, answer_status=500, answer_bytes=900
            ),
            id="the provider refused, in words that we blocked",
        ),
        pytest.param(
            ended(tokens=None, request=judged(operation="count_tokens")), id="tokens were counted"
        ),
        pytest.param(
            ended(tokens=None, request=judged(operation="list_models")), id="models were listed"
        ),
    ],
)
def test_what_uses_no_tokens_is_known_to(end: ExchangeEnded) -> None:
    """That is no estimate."""
    record = record_of(end)

    assert (record.tokens, record.is_estimated) == (NO_TOKENS, False)


def test_a_lost_request_is_estimated_by_what_it_said() -> None:
    """Nobody knows what came back."""
    record = record_of_lost(judged(text_bytes=40))

    assert (record.end, record.tokens) == (AnswerEnd.LOST, TokenCounts(input=10))
    assert record.is_estimated
