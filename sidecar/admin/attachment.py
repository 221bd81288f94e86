"""Canary requests through a gateway: is Egret attached there, and does each of its verdicts hold?

Each canary has a word that no other request has, so that a test provider's record of it is not
taken for that of another. Nothing of an answer is shown but its status and error code.
"""

from __future__ import annotations

import base64
import re
import secrets
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec
import orjson
from prometheus_client import CollectorRegistry, generate_latest

from sidecar.admin.diagnostics import Checked, CheckState, failed, ok, skipped, warning
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import HeaderName
from sidecar.telemetry.admin_metrics import attachment_gauges

ATTACHED: Final = "attached"
KEY: Final = "canary key"
BODIES: Final = "bodies judged"
REDACTION: Final = "redaction"
UNCHANGED: Final = "body unchanged"
CREDENTIALS: Final = "credentials removed"
TIMING: Final = "timing headers"
CHECKS: Final = (ATTACHED, KEY, BODIES, REDACTION, UNCHANGED, CREDENTIALS, TIMING)

CANARY_SECONDS: Final = 60.0
_REFUSED_KEYS: Final = {
    ErrorKind.REVOKED_API_KEY: "revoked",
    ErrorKind.EXPIRED_API_KEY: "expired",
    ErrorKind.DISABLED_API_KEY: "disabled",
    ErrorKind.INVALID_API_KEY: "not a key of this Egret",
    ErrorKind.MODEL_NOT_ALLOWED: "not allowed to use this model",
    ErrorKind.OPERATION_NOT_ALLOWED: "not allowed to use this route",
    ErrorKind.SOURCE_NOT_ALLOWED: "bound to other networks",
    ErrorKind.RATE_LIMIT_EXCEEDED: "over its rate limit",
    ErrorKind.BUDGET_EXHAUSTED: "without budget",
}
_NEW_KEY: Final = "create a key for this alone, with `egret keys create`, and pass it with --key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The gateway under test and the canaries for it.

    *blocked* is a text that the key's policy must refuse, *redacted* one that it must take out.
    *seen_at* is the address at which a test provider shows the last request that it received, as
    the mock LLM of `egret up` does (`/last`); of a real provider, the model answers whether it
    sees the text.
    """

    url: str
    key: str
    model: str
    blocked: str
    redacted: str
    path: str = "/v1/chat/completions"
    seen_at: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    request_id: str
    code: str
    text: str
    is_timed: bool

    @property
    def is_egrets(self) -> bool:
        """Return whether Egret itself gave this answer."""
        return bool(self.request_id and self.code)

    @property
    def shown(self) -> str:
        code = f" {self.code}" if self.code else ""
        return f"{self.status}{code}"


async def check_attachment(gateway: Gateway) -> tuple[Checked, ...]:
    """Send the canaries in order; a check whose precondition failed is skipped."""
    timeout = aiohttp.ClientTimeout(total=CANARY_SECONDS)
    try:
        tls = ssl.create_default_context(cafile=gateway.ca_file)
        connector = aiohttp.TCPConnector(ssl=tls)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            found = await _Canary(gateway, client).run()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        about = f"no answer from {gateway.url} ({type(error).__name__})"
        hint = "check the address, its certificate (--ca-file), and that the gateway runs"
        found = (failed(ATTACHED, about, hint=hint),)
    done = {one.check for one in found}
    rest = (skipped(name, f"waits for {found[-1].check}") for name in CHECKS if name not in done)
    return (*found, *rest)  # only the last ones can be missing, so this is their order


@dataclass(frozen=True, slots=True)
class _Canary:
    """The canaries of one run."""

    gateway: Gateway
    client: aiohttp.ClientSession

    async def run(self) -> tuple[Checked, ...]:
        """Stop at the first check without which the others say nothing."""
        attached = _attached(await self._send("Good morning.", key=None))
        if attached.hint is not None:
            return (attached,)
        blocked = await self._send(self.gateway.blocked, key=self.gateway.key)
        key = _key(blocked)
        if key.hint is not None:
            return attached, key
        bodies = _bodies(blocked)
        if bodies.hint is not None and blocked.status >= HTTPStatus.BAD_REQUEST:
            return attached, key, bodies
        word = f"canary{secrets.token_hex(4)}"
        question = (
            f"{word}: text <{self.gateway.redacted}>. "
            f"Does the text in angle brackets contain {self.gateway.redacted[:5]!r}? "
            "Answer YES or NO only."
        )
        passed = await self._send(question, key=self.gateway.key)
        if passed.status >= HTTPStatus.BAD_REQUEST:
            return attached, key, bodies, _unanswered(passed)
        seen = await self._seen()
        return (
            *(attached, key, bodies),
            *self._at_provider(question, word, passed, seen),
            ok(TIMING, "answers have server-timing")
            if passed.is_timed
            else warning(
                TIMING,
                "answers lack server-timing",
                hint="have Envoy write it from Egret's metadata, as docs/envoy.md does",
            ),
        )

    async def _send(self, text: str, *, key: str | None) -> _Answer:
        headers = {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        url = f"{self.gateway.url.rstrip('/')}/{self.gateway.path.lstrip('/')}"
        data = self._body(text)
        # A redirect is an answer as well, and is no reason to send the key elsewhere.
        async with self.client.post(
            url, data=data, headers=headers, allow_redirects=False
        ) as answer:
            body = await answer.read()
            return _Answer(
                answer.status,
                answer.headers.get(HeaderName.EGRET_REQUEST_ID, ""),
                _code(body),
                body.decode("utf-8", "replace"),
                HeaderName.SERVER_TIMING in answer.headers,
            )

    def _body(self, text: str) -> bytes:
        messages = [{"role": "user", "content": text}]
        return orjson.dumps({"model": self.gateway.model, "messages": messages, "max_tokens": 4})

    async def _seen(self) -> object:
        if self.gateway.seen_at is None:
            return None
        async with self.client.get(self.gateway.seen_at) as answer:
            try:
                return orjson.loads(await answer.read())
            except orjson.JSONDecodeError:
                return None

    def _at_provider(
        self, question: str, word: str, passed: _Answer, seen: object
    ) -> tuple[Checked, ...]:
        if self.gateway.seen_at is None:
            unseen = "only a test provider shows it: pass --seen-at"
            return (
                _as_answered(passed.text),
                skipped(UNCHANGED, unseen),
                skipped(CREDENTIALS, unseen),
            )
        try:
            record = msgspec.convert(seen, _Record)
            received = base64.b64decode(record.body_base64)
        except (msgspec.ValidationError, ValueError):
            record, received = _Record("", []), b""
        if word.encode() not in received:
            about = f"{self.gateway.seen_at} does not show the canary as the last request"
            hint = "point --seen-at at the provider behind this gateway, without other traffic"
            return (failed(REDACTION, about, hint=hint),)
        text = orjson.dumps(self.gateway.redacted)[1:-1]
        before, _, after = self._body(question).partition(text)
        is_same = received.startswith(before) and received.endswith(after)
        leaking = sorted(
            {name for name, value in record.header_pairs if self.gateway.key in value}
        )
        return (
            failed(REDACTION, "the provider received the text that must be taken out", hint=_LOST)
            if text in received
            else ok(REDACTION, "the provider received the request without the text"),
            ok(UNCHANGED, "all else of the body arrived as it was sent")
            if is_same
            else warning(
                UNCHANGED, "the provider received another body than Egret judged", hint=_TRANSLATED
            ),
            failed(
                CREDENTIALS,
                f"the provider received the client's key in {', '.join(leaking)}",
                hint=_COPIED,
            )
            if leaking
            else ok(CREDENTIALS, "the provider did not receive the client's key"),
        )


class _Record(msgspec.Struct):
    """A request as a test provider received it."""

    body_base64: str
    header_pairs: list[tuple[str, str]]


_ADDED_BEFORE: Final = (
    "the gateway adds a credential before Egret's filter: add the provider's one after it, among "
    "the filters of the provider's cluster"
)


def _attached(answer: _Answer) -> Checked:
    if answer.is_egrets and answer.code == ErrorKind.MISSING_API_KEY.value:
        return ok(ATTACHED, "a request without a key is refused by Egret")
    if answer.is_egrets and answer.status == HTTPStatus.UNAUTHORIZED:
        about = f"Egret answered {answer.shown} to a request without a key"
        return failed(ATTACHED, about, hint=_ADDED_BEFORE)
    if answer.is_egrets:
        hint = "look at Egret's log and metrics; `egret doctor` checks its databases"
        return failed(ATTACHED, f"Egret answered {answer.shown} to a request", hint=hint)
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return failed(
            ATTACHED,
            f"the gateway answered {answer.status} itself: Egret is not reached; it fails closed",
            hint="start Egret; check the cluster and certificates of the filter (`egret lint`)",
        )
    passes = "requests pass unchecked"
    if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
        passes = "the provider or another filter answered"
    return failed(
        ATTACHED,
        f"a request without a key got {answer.status}, not from Egret: {passes}",
        hint=(
            "the filter is missing on this listener or route, disabled there, or fails open "
            "while Egret is down: check the gateway's config dump with `egret lint`"
        ),
    )


def _key(answer: _Answer) -> Checked:
    for kind, about in _REFUSED_KEYS.items():
        if answer.is_egrets and answer.code == kind.value:
            return failed(KEY, f"the canary key is {about} ({answer.code})", hint=_NEW_KEY)
    if answer.is_egrets and answer.code == ErrorKind.CONFLICTING_CREDENTIALS.value:
        return failed(KEY, f"Egret answered {answer.shown}", hint=_ADDED_BEFORE)
    return ok(KEY, "Egret accepts the key")


def _bodies(answer: _Answer) -> Checked:
    if answer.is_egrets and answer.code == ErrorKind.CONTENT_BLOCKED.value:
        return ok(BODIES, "a text that the policy forbids is refused")
    if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return failed(
            BODIES,
            f"a text that must be refused was answered with {answer.shown}",
            hint=(
                "bind the key to a policy that blocks it (the built-in one refuses secrets), or "
                "name a text that its policy blocks with --blocked"
            ),
        )
    return failed(
        BODIES,
        f"{answer.shown} for a request whose body Egret needs: the gateway does not send it",
        hint=(
            "let the filter send bodies: allow_mode_override: true (Envoy 1.40), or "
            "request_body_mode: FULL_DUPLEX_STREAMED with both trailer modes SEND"
        ),
    )


def _unanswered(answer: _Answer) -> Checked:
    """Return the failure of the canary that should have passed."""
    if answer.is_egrets:
        hint = "let the key's policy pass the text of --redacted, redacted, or choose another"
        return failed(REDACTION, f"Egret answered {answer.shown}", hint=hint)
    hint = "pass --model and --path that this gateway's provider has"
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        hint = _ADDED_BEFORE
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        hint = "the provider, or the route to it, fails: look at the gateway's access log"
    return failed(REDACTION, f"the provider answered {answer.status}", hint=hint)


_TRANSLATED: Final = (
    "expected if a filter after Egret translates bodies; otherwise move Egret behind that filter"
)
_COPIED: Final = "remove the setting that copies the header, or put it after Egret"
_LOST: Final = (
    "a filter after Egret restores the client's body, or the key's policy does not redact the "
    "text: move Egret behind the other filter, or name a text that is redacted with --redacted"
)


def _as_answered(answer: str) -> Checked:
    """Judge by the model's own word, which no redaction of the answer changes."""
    said = re.findall(r"\b(YES|NO)\b", answer.upper())
    if said and set(said) == {"NO"}:
        return ok(REDACTION, "the model did not see the text, by its own answer")
    if said and set(said) == {"YES"}:
        return failed(REDACTION, "the model saw the text that must be taken out", hint=_LOST)
    return skipped(
        REDACTION, "the model's answer does not say; pass --seen-at, or another --model"
    )


def _code(body: bytes) -> str:
    """Return the code of an error object, of any API; empty if there is none."""
    try:
        error = orjson.loads(body).get("error")
    except (ValueError, AttributeError):
        return ""
    if not isinstance(error, dict):
        return ""
    return str(error.get("code") or error.get("type") or "")


def textfile(gateway: str, found: Iterable[Checked], *, now: float) -> str:
    """Return the checks as metrics; skipped ones are left out, and a warning counts as passed."""
    registry = CollectorRegistry()
    attached, sent_at = attachment_gauges(registry)
    for one in found:
        if one.state is not CheckState.SKIPPED:
            attached.labels(gateway, one.check).set(one.state is not CheckState.FAILED)
    sent_at.labels(gateway).set(now)
    return generate_latest(registry).decode()
