from __future__ import annotations

from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

import sidecar
from sidecar.guardrails.message_table import MessageTable
from sidecar.settings.process import Settings
from sidecar.settings.serving import ExchangeSettings
from sidecar.settings.stores import CacheSettings, ValkeySettings
from sidecar.telemetry.process_metrics import ProcessMetrics
from sidecar.worker.messages import code_digest, open_messages
from tests.support.guardrails import effective, policy
from tests.support.routes import route_of

SCAN = effective(policy("  - {name: pii, type: pii}\n")).local


async def opened(**exchange: float) -> MessageTable | None:
    settings = Settings(
        exchange=ExchangeSettings.model_validate(exchange),
        valkey=ValkeySettings(url=SecretStr("redis://127.0.0.1:9")),
        cache=CacheSettings(l2_secret=SecretStr("s" * 32)),
    )
    async with AsyncExitStack() as stack:
        metrics = ProcessMetrics(CollectorRegistry())
        return await open_messages(settings, metrics=metrics, stack=stack)


def key_of(table: MessageTable | None) -> bytes:
    assert table is not None
    return table.key("org", SCAN, route_of(), "messages")


async def test_a_table_of_no_size_is_none() -> None:
    assert await opened(message_table_mb=0) is None


async def test_a_worker_that_shares_nothing_has_digests_of_its_own() -> None:
    first, second = await opened(), await opened()
    assert key_of(first) != key_of(second)
    assert first is not None
    assert first.shared is None


async def test_workers_that_share_have_the_same_digests() -> None:
    first, second = [await opened(shared_messages_seconds=60) for _ in range(2)]
    assert key_of(first) == key_of(second)
    assert first is not None
    assert first.shared is not None


def test_another_file_name_or_text_of_the_code_is_another_version(tmp_path: Path) -> None:
    """Except for what Python itself writes beside it."""
    (tmp_path / "within").mkdir()
    (tmp_path / "within" / "rules.tsv").write_text("one", encoding="utf-8")
    digests = [code_digest(tmp_path)]
    (tmp_path / "within" / "rules.tsv").write_text("two", encoding="utf-8")
    digests.append(code_digest(tmp_path))
    (tmp_path / "within" / "rules.tsv").rename(tmp_path / "within" / "other.tsv")
    digests.append(code_digest(tmp_path))
    assert len(set(digests)) == 3
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"a")
    assert code_digest(tmp_path) == digests[-1]
    assert code_digest(files(sidecar)) != digests[-1]
