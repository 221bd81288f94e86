from __future__ import annotations

from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry

from sidecar.domain.subject import Operation
from sidecar.domain.usage import AnswerEnd, ExchangeEnded, TokenCounts
from sidecar.telemetry.sanitize import MAX_LABEL_VALUES
from sidecar.telemetry.usage_metrics import FREE, LOST_REASONS, UsageMetrics
from sidecar.usage.records import MOST_TOKENS, record_of
from tests.support.usage import ended, judged, record

LABELS = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "openai",
    "gen_ai_request_model": "gpt-4o",
}


class Counted:
    """The metrics of one worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = UsageMetrics(self.registry)

    def end(self, end: ExchangeEnded, usd: Decimal | None = FREE) -> None:
        """Count an end with the record that is stored of it."""
        self.metrics.exchange_ended(end, record_of(end), usd)

    def sample(self, name: str, **labels: str) -> float | None:
        """Return a sample's value."""
        return self.registry.get_sample_value(name, labels)

    def values(self) -> dict[str, float]:
        """Return all sums and counts of histograms that are not zero, without their labels."""
        return {
            sample.name: sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name.endswith(("_sum", "_count")) and sample.value
        }


def test_a_stream_tells_how_soon_and_how_fast_its_tokens_came() -> None:
    """The first of 21 tokens came when the clock of the others began."""
    counted = Counted()
    counted.end(
        ended(is_event_stream=True, tokens=TokenCounts(input=100, output=21), output_seconds=0.5)
    )

    assert counted.sample("gen_ai_server_time_to_first_token_seconds_sum", **LABELS) == 0.125
    assert counted.sample("gen_ai_server_time_per_output_token_seconds_sum", **LABELS) == 0.025
    assert counted.sample("egret_output_tokens_per_second_sum", **LABELS) == 40
    assert (
        counted.sample("gen_ai_server_request_duration_seconds_sum", **LABELS, error_type="none")
        == 0.25
    )
    for kind, tokens in (("input", 100), ("output", 21)):
        assert (
            counted.sample("gen_ai_client_token_usage_sum", **LABELS, gen_ai_token_type=kind)
            == tokens
        )


def test_a_whole_answer_has_no_first_token_of_its_own() -> None:
    """All of it came at once, so its speed is nothing that could be seen."""
    counted = Counted()
    counted.end(ended())

    assert set(counted.values()) == {
        "gen_ai_client_token_usage_sum",
        "gen_ai_client_token_usage_count",
        "gen_ai_server_request_duration_seconds_sum",
        "gen_ai_server_request_duration_seconds_count",
    }


@pytest.mark.parametrize(
    "end",
    [
        ended(is_event_stream=True, tokens=TokenCounts(input=1, output=1)),
        ended(is_event_stream=True, output_seconds=0.0),
        ended(is_event_stream=True, output_seconds=None),
        ended(is_event_stream=True, tokens=None),
    ],
    ids=["one token", "no time", "no end", "no counts"],
)
def test_a_stream_of_unknown_speed_has_none(end: ExchangeEnded) -> None:
    """Nothing is divided by nothing."""
    counted = Counted()
    counted.end(end)

    assert "egret_output_tokens_per_second_count" not in counted.values()
    assert counted.values()["gen_ai_server_time_to_first_token_seconds_count"] == 1


@pytest.mark.parametrize(
    ("end", "error_type"),
    [
        (ended(status=429, tokens=None), "429"),
        (ended(end=AnswerEnd.CLIENT_ABORTED), "client_aborted"),
        (ended(status=502, end=AnswerEnd.FAILED), "failed"),
        (ended(status=403, end=AnswerEnd.REFUSED), "refused"),
        (ended(status=400, end=AnswerEnd.BLOCKED, answer_status=200), "blocked"),
    ],
)
def test_what_went_wrong_is_told_apart(end: ExchangeEnded, error_type: str) -> None:
    """A refusal of ours from a provider's error, and both from a client that left."""
    counted = Counted()
    counted.end(end)

    found = [
        sample.labels["error_type"]
        for metric in counted.registry.collect()
        for sample in metric.samples
        if sample.name == "gen_ai_server_request_duration_seconds_count"
    ]
    assert found == [error_type]


def test_a_blocked_answer_counts_for_the_model_that_wrote_it() -> None:
    """Whatever status its client was given."""
    counted = Counted()
    counted.end(ended(status=400, end=AnswerEnd.BLOCKED, answer_status=200))

    output = {**LABELS, "gen_ai_token_type": "output"}
    assert counted.sample("gen_ai_client_token_usage_sum", **output) == 20


def _tokens(counted: Counted) -> dict[str, float | None]:
    name = "gen_ai_client_token_usage_sum"
    kinds = ("input", "output")
    return {kind: counted.sample(name, **LABELS, gen_ai_token_type=kind) for kind in kinds}


