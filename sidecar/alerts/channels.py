"""Sends messages to receivers: signed webhooks (Standard Webhooks), and chat, pagers and mail.

A webhook's address comes from a document, so it is treated as hostile: addresses are checked when
a connection is made, redirects are not followed, and the answer's body is not read. Addresses of
other channels are in their secrets, which the operator of this process provides; their library,
Apprise, is confined to these services, follows no redirect and verifies certificates.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from datetime import UTC, datetime
from typing import Final

import aiohttp
import apprise
import orjson
from aiohttp.resolver import ThreadedResolver
from apprise.plugins.email import NotifyEmail
from apprise.plugins.pagerduty import NotifyPagerDuty
from apprise.plugins.slack import NotifySlack
from apprise.plugins.workflows import NotifyWorkflows
from standardwebhooks.webhooks import Webhook
from yarl import URL

from sidecar.admin.installation.objects import AlertRouteDocument
from sidecar.alerts.outbox import AlertMessage
from sidecar.domain.alerting import AlertRule, Channel, Severity
from sidecar.domain.validation import is_private_address, is_refused_address
from sidecar.guardrails.remote.http import GuardedResolver, RefusedAddressError
from sidecar.settings.sections import inherited_environment
from sidecar.settings.telemetry import AlertSettings

SEND_SECONDS: Final = 15.0
MAX_SECRET_CHARACTERS: Final = 65_536
MIN_SECRET_BYTES: Final = 24
"""Of a webhook's secret, before base64: the least that Standard Webhooks allows."""
MAX_LINES: Final = 50
"""Alerts that a text shows; a webhook has all."""
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - of the form, no secret
_SERVICES: Final[dict[Channel, tuple[type[apprise.NotifyBase], frozenset[str]]]] = {
    Channel.SLACK: (NotifySlack, frozenset({"slack"})),
    Channel.TEAMS: (NotifyWorkflows, frozenset({"workflow", "workflows"})),
    Channel.PAGERDUTY: (NotifyPagerDuty, frozenset({"pagerduty"})),
    Channel.MAIL: (NotifyEmail, frozenset({"mailto", "mailtos"})),
}
"""Classes of Apprise with their schemes. Its registry, which chooses among a hundred by the
scheme, is not used: some of them read files or run programs."""
_TYPES: Final = {
    Severity.INFO: apprise.NotifyType.INFO,
    Severity.WARNING: apprise.NotifyType.WARNING,
    Severity.CRITICAL: apprise.NotifyType.FAILURE,
}

# Its lines may have parts of addresses, which are secrets.
logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)


