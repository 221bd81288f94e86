"""docs/envoy.md explains each field of the access log, and no other.

What Envoy itself puts into `ext_proc` is compared in tests/e2e/test_nothing_leaks.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config

from sidecar.domain.errors import ErrorKind
from sidecar.domain.limits import Reservation
from sidecar.domain.metadata import METADATA_KEYS
from sidecar.domain.policy import ProviderChoice
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.report import Clocks
from sidecar.domain.subject import Subject
from sidecar.pipeline.record import Allowance, RequestRecord
from sidecar.pipeline.reply import metadata_of
from sidecar.policy.snapshot import EffectivePolicy
from tests.support.access_log_fields import explained
from tests.support.guardrails import snapshot_of
from tests.support.keys import record_of
from tests.support.replies import pairs_of
from tests.support.reports import CHAT, PRINCIPAL, SAMPLED, results


def _json_formats(value: Any) -> list[dict[str, str]]:
    if isinstance(value, list):
        return [found for one in value for found in _json_formats(one)]
    if not isinstance(value, dict):
        return []
    own = [value["log_format"]["json_format"]] if "log_format" in value else []
    return own + [found for one in value.values() for found in _json_formats(one)]


def test_the_fields_are_those_of_the_configuration() -> None:
    """Of every access log in it that is a file."""
    text = render_envoy_config(EnvoyParameters(worker_sockets=("/w.sock",), sds_directory="/sds"))
    formats = _json_formats(yaml.safe_load(text))

    assert formats
    assert {frozenset(one) for one in formats} == {frozenset(explained()["field"])}


def test_the_fields_of_egret_are_those_of_its_metadata() -> None:
    """Of an exchange that has something to say in each of them."""
    record = RequestRecord(
        clocks=Clocks(monotonic=lambda: 0.0, wall=lambda: 1_700_000_000.0),
        started_at=0.0,
        wall_ns=1_700_000_000_000_000_000,
    )
    record.request_id = "request-1"
    record.traceparent = SAMPLED
    record.route, record.principal = CHAT, PRINCIPAL
    snapshot = snapshot_of(())
    policy = snapshot.effective(PolicyBinding())
    assert isinstance(policy, EffectivePolicy)
    choice = ProviderChoice("search", "eu", ("openai", "azure"))
    record.policy, record.key = replace(policy, provider=choice), record_of(PRINCIPAL.key_id)
    record.model, record.streamed, record.text_bytes = "gpt-4o", True, 1
    record.estimated_tokens, record.usage_source = 10, "answers"
    record.allowance = Allowance(reserved=Reservation())
    record.results = results()
    record.subject = Subject(model="gpt-4o", streamed=True, parts=(), service_tier="priority")
    record.error, record.answer_status = ErrorKind.CONTENT_BLOCKED, 200

    written = set(pairs_of(metadata_of(record, now=0.0)))
    assert explained()["egret"] == written == METADATA_KEYS


@pytest.mark.parametrize("table", ["field", "egret", "ext_proc"])
def test_each_table_is_there(table: str) -> None:
    """And is not read as empty."""
    assert len(explained()[table]) > 10
