from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from typing_extensions import override

from loadtest.access_log import entry, export, metadata
from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.limits import Reservation
from sidecar.domain.metadata import METADATA_KEYS
from sidecar.domain.usage import (
    NO_TOKENS,
    AnswerEnd,
    DecisionKind,
    ExchangeEnded,
    JudgedRequest,
    LogEntry,
    TokenCounts,
    UnmatchedEnd,
    UsageRecord,
)
from sidecar.telemetry.usage_metrics import UsageMetrics
from sidecar.usage.access_log import ACCEPTED, decode_access_log
from sidecar.usage.receiver import AccessLogReceiver, PendingVerdicts
from sidecar.usage.records import NotKeptError, record_of
from tests.support.usage import ended, judged

FULL = judged(
    decision=DecisionKind.REDACT,
    is_streamed=True,
    text_bytes=1234,
    guardrails={"pii": "redact", "hook": "error_open"},
    service_tier="priority",
    reserved=Reservation(
        100, 50, 150, 1_764_063_015_000_001, ("key_1/cost/day/0a1b", "team_1/tokens/minute/2c3d")
    ),
)


def one(**changes: str) -> ExchangeEnded:
    """Return the exchange of a message with one record."""
    batch = decode_access_log(export(entry(FULL, **changes)))
    assert batch.unreadable == ()
    (found,) = batch.ended
    return found


def test_a_record_becomes_an_exchange_that_ended() -> None:
    """All fields, in our own units."""
    assert one(
        provider_request_id="req_1",
        received_bytes="321",
        sent_bytes="4567",
        content_type="text/event-stream; charset=utf-8",
        cached_input_tokens="7",
        cache_write_input_tokens="5",
        reasoning_tokens="3",
    ) == ExchangeEnded(
        request=FULL,
        status=200,
        end=AnswerEnd.COMPLETED,
        tokens=TokenCounts(100, 20, 7, 5, 3),
        response_model="gpt-4o-2024-08-06",
        provider_request_id="req_1",
        received_bytes=321,
        sent_bytes=4567,
        is_event_stream=True,
        latency_seconds=0.25,
        first_token_seconds=0.125,
        output_seconds=0.1,
    )


@pytest.mark.parametrize(
    ("flags", "verdict", "end"),
    [
        ("-", "allowed", AnswerEnd.COMPLETED),
        ("DC", "flagged", AnswerEnd.CLIENT_ABORTED),
        ("DR", "allowed", AnswerEnd.CLIENT_ABORTED),
        ("UC", "allowed", AnswerEnd.FAILED),
        ("UF,URX", "redacted", AnswerEnd.FAILED),
        ("-", "refused", AnswerEnd.REFUSED),
        ("DC", "failed", AnswerEnd.REFUSED),
    ],
)
def test_flags_and_verdict_say_how_an_answer_ended(
    flags: str, verdict: str, end: AnswerEnd
) -> None:
    """Ours before Envoy's: what we refused, no provider has seen."""
    told = {**metadata(FULL), "verdict": verdict}

    assert one(flags=flags, egret=json.dumps(told)).end is end


def test_an_answer_that_we_blocked_is_told_from_a_request_that_we_refused() -> None:
    """By the provider's status, which Egret names where it has refused an answer."""
    told = {**metadata(FULL), "verdict": "refused", "answer_status": "200"}
    found = one(status="400", answer_bytes="4500", egret=json.dumps(told))

    assert (found.end, found.status) == (AnswerEnd.BLOCKED, 400)
    assert (found.answer_status, found.answer_bytes) == (200, 4500)
    assert found.tokens == TokenCounts(100, 20)


@pytest.mark.parametrize("verdict", ["refused", "failed", "allowed"])
def test_the_id_of_a_refusal_is_not_that_of_a_provider(verdict: str) -> None:
    """Egret's refusals bear the id of the request; a provider that repeats it has seen it."""
    told = {**metadata(FULL), "verdict": verdict}
    found = one(egret=json.dumps(told), provider_request_id=FULL.request_id)

    assert found.provider_request_id == (FULL.request_id if verdict == "allowed" else None)
    blocked = json.dumps({**metadata(FULL), "verdict": "refused", "answer_status": "200"})
    ids = [one(egret=blocked, provider_request_id=id_) for id_ in (FULL.request_id, "req_1")]
    assert [found.provider_request_id for found in ids] == [None, "req_1"]