def test_tokens_are_those_of_the_record() -> None:
    """Of a server that has reasoning beside its output."""
    counted = Counted()
    counted.end(
        ended(
            is_event_stream=True,
            tokens=TokenCounts(input=100, output=1, reasoning=20),
            output_seconds=0.5,
        )
    )

    assert _tokens(counted) == {"input": 100, "output": 21}
    assert counted.sample("egret_output_tokens_per_second_sum", **LABELS) == 40


@pytest.mark.parametrize(
    "end",
    [
        ended(tokens=TokenCounts(input=2**32 - 1, output=20)),
        ended(tokens=TokenCounts(input=100, output=MOST_TOKENS + 1)),
        ended(tokens=None, sent_bytes=4_000),
        ended(tokens=TokenCounts(), status=0, end=AnswerEnd.CLIENT_ABORTED),
        ended(request=judged(operation=Operation.STORED_RESPONSE.value)),
    ],
    ids=["-1 in 32 bits", "too many", "none stated", "not sent on", "stored"],
)
def test_tokens_that_no_provider_stated_of_this_request_are_not_observed(
    end: ExchangeEnded,
) -> None:
    """Those of the record are an estimate, or there are none."""
    counted = Counted()
    counted.end(end)

    assert not {name for name in counted.values() if "token" in name}


def test_a_client_cannot_fill_the_labels_with_models_it_makes_up() -> None:
    """Only a model that a provider served is one, and of those a hundred."""
    counted = Counted()
    for number in range(2 * MAX_LABEL_VALUES):
        made_up = judged(model=f"made-up-{number}")
        counted.end(ended(request=made_up, status=404, tokens=None))
    for number in range(MAX_LABEL_VALUES + 5):
        served = judged(model=f"model-{number}")
        counted.end(ended(request=served))

    models = {
        sample.labels["gen_ai_request_model"]
        for metric in counted.registry.collect()
        for sample in metric.samples
        if sample.name == "gen_ai_server_request_duration_seconds_count"
    }
    assert models == {"other", *(f"model-{number}" for number in range(MAX_LABEL_VALUES))}


def test_records_are_counted_by_how_their_tokens_are_known() -> None:
    """And those that were there already."""
    counted = Counted()
    estimated = record(2, is_estimated=True)
    lost = record(3, is_estimated=True, end=AnswerEnd.LOST)
    counted.metrics.stored([record(1), estimated, lost, record(1)], added=3)

    found = {
        kind: counted.sample("egret_usage_records_total", tokens=kind)
        for kind in ("reported", "estimated", "lost")
    }
    assert found == {"reported": 2, "estimated": 1, "lost": 1}
    assert counted.sample("egret_usage_duplicates_total") == 1


def test_every_kind_of_loss_is_shown_before_it_happens() -> None:
    """An alert on a rate needs the zero before the first."""
    counted = Counted()
    counted.metrics.lost("rejected", 3)

    found = {
        reason: counted.sample("egret_usage_lost_total", reason=reason) for reason in LOST_REASONS
    }
    assert found == {**dict.fromkeys(LOST_REASONS, 0), "rejected": 3}


def test_records_that_are_tried_again_are_not_among_the_lost() -> None:
    """Envoy sends their entries to another worker."""
    counted = Counted()
    counted.metrics.refused(2)

    assert counted.sample("egret_usage_records_refused_total") == 2
    assert counted.sample("egret_usage_lost_total", reason="refused") is None


def test_what_tokens_cost_is_counted_by_model_and_what_has_no_price_is_counted_apart() -> None:
    """An answer without tokens costs nothing and makes no series."""
    counted = Counted()
    free = judged(model="free-1")
    counted.end(ended(), Decimal("0.25"))
    counted.end(ended(), Decimal("0.5"))
    counted.end(ended(request=free), Decimal(0))
    counted.end(ended(request=judged(model="new-1")), None)

    assert counted.sample("egret_cost_usd_total", **LABELS) == 0.75
    of_free = LABELS | {"gen_ai_request_model": "free-1"}
    assert counted.sample("egret_cost_usd_total", **of_free) is None
    assert counted.sample("egret_cost_unknown_total") == 1


@pytest.mark.parametrize(
    ("name", "former"),
    [
        ("egret_access_log_unmatched_total", "egret_ends_unnamed_total"),
        ("egret_usage_orphaned_verdicts_total", "egret_verdicts_unheard_total"),
    ],
)
def test_a_renamed_counter_counts_under_its_former_name_too(name: str, former: str) -> None:
    """Dashboards and alerts of one version ago go on."""
    counted = Counted()
    counted.metrics.access_log_unmatched(1)
    counted.metrics.orphaned_verdict()

    assert (counted.sample(name), counted.sample(former)) == (1, 1)