class NotDeliveredError(Exception):
    """A message was not accepted; `reason` is a word for logs and the history, without content."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


async def send_message(
    message: AlertMessage, route: AlertRouteDocument, settings: AlertSettings
) -> None:
    """Send *message* and return once its receiver has accepted it.

    Raises:
        NotDeliveredError: it did not, or the secret cannot be read.
    """
    secret = await asyncio.to_thread(read_secret, route.secret, settings)
    try:
        if route.channel is Channel.WEBHOOK:
            async with asyncio.timeout(SEND_SECONDS):
                await _post(message, URL(route.url or ""), secret, settings)
        else:
            # Later than its own limit: a thread that goes on would send beside the next attempt.
            async with asyncio.timeout(SEND_SECONDS + 5):
                await asyncio.to_thread(_notify, message, route.channel, secret)
    except TimeoutError:
        raise NotDeliveredError("timeout") from None


def read_secret(place: str, settings: AlertSettings) -> str:
    """Return the secret that `env:` or `file:` names; the form of *place* leaves no path in it.

    Raises:
        NotDeliveredError: there is none.
    """
    source, _, name = place.partition(":")
    if source == "env":
        text = inherited_environment().get(name, "")
    else:
        try:
            with (settings.secrets_directory / name).open(encoding="utf-8") as file:
                text = file.read(MAX_SECRET_CHARACTERS)
        except (OSError, UnicodeDecodeError):
            text = ""
    if not text.strip():
        raise NotDeliveredError("secret_missing")
    return text.strip()


async def _post(message: AlertMessage, url: URL, secret: str, settings: AlertSettings) -> None:
    allowed = settings.allowed_networks

    def refuses(address: str) -> bool:
        if is_refused_address(address) or is_private_address(address, allowed=allowed):
            return True
        # Without TLS within the allowed networks alone: anywhere else others could read it.
        return url.scheme != "https" and not is_private_address(address)

    # An address is not resolved, so that no resolver checks it.
    host = url.raw_host or ""
    is_address = ":" in host or host.replace(".", "").isdigit()
    if is_refused_address(host) or (is_address and refuses(host)):
        raise NotDeliveredError("refused_address")
    body = webhook_body(message)
    headers = {"content-type": "application/json", "user-agent": "egret"}
    headers |= signed_headers(message.id, body, secret, at=datetime.now(UTC))
    connector = aiohttp.TCPConnector(resolver=GuardedResolver(ThreadedResolver(), refuses=refuses))
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            ) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            if not response.ok or response.status >= 300:  # noqa: PLR2004 - a redirect is no answer
                raise NotDeliveredError(f"status_{response.status}")
            response.close()  # its body is of no interest, and may be endless
    except aiohttp.ClientConnectorError as error:
        is_refused = isinstance(error.os_error, RefusedAddressError)
        raise NotDeliveredError("refused_address" if is_refused else "connection") from None
    except (aiohttp.ClientError, OSError) as error:
        raise NotDeliveredError(type(error).__name__) from None


def webhook_body(message: AlertMessage) -> bytes:
    """Return the JSON of a webhook: `type`, `timestamp` and `data`, the same at each attempt."""
    is_test = all(one.rule == AlertRule.TEST.value for one in message.alerts)
    return orjson.dumps(
        {
            "type": "alert.test" if is_test else "alert.raised",
            "timestamp": message.due_at,
            "data": {"route": message.route, "alerts": message.alerts},
        },
        option=orjson.OPT_UTC_Z,
    )


def signed_headers(message_id: str, body: bytes, secrets: str, *, at: datetime) -> dict[str, str]:
    """Return the headers of Standard Webhooks, with a signature by each of *secrets*.

    Two secrets, separated by white space, let a receiver change from one to the other.

    Raises:
        NotDeliveredError: one is not `whsec_` and base64, or is too short.
    """
    signatures: list[str] = []
    for secret in secrets.split():
        # The prefix is required: the secret of another channel, a password perhaps, must not sign
        # a text that its receiver knows.
        encoded = secret.removeprefix(_SECRET_PREFIX)
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if encoded == secret or len(key) < MIN_SECRET_BYTES:
            raise NotDeliveredError("secret_form")
        signatures.append(Webhook(key).sign(msg_id=message_id, timestamp=at, data=body.decode()))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _notify(message: AlertMessage, channel: Channel, address: str) -> None:
    """Send by Apprise, which blocks."""
    asset = apprise.AppriseAsset(
        app_id="Egret",
        http_redirects=False,
        async_mode=False,
        pgp_autogen=False,
        pem_autogen=False,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        service_timeout=SEND_SECONDS,
    )
    kind, schemes = _SERVICES[channel]
    fields = kind.parse_native_url(address)  # as the service shows it: https://hooks.slack.com/…
    if fields is None and address.partition("://")[0].lower() in schemes:
        fields = kind.parse_url(address)
    try:
        service = kind(**(fields or {}), asset=asset)
    except (apprise.exception.AppriseException, TypeError):
        raise NotDeliveredError("secret_form") from None
    service.redirects = False  # whatever the address asks for
    service.verify_certificate = True
    if isinstance(service, NotifyPagerDuty):
        service.dedup = message.id  # so that a second attempt is the same incident
    every = apprise.Apprise(asset=asset)
    every.add(service)
    severity = max((Severity(one.severity) for one in message.alerts), key=list(Severity).index)
    if not every.notify(
        body=text_of(message),
        title=title_of(message),
        notify_type=_TYPES[severity],
        body_format=apprise.NotifyFormat.TEXT,
    ):
        raise NotDeliveredError("not_accepted")


def title_of(message: AlertMessage) -> str:
    """Return a line for subjects: the alert, or the number of alerts and their severity."""
    first = message.alerts[0]
    if len(message.alerts) == 1:
        return f"Egret, {first.severity}: {first.rule.replace('_', ' ')}"
    return f"Egret: {len(message.alerts)} alerts"


def text_of(message: AlertMessage) -> str:
    """Return a line for each alert, and the message's id."""
    lines = [
        f"{one.raised_at:%Y-%m-%d %H:%M}Z {one.severity}: {one.summary}"
        + ("" if one.organization is None else f" ({one.organization})")
        for one in message.alerts[:MAX_LINES]
    ]
    if len(message.alerts) > MAX_LINES:
        lines.append(f"and {len(message.alerts) - MAX_LINES} more: see `egret alerts history`")
    return "\n".join((*lines, f"Message {message.id} of route {message.route}"))