@pytest.mark.parametrize(
    ("told", "trace_id"),
    [("00" * 15 + "ff", 255), ("FF" * 16, None), ("ff" * 15, None), ("", None), (7.0, None)],
)
def test_the_trace_is_that_which_egret_names(told: object, trace_id: int | None) -> None:
    """Envoy has one in each of its records, whether or not anybody will ever see it."""
    assert one(egret=json.dumps({**metadata(FULL), "trace_id": told})).trace_id == trace_id


COUNTED = TokenCounts(100, 20)


@pytest.mark.parametrize("status", ["-", "", "2", "3", "0", "COMPLETE"])
def test_counts_that_are_not_complete_are_none(status: str) -> None:
    """No answer to read, one that broke off, or one that could not be read."""
    found = one(usage_status=status)

    assert (found.tokens, found.stated) == (None, NO_TOKENS if status != "2" else COUNTED)


@pytest.mark.parametrize("flags", ["UF,URX", "UH", "UO", "NR", "DF"])
def test_a_request_that_reached_no_provider_uses_nothing(flags: str) -> None:
    """A provider that is away for an hour would else use up the budgets of all that try."""
    found = one(flags=flags, usage_status="-", status="503")

    assert (found.end, found.tokens) == (AnswerEnd.FAILED, TokenCounts())
    assert one(flags="UF,UC", usage_status="-", status="503").tokens is None


def test_counts_that_were_stated_before_an_answer_broke_off_are_kept() -> None:
    """Envoy reports them as partial."""
    found = one(usage_status="2", cached_input_tokens="7")

    assert (found.tokens, found.stated) == (None, TokenCounts(100, 20, 7))


def test_a_stored_answer_that_is_shown_again_uses_nothing() -> None:
    """`GET /v1/responses/{id}` repeats the counts of when it was made."""
    assert one(method="GET").tokens == NO_TOKENS
    assert one(method="GET", flags="DC", usage_status="-").tokens == NO_TOKENS


def test_a_value_is_read_as_envoy_writes_it() -> None:
    """A missing one, a type of content in capitals, and the finer of two durations."""
    found = one(
        model="-", content_type="Text/Event-Stream", answer_bytes="9", duration_us="1500",
        duration_ms="1",
    )  # fmt: skip

    assert (found.response_model, found.is_event_stream) == (None, True)
    assert (found.answer_bytes, found.latency_seconds) == (0, 0.0015)


def test_a_record_that_lacks_a_value_is_counted_and_left_out() -> None:
    """The other records of its message are taken."""
    cut = cast("LogEntry", entry(FULL)[:-1])
    batch = decode_access_log(export(cut, entry(judged(2))))

    assert (batch.unreadable, len(batch.ended)) == (("form",), 1)


def test_a_client_that_left_before_an_answer_has_no_times_of_one() -> None:
    """The coarse duration is all there is."""
    found = one(
        status="0", flags="DC", duration_us="-", duration_ms="42", first_byte_us="-", output_us="-"
    )

    assert (found.status, found.latency_seconds) == (0, 0.042)
    assert (found.first_token_seconds, found.output_seconds) == (None, None)


OWNER = ("key_id", "team_id", "organization_id", "started_us")


def told_without(*left_out: str, **changes: object) -> str:
    """Return the metadata of a request as text, without some of its fields."""
    told = {name: value for name, value in metadata(FULL).items() if name not in left_out}
    return json.dumps(told | changes)


