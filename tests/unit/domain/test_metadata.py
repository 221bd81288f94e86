"""The keys of dynamic metadata, which the pipeline writes and the access log brings back."""

from __future__ import annotations

import json

import pytest

from loadtest.access_log import entry, export
from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.limits import Reservation
from sidecar.domain.metadata import METADATA_KEYS
from sidecar.domain.report import Clocks
from sidecar.domain.subject import Subject
from sidecar.pipeline.record import Allowance, RequestRecord
from sidecar.pipeline.reply import metadata_of
from sidecar.usage.access_log import decode_access_log
from tests.support.replies import pairs_of
from tests.support.reports import CHAT, PII, PRINCIPAL
from tests.support.usage import judged


def judged_record(*, is_full: bool) -> RequestRecord:
    """Return a judged request, with everything that usage may have to know or with the least."""
    record = RequestRecord(
        clocks=Clocks(monotonic=lambda: 0.0, wall=lambda: 1_700_000_000.123456),
        started_at=0.0,
        wall_ns=1_700_000_000_123_456_000,
    )
    record.request_id, record.principal, record.route = "request-1", PRINCIPAL, CHAT
    if is_full:
        record.subject, record.model = Subject("gpt-4o", streamed=True, parts=()), "gpt-4o"
        record.streamed, record.text_bytes = True, 1
        record.allowance = Allowance(reserved=Reservation(1, 2, 3, 4, ("limit-1",)))
        record.results = (GuardrailResult(PII, Verdict.FLAG, (), 0.0, 0.0),)
    return record


@pytest.mark.parametrize("is_full", [True, False])
def test_usage_reads_what_the_pipeline_has_written(*, is_full: bool) -> None:
    """By the same keys: the request that was judged comes back as it left."""
    record = judged_record(is_full=is_full)
    written = pairs_of(metadata_of(record, now=0.0))
    sent = entry(judged(), egret=json.dumps(written))
    (found,) = decode_access_log(export(sent)).ended

    assert written.keys() <= METADATA_KEYS
    assert found.request == record.judged
    assert found.request.guardrails == ({"pii": "flag"} if is_full else None)
