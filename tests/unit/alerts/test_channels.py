from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from sidecar.alerts.channels import (
    NotDeliveredError,
    send_message,
    signed_headers,
    text_of,
    title_of,
    webhook_body,
)
from sidecar.alerts.outbox import AlertMessage, RaisedAlert
from sidecar.settings.telemetry import AlertSettings
from tests.support.alerts import LOOPBACK, SECRET, AlertReceiver, route, secrets_of

AT = datetime(2027, 1, 31, 12, tzinfo=UTC)
ALERT = RaisedAlert(
    "alert_1", "fail_open", "critical", "dlp org_1", AT, "Guardrail dlp failed", "acme", AT
)
MESSAGE = AlertMessage("msg_1", "ops", 1, AT, (ALERT,))


async def refusal(message: AlertMessage = MESSAGE, *, secrets: Path, **fields: str | None) -> str:
    """Return the reason for which a message is not delivered."""
    settings = AlertSettings(secrets_directory=secrets)
    with pytest.raises(NotDeliveredError) as error:
        await send_message(message, route(**fields), settings)
    return error.value.reason


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "100.64.0.1", "[::1]", "[fd00::1]",
        "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "2130706433", "localhost", "0x7f.1",
        "169.254.169.254", "metadata.google.internal", "[fd00:ec2::254]", "2852039166",
    ],
)  # fmt: skip
async def test_a_webhook_reaches_no_private_address(tmp_path: Path, host: str) -> None:
    """In whatever spelling, by number or by name."""
    secrets_of(tmp_path, "ops")

    assert await refusal(secrets=tmp_path, url=f"https://{host}:1/") == "refused_address"


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "127.0.0.2"])
async def test_a_network_that_is_allowed_opens_no_other_and_no_metadata(
    tmp_path: Path, host: str
) -> None:
    secrets_of(tmp_path, "ops")
    settings = AlertSettings(
        secrets_directory=tmp_path,
        allowed_networks=("127.0.0.1/32", "169.254.0.0/16"),  # type: ignore[arg-type]  # as read
    )
    with pytest.raises(NotDeliveredError, match="refused_address"):
        await send_message(MESSAGE, route(url=f"https://{host}:1/"), settings)


async def test_a_public_address_takes_no_webhook_without_tls(tmp_path: Path) -> None:
    secrets_of(tmp_path, "ops")

    assert await refusal(secrets=tmp_path, url="http://192.0.2.1/") == "refused_address"
    assert await refusal(secrets=tmp_path, url="http://1.1.1.1/") == "refused_address"


async def test_a_webhook_is_signed_and_accepted_by_any_status_of_200(tmp_path: Path) -> None:
    """The receiver verifies it by the library of Standard Webhooks."""
    receiver = AlertReceiver(status=202)
    settings = AlertSettings(
        secrets_directory=secrets_of(tmp_path, "ops"), allowed_networks=(LOOPBACK,)
    )
    async with receiver.listening():
        await send_message(MESSAGE, route(url=receiver.url), settings)

    assert receiver.bodies["msg_1"] == {
        "type": "alert.raised",
        "timestamp": "2027-01-31T12:00:00Z",
        "data": {
            "route": "ops",
            "alerts": [
                {
                    "id": "alert_1",
                    "rule": "fail_open",
                    "severity": "critical",
                    "object": "dlp org_1",
                    "period_began": "2027-01-31T12:00:00Z",
                    "summary": "Guardrail dlp failed",
                    "organization": "acme",
                    "raised_at": "2027-01-31T12:00:00Z",
                }
            ],
        },
    }