@pytest.mark.parametrize(
    ("egret", "field"),
    [
        ("", "egret"),
        ("not json", "egret"),
        ("[]", "egret"),
        ("{}", "verdict"),
        *((told_without(name), name) for name in ("request_id", *OWNER)),
        (told_without(*OWNER), "started_us"),
        (told_without("team_id", verdict="refused"), "team_id"),
        (told_without(*OWNER, verdict="refused", answer_status="200"), "started_us"),
        (told_without(verdict=["refused"]), "verdict"),
        (told_without(started_us="1e15"), "started_us"),
        (told_without(started_us="9" * 17), "started_us"),
        (told_without(key_id=7), "key_id"),
    ],
)
def test_a_record_that_is_not_ours_is_counted_and_left_out(egret: str, field: str) -> None:
    """With the name of the field at fault; the other records of its message are taken."""
    batch = decode_access_log(export(entry(FULL, egret=egret), entry(judged(2))))

    assert batch.unreadable == (field,)
    assert [found.request.request_id for found in batch.ended] == ["request-2"]


@pytest.mark.parametrize("verdict", ["refused", "failed"])
def test_a_request_refused_before_its_owner_was_known_is_no_loss(verdict: str) -> None:
    """As with an unknown key while the database is away: 503, and no provider has seen it."""
    refusal = entry(FULL, egret=told_without(*OWNER, verdict=verdict), status="503")
    batch = decode_access_log(export(refusal, entry(judged(2))))

    assert batch.unreadable == ()
    assert [found.request.request_id for found in batch.ended] == ["request-2"]


STREAM = "f41eb1d4-a357-429f-8d13-bf15e29fb217"


def nameless(**changes: str) -> LogEntry:
    """Return the entry of a request whose verdict Envoy has not received."""
    unmatched = {"egret": "-", "stream": STREAM, "upstream": "-", "status": "0", "flags": "DC"}
    return entry(FULL, **(unmatched | changes))


@pytest.mark.parametrize(
    ("status", "flags", "end"),
    [
        ("0", "DC", AnswerEnd.CLIENT_ABORTED),
        ("0", "DR", AnswerEnd.CLIENT_ABORTED),
        ("504", "-", AnswerEnd.FAILED),
        ("503", "UAEX", AnswerEnd.FAILED),
    ],
)
def test_a_record_without_a_verdict_has_envoys_name_of_the_stream(
    status: str, flags: str, end: AnswerEnd
) -> None:
    """The others of its message are taken."""
    record = nameless(status=status, flags=flags)
    batch = decode_access_log(export(record, entry(judged(2))))

    assert batch.unmatched == (
        UnmatchedEnd(stream=STREAM, status=int(status), end=end, latency_seconds=0.25),
    )
    assert [found.request.request_id for found in batch.ended] == ["request-2"]
    assert batch.unreadable == ()


@pytest.mark.parametrize(
    "record",
    [
        nameless(stream="-"),
        nameless(stream="request-1"),
        nameless(stream=STREAM + "0"),
        nameless(upstream="192.0.2.1:443"),
    ],
    ids=["no name", "another name", "a longer name", "was sent on"],
)
def test_a_record_that_tells_of_no_unheard_verdict_says_nothing(record: LogEntry) -> None:
    """Refused before Egret was asked, or let through by an Envoy that does not wait for it."""
    batch = decode_access_log(export(record))

    assert (batch.ended, batch.unmatched, batch.unreadable) == ((), (), ())


def test_text_that_a_database_refuses_is_cleaned_and_cut() -> None:
    """A provider chooses the name of its model, and what it calls a request."""
    found = one(model="gpt\x00-4o\n" + "x" * 300, provider_request_id="\x01\x02")

    assert found.response_model == "gpt-4o" + "x" * 194
    assert found.provider_request_id is None


def test_a_header_that_is_no_utf8_spoils_nothing_but_itself() -> None:
    """A provider may send any bytes; the other records of the message are taken as they are."""
    message = export(entry(FULL, provider_request_id="req_???"), entry(judged(2)))
    batch = decode_access_log(message.replace(b"req_???", b"req_\xff\xfe\xfd"))

    assert batch.unreadable == ()
    assert [found.provider_request_id for found in batch.ended] == ["req_" + "\ufffd" * 3, None]


