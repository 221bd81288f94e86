from __future__ import annotations

import json

import pytest

from sidecar.dialects.error_body import error_body
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.subject import Dialect

OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    500: "server_error",
    503: "server_error",
}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    413: "request_too_large",
    500: "api_error",
    503: "api_error",
}


@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_openai_clients_get_type_code_and_param(kind: ErrorKind) -> None:
    """The type follows the status, the code is the stable name of the kind."""
    error = ClientError(kind, 'Not "this" one.', param="model")
    assert json.loads(error_body(Dialect.OPENAI, error)) == {
        "error": {
            "message": 'Not "this" one.',
            "type": OPENAI_TYPES[kind.http_status],
            "param": "model",
            "code": kind.value,
        }
    }


@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_anthropic_clients_get_the_documented_type(kind: ErrorKind) -> None:
    """The type is the one Anthropic documents for the status."""
    assert json.loads(error_body(Dialect.ANTHROPIC, ClientError(kind, "No."))) == {
        "type": "error",
        "error": {"type": ANTHROPIC_TYPES[kind.http_status], "message": "No."},
    }


def test_a_missing_param_is_null() -> None:
    """OpenAI's object always has all four members."""
    body = error_body(Dialect.OPENAI, ClientError(ErrorKind.INVALID_BODY, "No."))
    assert json.loads(body)["error"]["param"] is None
