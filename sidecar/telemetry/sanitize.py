"""Text that others wrote, made fit to be shown: known in shape and length, or not shown at all.

A client chooses its model and request id, a webhook the types of its findings. Any of them could
carry a prompt or a key into a log, so each is shown only where it looks like what it should be.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.domain.policy import GuardrailSettings
from sidecar.domain.subject import Route, UnknownRoute
from sidecar.telemetry.names import NONE, OVERFLOW

MAX_CHARACTERS: Final = 64
"""Longer than any model name or id we have met; too short for a sentence worth hiding."""

_HTTP_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
# At least one letter, so that a card or social security number is no model; and nothing that
# begins as a key does.
# Bedrock takes the ARN of a model or profile for its name, which is longer.
_MODEL: Final = re.compile(
    r"(?!sk-|egk_)(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9._:/-]{1,64}"
    r"|arn:aws[a-z-]{0,9}:bedrock:[a-z0-9-]{0,20}:(?:[0-9]{12})?:[a-z-]{1,40}/[A-Za-z0-9._:-]{1,100}"
)
_RESPONSE_MODEL: Final = re.compile(r"(?!sk-|egk_)(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9._:/-]{1,200}")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def model_name(model: str | None) -> str | None:
    """Return the model a client asked for, or `other` where it does not look like one."""
    return None if model is None else _shaped(model, _MODEL)


def response_model(model: str | None) -> str | None:
    """Return the model a provider says it served, which may be an ARN: longer, else the same.

    A provider that serves whatever it is asked for says what the client wrote.
    """
    return None if model is None else _shaped(model, _RESPONSE_MODEL)


def request_id(value: str) -> str:
    """Return a request id, which Envoy may have taken from the client."""
    return _shaped(value, _REQUEST_ID)


def word(value: str) -> str:
    """Return a class name, a short code or a finding's type."""
    return _shaped(value, _WORD)


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
            return route.operation.value
        case UnknownRoute():
            return "unknown"
        case None:
            return NONE


def guardrail_type(settings: GuardrailSettings) -> str:
    """Return the type of a guardrail as policies spell it."""
    return settings.guardrail_type


def _shaped(value: str, shape: re.Pattern[str]) -> str:
    return value if shape.fullmatch(value) else OVERFLOW