def test_numbers_beyond_all_reason_are_cut_or_none() -> None:
    """A column must not overflow, whatever a provider counts."""
    found = one(input_tokens="9" * 16, output_tokens="-5", cached_input_tokens="9" * 40)

    assert found.tokens == TokenCounts(input=2**53 - 1)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """A worker's socket takes whatever somebody sends."""
    try:
        decode_access_log(raw)
    except UnreadableMessageError:
        return


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from(sorted(METADATA_KEYS)), ANY_JSON),
    st.lists(st.text(max_size=20), min_size=21, max_size=21),
)
def test_metadata_and_values_of_any_kind_are_read_or_unreadable(
    changes: dict[str, object], values: list[str]
) -> None:
    """An exception would keep Envoy sending the same message for ever."""
    told = json.dumps(metadata(FULL) | changes)
    odd = LogEntry("1", told, *values)
    batch = decode_access_log(export(entry(FULL, egret=told), odd))

    assert len(batch.ended) + len(batch.unreadable) in {0, 2}


@given(
    st.builds(
        JudgedRequest,
        request_id=st.from_regex(r"[a-z0-9-]{8,36}", fullmatch=True),
        occurred_at=st.datetimes(
            datetime(2000, 1, 1),  # noqa: DTZ001 - the time zone is added
            datetime(2200, 1, 1),  # noqa: DTZ001
            timezones=st.just(UTC),
        ),
        key_id=st.just("AAAAAAAAAAA1"),
        team_id=st.just("team_1"),
        organization_id=st.just("org_1"),
        decision=st.sampled_from(DecisionKind),
        operation=st.sampled_from([None, "chat"]),
        provider=st.sampled_from([None, "openai"]),
        model=st.sampled_from([None, "gpt-4o"]),
        is_streamed=st.booleans(),
        text_bytes=st.integers(0, 10**9),
        guardrails=st.sampled_from([None, {"pii": "redact"}, {"a-b": "flag", "c": "block"}]),
    )
)
def test_what_was_judged_comes_back_as_it_left(request: JudgedRequest) -> None:
    """By way of Envoy's metadata and its access log; time to the microsecond."""
    (found,) = decode_access_log(export(entry(request))).ended

    assert found.request == request


