"""`egret doctor --through` on a real Envoy: a sound gateway passes, each breakage is named."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.admin.attachment import (
    ATTACHED,
    BODIES,
    CHECKS,
    CREDENTIALS,
    KEY,
    REDACTION,
    UNCHANGED,
    Gateway,
    check_attachment,
)
from sidecar.admin.diagnostics import Checked, CheckState
from sidecar.admin.keys import revoke_key
from sidecar.cli.doctor import BLOCKED, REDACTED
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect
from sidecar.telemetry.names import MetricName
from tests.support.scripted_processor import Side, scripted_processor
from tests.support.second_gateway import (
    Adapt,
    Config,
    beside_processor,
    connection_managers,
    ext_proc_filters,
    judged_by,
    second_gateway,
)
from tests.support.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

FILTERS: Final = "type.googleapis.com/envoy.extensions.filters.http"
WITHOUT_PII: Final = "{name: without-pii, guardrails: [{name: secrets, type: secrets}]}"


async def checked(stack: Stack, url: str, **more: Any) -> dict[str, Checked]:
    """Return the checks of a gateway by name."""
    gateway = Gateway(
        url=url,
        key=more.pop("key", stack.facts.key.get_secret_value()),
        model="gpt-4o",
        blocked=BLOCKED,
        redacted=REDACTED,
        seen_at=f"{stack.facts.mock_debug_url}/last",
        ca_file=str(stack.facts.ca_file),
        **more,
    )
    found = await check_attachment(gateway)
    assert tuple(one.check for one in found) == CHECKS
    return {one.check: one for one in found}


def failing(found: dict[str, Checked]) -> dict[str, str]:
    """Return the findings of the checks that failed."""
    return {name: one.found for name, one in found.items() if one.state is CheckState.FAILED}


async def test_a_sound_gateway_passes_every_check(stack: Stack) -> None:
    """Nothing is skipped, since the mock shows the request that it received."""
    found = await checked(stack, stack.facts.https_url)
    assert {one.state for one in found.values()} == {CheckState.OK}, found


# Six breakages.


def without_filter(config: Config) -> None:
    for manager in connection_managers(config):
        manager["http_filters"] = [
            one for one in manager["http_filters"] if one["name"] != "envoy.filters.http.ext_proc"
        ]


def failing_open(config: Config) -> None:
    judged_by(Path("/nonexistent/worker.sock"))(config)
    for settings in ext_proc_filters(config):
        settings["failure_mode_allow"] = True


def without_bodies(config: Config) -> None:
    for settings in ext_proc_filters(config):
        settings["allow_mode_override"] = False
        settings["message_timeout"] = "1s"


def copying_credentials(config: Config) -> None:
    copy = {"append": {"header": {"key": "x-forwarded-key", "value": "%REQ(AUTHORIZATION)%"}}}
    settings = {
        "@type": f"{FILTERS}.header_mutation.v3.HeaderMutation",
        "mutations": {"request_mutations": [copy]},
    }
    for manager in connection_managers(config):
        manager["http_filters"].insert(0, {"name": "copy", "typed_config": settings})


@pytest.mark.parametrize("change", [without_filter, failing_open])
async def test_requests_that_pass_unchecked_are_found(stack: Stack, change: Adapt) -> None:
    """The filter is missing, or lets requests pass while Egret is down: no other check matters."""
    async with second_gateway(stack, change) as gateway:
        found = await checked(stack, gateway.https_url)
    assert failing(found) == {
        ATTACHED: "a request without a key got 200, not from Egret: requests pass unchecked"
    }
    assert {found[name].state for name in CHECKS[1:]} == {CheckState.SKIPPED}


async def test_a_gateway_that_sends_no_body_is_found(stack: Stack) -> None:
    """The key is checked, and each request that needs its body fails."""
    async with second_gateway(stack, without_bodies) as gateway:
        found = await checked(stack, gateway.https_url)
    ((check, about),) = failing(found).items()
    assert check == BODIES
    assert about.endswith("for a request whose body Egret needs: the gateway does not send it")


async def test_a_credential_that_leaks_is_found_by_the_name_of_its_header(stack: Stack) -> None:
    """A filter before Egret has copied it to a header that Egret does not know."""
    async with second_gateway(stack, copying_credentials) as gateway:
        found = await checked(stack, gateway.https_url)
    assert failing(found) == {
        CREDENTIALS: "the provider received the client's key in x-forwarded-key"
    }
    assert all(stack.facts.key.get_secret_value() not in str(one) for one in found.values())


async def test_a_redaction_that_the_policy_does_not_make_is_found(stack: Stack) -> None:
    """All else holds."""
    await stack.apply(WITHOUT_PII)
    key = await stack.new_key("without-pii")
    found = await checked(stack, stack.facts.https_url, key=key.reveal())
    assert failing(found) == {REDACTION: "the provider received the text that must be taken out"}
    assert found[UNCHANGED].state is CheckState.OK


async def test_a_filter_after_egret_that_restores_the_body_is_found(stack: Stack) -> None:
    """The wrong order: the body that Egret judged is thrown away."""
    async with restoring(stack) as url:
        found = await checked(stack, url)
    assert failing(found) == {REDACTION: "the provider received the text that must be taken out"}
    assert found[UNCHANGED].state is CheckState.WARNING


async def test_a_revoked_canary_key_is_named_by_the_command(stack: Stack, tmp_path: Path) -> None:
    """Apart from a gateway that is not attached; rows as JSON, exit code 1, metrics in a file."""
    key = await stack.new_key(None)
    settings = PostgresSettings(dsn=SecretStr(stack.facts.postgres_dsn))
    async with connect(settings) as connection:
        await revoke_key(connection, key.key_id)
    metrics = tmp_path / "egret.prom"
    arguments = (
        *("doctor", "--through", stack.facts.https_url, "--ca-file", str(stack.facts.ca_file)),
        *("--metrics-file", str(metrics), "--output", "json"),
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "sidecar", *arguments],
        env=inherited_environment() | {"EGRET_KEY": key.reveal()},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert rows[ATTACHED]["state"] == "ok"
    assert rows[KEY]["found"] == "the canary key is revoked (revoked_api_key)"
    assert rows[KEY]["hint"].startswith("create a key for this alone")
    assert key.reveal() not in done.stdout + done.stderr
    samples = {
        (sample.name, sample.labels.get("check")): sample.value
        for family in text_string_to_metric_families(metrics.read_text())
        for sample in family.samples
    }
    assert samples[MetricName.ATTACHED, ATTACHED] == 1
    assert samples[MetricName.ATTACHED, KEY] == 0
    assert (MetricName.ATTACHED, BODIES) not in samples
    assert samples[MetricName.ATTACHED_TIMESTAMP, None] > 0


@asynccontextmanager
async def restoring(stack: Stack) -> AsyncIterator[str]:
    """Run a gateway whose second processor writes the client's text anew."""

    async def restore(side: Side) -> None:
        while (message := await side.read()) is not None:
            response = ext.ProcessingResponse()
            if message.HasField("request_headers"):
                response.request_headers.SetInParent()
            else:
                body = orjson.loads(message.request_body.body)
                text = body["messages"][0]["content"]
                body["messages"][0]["content"] = text.replace("[EMAIL_1]", REDACTED)
                common = response.request_body.response
                common.body_mutation.body = json.dumps(body).encode()
                common.header_mutation.remove_headers.append("content-length")
            await side.write(response)

    with tempfile.TemporaryDirectory(prefix="egret-2nd-") as place:
        socket = Path(place) / "second.sock"
        async with scripted_processor(socket) as processor:
            processor.script = restore
            second = beside_processor(socket, before=False, request_body_mode="BUFFERED")
            async with second_gateway(stack, second) as gateway:
                yield gateway.https_url