def test_two_secrets_make_two_signatures_so_that_one_can_be_replaced() -> None:
    other = "whsec_" + base64.b64encode(b"x" * 32).decode()
    headers = signed_headers("msg_1", b"{}", f"{SECRET}\n{other}\n", at=datetime.now(UTC))

    for secret in (SECRET, other):
        Webhook(secret).verify("{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(b"y" * 32)).verify("{}", headers)


@pytest.mark.parametrize(
    "secret",
    [
        "hunter2",
        "whsec_c2hvcnQ=",
        "whsec_",
        "mailtos://user:hunter2@smtp.example.com?from=egret@example.com&to=ops@example.com",
        "whsec_mailtos://user:hunter2@smtp.example.com?from=egret@example.com",
        base64.b64encode(b"x" * 32).decode(),
    ],
)
def test_a_secret_of_another_form_signs_nothing(secret: str) -> None:
    with pytest.raises(NotDeliveredError, match="secret_form"):
        signed_headers("msg_1", b"{}", secret, at=AT)


async def test_a_secret_is_read_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await refusal(secrets=tmp_path) == "secret_missing"
    assert await refusal(secrets=tmp_path, secret="env:ALERT_OPS") == "secret_missing"
    monkeypatch.setenv("ALERT_OPS", "short")
    assert await refusal(secrets=tmp_path, secret="env:ALERT_OPS") == "secret_form"
    (tmp_path / "ops").write_bytes(b"\xff")
    assert await refusal(secrets=tmp_path) == "secret_missing"


@pytest.mark.parametrize(
    ("channel", "address"),
    [
        ("slack", "json://127.0.0.1/"),
        ("slack", "https://example.com/services/a/b/c"),
        ("slack", "mailto://user:pass@example.com"),
        ("teams", "https://example.com/workflows/a/triggers/manual/paths/invoke?sig=b"),
        ("pagerduty", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"),
        ("mail", "syslog://"),
        ("mail", "file:///etc/passwd"),
    ],
)
async def test_a_channel_takes_addresses_of_its_service_alone(
    tmp_path: Path, channel: str, address: str
) -> None:
    (tmp_path / "ops").write_text(address, encoding="utf-8")

    assert await refusal(secrets=tmp_path, channel=channel, url=None) == "secret_form"


@asynccontextmanager
async def mail_server(replies: dict[str, str]) -> AsyncIterator[tuple[int, list[str]]]:
    """Serve SMTP on loopback; yield the port and the lines of all messages."""
    lines: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while command := (await reader.readline()).decode().strip():
            verb = command.upper().split(" ")[0].split(":")[0]
            writer.write((replies.get(verb, "250 done") + "\r\n").encode())
            if verb == "DATA":
                while (line := (await reader.readline()).decode().rstrip("\r\n")) != ".":
                    lines.append(line)
                writer.write(b"250 stored\r\n")
            if verb == "QUIT":
                break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], lines


async def test_mail_is_sent_with_the_alert_as_its_subject(tmp_path: Path) -> None:
    settings = AlertSettings(secrets_directory=tmp_path)
    async with mail_server({"DATA": "354 go on", "QUIT": "221 bye"}) as (port, lines):
        address = (
            f"mailto://127.0.0.1:{port}?from=egret@example.com&to=ops@example.com&mode=insecure"
        )
        (tmp_path / "ops").write_text(address, encoding="utf-8")
        await send_message(MESSAGE, route(channel="mail", url=None), settings)

    assert any(line.startswith("Subject: Egret, critical: fail open") for line in lines)
    assert any(line.startswith("To: ") and "ops@example.com" in line for line in lines)


async def test_a_mail_server_that_refuses_is_no_delivery(tmp_path: Path) -> None:
    async with mail_server({"MAIL": "451 later", "QUIT": "221 bye"}) as (port, _):
        address = (
            f"mailto://127.0.0.1:{port}?from=egret@example.com&to=ops@example.com&mode=insecure"
        )
        (tmp_path / "ops").write_text(address, encoding="utf-8")
        assert await refusal(secrets=tmp_path, channel="mail", url=None) == "not_accepted"


@pytest.mark.parametrize(
    ("channel", "address", "host"),
    [
        ("slack", "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
         "hooks.slack.com:443"),
        ("teams",
         "https://prod-01.westus.logic.azure.com/workflows/6/triggers/manual/paths/invoke?sig=k",
         "prod-01.westus.logic.azure.com:443"),
        ("pagerduty", "pagerduty://0123456789abcdef0123456789abcdef@AAAAAAAAAAAAAAAAAAAA",
         "events.pagerduty.com:443"),
    ],
)  # fmt: skip
async def test_chat_and_pagers_are_reached_at_their_own_hosts_by_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: str, address: str, host: str
) -> None:
    """By the request that a proxy receives."""
    asked: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().split(" ")[1])
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    (tmp_path / "ops").write_text(address, encoding="utf-8")
    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        reason = await refusal(secrets=tmp_path, channel=channel, url=None)

    assert (asked, reason) == ([host], "not_accepted")


def test_a_message_of_several_alerts_has_a_line_for_each() -> None:
    second = replace(ALERT, id="alert_2", organization=None, severity="info")
    several = replace(MESSAGE, alerts=(ALERT, second))

    assert title_of(several) == "Egret: 2 alerts"
    assert text_of(several).splitlines() == [
        "2027-01-31 12:00Z critical: Guardrail dlp failed (acme)",
        "2027-01-31 12:00Z info: Guardrail dlp failed",
        "Message msg_1 of route ops",
    ]


def test_a_long_digest_is_cut_for_people() -> None:
    lines = text_of(replace(MESSAGE, alerts=(ALERT,) * 60)).splitlines()

    assert len(lines) == 52
    assert lines[50] == "and 10 more: see `egret alerts history`"


def test_a_body_is_the_same_at_each_attempt() -> None:
    assert webhook_body(MESSAGE) == webhook_body(replace(MESSAGE, attempts=7))
    test = replace(MESSAGE, alerts=(replace(ALERT, rule="test"),))
    assert orjson.loads(webhook_body(test))["type"] == "alert.test"