class Kept:
    """Keeps records, or fails to."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.records: list[UsageRecord] = []
        self.heard: list[ExchangeEnded] = []
        self.registry = CollectorRegistry()
        self.metrics = UsageMetrics(self.registry)
        self._is_full = is_full

    def count(self, name: str, **labels: str) -> float | None:
        """Return what a metric counted."""
        return self.registry.get_sample_value(name, labels)

    async def keep(self, records: Sequence[UsageRecord]) -> None:
        """Keep them, unless it is full."""
        if self._is_full:
            raise NotKeptError
        self.records += records

    def exchange_ended(self, ended: ExchangeEnded, record: UsageRecord) -> None:
        """Receive it, after it was kept."""
        assert self.records, "received before it was safe"
        assert record == record_of(ended)
        self.heard.append(ended)


def pending(kept: Kept) -> PendingVerdicts:
    """Return the memory of a worker that is alone."""
    return PendingVerdicts(kept, kept, others=None, clock=lambda: 0.0, on_matched=lambda: None)


def receiver_of(kept: Kept) -> AccessLogReceiver:
    """Return the receiver of that worker."""
    return AccessLogReceiver(kept, kept, pending=pending(kept), metrics=kept.metrics)


async def test_what_is_received_is_kept_and_then_told() -> None:
    """Envoy may forget it once it has its answer."""
    kept = Kept()
    receiver = receiver_of(kept)

    with capture_logs() as logs:
        answer = await receiver.receive(export(entry(judged(1)), entry(judged(2), egret="")))
    assert answer == ACCEPTED
    assert logs == [
        {"event": "usage.unreadable", "log_level": "error", "count": 1, "fields": ["egret"]}
    ]
    assert kept.heard == [ended(1)]
    assert kept.records == [record_of(ended(1))]
    assert kept.count("egret_usage_lost_total", reason="unreadable_log") == 1
    assert kept.count("egret_usage_requests_total", source="access_log") == 1


class KeptLater(Kept):
    """Keeps records once the disk is there, or cannot."""

    def __init__(self, *, is_full: bool = False) -> None:
        super().__init__(is_full=is_full)
        self.disk = asyncio.Event()

    @override
    async def keep(self, records: Sequence[UsageRecord]) -> None:
        await self.disk.wait()
        await super().keep(records)


@pytest.mark.parametrize("is_full", [False, True], ids=["kept", "not kept"])
async def test_what_is_kept_is_settled_though_envoy_has_left(
    caplog: pytest.LogCaptureFixture, *, is_full: bool
) -> None:
    """An Envoy that ends sends its last entries, and closes its connection at once."""
    kept = KeptLater(is_full=is_full)
    message = export(entry(judged(1)), nameless())
    receiving = asyncio.ensure_future(receiver_of(kept).receive(message))
    await asyncio.sleep(0)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    kept.disk.set()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert kept.heard == ([] if is_full else [ended(1)])
    assert kept.count("egret_access_log_unmatched_total") == (0 if is_full else 1)
    assert caplog.records == []


async def test_what_cannot_be_read_at_all_is_counted_and_accepted() -> None:
    """Sent to another worker it would be no better."""
    kept = Kept()
    receiver = receiver_of(kept)

    assert await receiver.receive(b"\xff\xff") == ACCEPTED
    assert kept.records == []
    assert kept.count("egret_usage_lost_total", reason="unreadable_log") == 1


async def test_what_is_not_kept_is_told_to_nobody() -> None:
    """Envoy sends it to another worker, and it would be heard of twice."""
    kept = Kept(is_full=True)
    receiver = receiver_of(kept)

    with pytest.raises(NotKeptError):
        await receiver.receive(export(entry(judged(1))))
    assert kept.heard == []


BEDROCK = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-v2:0"


@pytest.mark.parametrize(
    ("served", "kept"),
    [
        ("ft:gpt-4o-mini-2024-07-18:acme:help:9fXyZ", "ft:gpt-4o-mini-2024-07-18:acme:help:9fXyZ"),
        (BEDROCK, BEDROCK),
        ("write to ann@example.org", "other"),
        ("ann@example.org", "other"),
        ("4111111111111111", "other"),
        ("egk_0123456789ab_secret", "other"),
    ],
)
def test_a_model_that_a_provider_only_repeats_is_kept_where_it_looks_like_one(
    served: str, kept: str
) -> None:
    """What serves whatever it is asked for says what the client wrote, an address included."""
    assert one(model=served).response_model == kept


async def test_what_has_no_name_is_given_to_whoever_remembers_it() -> None:
    """After what is to be safe before it is acknowledged."""
    kept = Kept()
    memory = pending(kept)
    memory.add(STREAM, judged(2))
    receiver = AccessLogReceiver(
        kept,
        kept,
        pending=memory,
        metrics=kept.metrics,
    )

    assert await receiver.receive(export(entry(judged(1)), nameless())) == ACCEPTED
    assert [one.request for one in kept.heard] == [judged(1), judged(2)]
    assert kept.count("egret_access_log_unmatched_total") == 1


async def test_a_request_that_its_worker_accounts_for_is_counted_once() -> None:
    """Envoy may send an access log as well, or still: its entry changes no record and no limit."""
    kept = Kept()
    own = json.dumps(metadata(judged(1)) | {"usage_source": "answers"})
    receiver = receiver_of(kept)

    message = export(entry(judged(1), egret=own), entry(judged(2)))
    assert await receiver.receive(message) == ACCEPTED
    assert [one.request for one in kept.heard] == [judged(2)]
    assert kept.count("egret_access_log_ignored_total") == 1


async def test_an_entry_that_is_sent_again_settles_its_request_once() -> None:
    """Its acknowledgement was lost: the record is kept again, which changes nothing."""
    kept = Kept()
    receiver = receiver_of(kept)

    first, second = judged(1), judged(1, occurred_at=datetime(2026, 11, 25, tzinfo=UTC))
    await receiver.receive(export(entry(first)))
    await receiver.receive(export(entry(first), entry(second), entry(first)))
    assert [one.request for one in kept.heard] == [first, second]
    assert len(kept.records) == 4
    assert kept.count("egret_usage_requests_total", source="access_log") == 2
