"""The end of a request: key activity, usage, release of unused limits, and the report."""

from __future__ import annotations

from sidecar.domain.report import ExchangeOutcome
from sidecar.domain.usage import DecisionKind
from sidecar.extproc.protocol import ExtProcProtocol
from sidecar.extproc.stream import StreamEnd
from sidecar.limits.settlement import adjustments_of, unused
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.record import RequestRecord


def finish(
    record: RequestRecord, protocol: ExtProcProtocol, end: StreamEnd, worker: Worker
) -> None:
    """Report the request, once, however its stream ended."""
    make_room(record, worker)
    # An id is made only if Envoy has sent none: that takes a system call.
    record.request_id = record.request_id or worker.new_request_id()
    record.rest()
    outcome = record.outcome()
    if not protocol.is_answered:
        # Completed without an answer: a local reply of Envoy overtook the judgement.
        is_gone = end is not StreamEnd.ABORTED
        outcome = ExchangeOutcome.ABORTED if is_gone else ExchangeOutcome.FAILED
    worker.recorder.exchange_ended()
    if record.principal is not None:
        is_refused, now = record.refused is not None, worker.clocks.wall()
        worker.uses.note(record.principal.key_id, refused=is_refused, at=now)
    if protocol.is_answered:
        _remember_verdict(record, worker)
    elif record.caller is not None:
        _release_reservation(record, worker)
    modes = protocol.processing_modes
    worker.recorder.record(record.report(outcome, processing_modes=modes))


def _remember_verdict(record: RequestRecord, worker: Worker) -> None:
    """Remember a verdict that Envoy may not receive, if its request holds a reservation."""
    judged = record.judged
    if judged is None or not record.stream_name:
        return
    if judged.reserved is not None or judged.decision is not DecisionKind.DENY:
        worker.verdicts.add(record.stream_name, judged)


def _release_reservation(record: RequestRecord, worker: Worker) -> None:
    """Release the reservation: no access log reports the end of a request without an answer."""
    judged = record.judge_now()
    if judged is None or record.caller is None:
        return
    ended = unused(judged)
    if ended is not None:
        worker.limiter.settle(judged.organization_id, adjustments_of(record.caller.limits, ended))


def make_room(record: RequestRecord, worker: Worker) -> None:
    """Stop counting this request as under judgement: it is judged, or given up."""
    if record.is_counted:
        record.is_counted = False
        worker.guard.end()
