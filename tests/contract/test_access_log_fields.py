"""docs/envoy.md explains each field of the access log, and no other.

What Envoy itself puts into `ext_proc` is compared in tests/e2e/test_nothing_leaks.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest
import yaml

from sidecar.checks.ledger import Ledger
from sidecar.domain.limits import Reserved
from sidecar.embedded.envoy_config import EnvoyParameters, render_envoy_config
from sidecar.mutations.timing import Spent, timing_metadata
from sidecar.mutations.usage import usage_metadata
from tests.support.access_log_fields import explained
from tests.support.usage import judged


def _json_formats(value: Any) -> list[dict[str, str]]:
    if isinstance(value, list):
        return [found for one in value for found in _json_formats(one)]
    if not isinstance(value, dict):
        return []
    own = [value["json_format"]] if "json_format" in value else []
    return own + [found for one in value.values() for found in _json_formats(one)]


def test_the_fields_are_those_of_the_configuration() -> None:
    """Of every access log in it that is a file."""
    text = render_envoy_config(EnvoyParameters(worker_sockets=("/w.sock",), sds_directory="/sds"))
    formats = _json_formats(yaml.safe_load(text))

    assert formats
    assert {frozenset(one) for one in formats} == {frozenset(explained()["field"])}


def test_the_fields_of_egret_are_those_of_its_metadata() -> None:
    """What the ledger names, what usage needs, and the times."""
    request = dataclasses.replace(
        judged(), is_streamed=True, text_bytes=1, guardrails={"pii": "redact"}, reserved=Reserved()
    )
    named = set(re.findall(r'\("(\w+)", ', inspect.getsource(Ledger.metadata)))
    pairs = (*usage_metadata(request), *timing_metadata(Spent(0, 0, 0)))

    assert {"verdict", "key_id", "policy", "answer_status"} <= named
    assert explained()["egret"] == named | {name for name, _ in pairs}


@pytest.mark.parametrize("table", ["field", "egret", "ext_proc"])
def test_each_table_is_there(table: str) -> None:
    """And is not read as empty."""
    assert len(explained()[table]) > 10
