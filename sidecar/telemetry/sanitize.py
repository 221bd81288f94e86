"""Makes text safe for logs and labels: bounded, printable, without content."""

from __future__ import annotations

import re
from typing import Final

from sidecar.domain.subject import Route, UnknownRoute
from sidecar.telemetry.names import NONE, OVERFLOW

MAX_CHARACTERS: Final = 64
"""Longer than any model name or id we have met; too short for a sentence worth hiding."""

MAX_TEXT: Final = 200
"""Of a text of the provider's or Envoy's that the database stores."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HTTP_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
# At least one letter, so that a card or social security number is no model; and nothing that
# begins as a key does.
# Google's names have the version behind an @; nothing else may stand there, as in an address.
# Bedrock takes the ARN of a model or profile for its name, which is longer.
_VERSION: Final = "(?:@(?:[0-9]{3,8}|default|latest))?"
MODEL: Final = re.compile(
    rf"(?!sk-|eg[ak]_)(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9._:/-]{{1,64}}{_VERSION}"
    r"|arn:aws[a-z-]{0,9}:bedrock:[a-z0-9-]{0,20}:(?:[0-9]{12})?:[a-z-]{1,40}/[A-Za-z0-9._:-]{1,100}"
)
_RESPONSE_MODEL: Final = re.compile(
    rf"(?!sk-|eg[ak]_)(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9._:/-]{{1,200}}{_VERSION}"
)
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def model_name(model: str | None) -> str | None:
    """Return the model that a client requested, or `other` if it does not look like one."""
    return model if model is None or MODEL.fullmatch(model) else OVERFLOW


def response_model(model: str | None) -> str | None:
    """Return the model a provider reports, which may be an ARN: longer, else as `model_name`.

    A provider that accepts any name repeats the client's text.
    """
    return model if model is None or _RESPONSE_MODEL.fullmatch(model) else OVERFLOW


def clean_text(value: object) -> str | None:
    """Return text without control characters, which PostgreSQL may refuse; None if it is empty."""
    if not isinstance(value, str) or not value:
        return None
    if value.isprintable():
        return value[:MAX_TEXT]
    return _CONTROL.sub("", value)[:MAX_TEXT] or None


def request_id(value: str) -> str:
    """Return a request id, which Envoy may have taken from the client."""
    return value if REQUEST_ID.fullmatch(value) else OVERFLOW


def word(value: str) -> str:
    """Return a class name, a short code or a finding's type."""
    return value if _WORD.fullmatch(value) else OVERFLOW


def http_method(method: str | None) -> str | None:
    """Return a known method, or `_OTHER` as the HTTP conventions ask for."""
    return None if method is None else method if method in _HTTP_METHODS else "_OTHER"


def policy_text(name: str) -> str:
    """Return a name that a policy's author or an administrator chose, cut to a bearable length."""
    return name[:MAX_CHARACTERS]


def operation_name(route: Route | UnknownRoute | None) -> str:
    """Return the operation of a route, `unknown` for an unknown one, `none` before it was read."""
    match route:
        case Route():
            operation: str = route.operation.value
            return operation
        case UnknownRoute():
            return "unknown"
        case None:
            return NONE


MAX_LABEL_VALUES: Final = 100
"""Distinct guardrail, policy or model names a worker shows; the rest are `other`."""


class LabelCap:
    """Admits the first *limit* distinct values and calls all later ones `other`."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._shown: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        """Return the label value that stands for *value*."""
        shown = self._shown.get(value)
        if shown is not None:
            return shown
        if len(self._shown) >= self._limit:
            return OVERFLOW
        return self._shown.setdefault(value, policy_text(value))
