"""The keys of dynamic metadata, which the pipeline writes and the access log brings back."""

from __future__ import annotations

from sidecar.domain.metadata import METADATA_KEYS
from sidecar.pipeline.reply import usage_metadata
from tests.support.usage import judged


def test_each_key_that_usage_writes_is_in_the_table() -> None:
    """The reader knows no other names."""
    pairs = usage_metadata(judged(is_streamed=True, text_bytes=1, guardrails={"pii": "redact"}))

    assert {name for name, _ in pairs} <= METADATA_KEYS
