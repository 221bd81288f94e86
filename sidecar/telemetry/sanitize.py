"""Makes text safe for logs and labels: bounded, printable, without content."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from prometheus_client.metrics import MetricWrapperBase

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


MAX_LABEL_VALUES: Final = 100
"""Distinct guardrail, policy or model names a worker shows; the rest are `other`."""

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)
_Use = TypeVar("_Use")


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


class Children(Generic[_Metric, _Use]):
    """The label children of one metric: on the request's path a look-up, not a construction.

    What is found is the *use* of a child, worked out once, for example what counts in it.
    """

    def __init__(self, metric: _Metric, use: Callable[[_Metric], _Use]) -> None:
        self._metric = metric
        self._use = use
        self._found: dict[tuple[str, ...], _Use] = {}

    def __call__(self, *values: str) -> _Use:
        """Return the use of the child with these label values."""
        found = self._found.get(values)
        if found is None:
            found = self._found[values] = self._use(self._metric.labels(*values))
        return found


def itself(metric: _Metric) -> _Metric:
    """Use a child as it is."""
    return metric
