from __future__ import annotations

import json

import pytest

from sidecar.apis.error_body import error_body, error_headers
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.subject import Dialect

OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "invalid_request_error",
    404: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
OPENAI_TYPES_OF_THEIR_OWN = {ErrorKind.BUDGET_EXHAUSTED: "insufficient_quota"}
ANTHROPIC_TYPES_OF_THEIR_OWN = {ErrorKind.OVERLOADED: "overloaded_error"}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
}
GEMINI_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
BEDROCK_TYPES = {
    400: b"ValidationException",
    401: b"UnrecognizedClientException",
    403: b"AccessDeniedException",
    404: b"ResourceNotFoundException",
    408: b"ModelTimeoutException",
    413: b"ValidationException",
    429: b"ThrottlingException",
    500: b"InternalServerException",
    503: b"ServiceUnavailableException",
}
OPENAIS = [Dialect.OPENAI, Dialect.AZURE_OPENAI]


@pytest.mark.parametrize("dialect", OPENAIS, ids=lambda dialect: dialect.value)
@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_openai_clients_get_type_code_and_param(kind: ErrorKind, dialect: Dialect) -> None:
    """The type follows the status, mostly; the code is the stable name of the kind."""
    error = ClientError(kind, 'Not "this" one.', param="model")
    assert json.loads(error_body(dialect, error)) == {
        "error": {
            "message": 'Not "this" one.',
            "type": OPENAI_TYPES_OF_THEIR_OWN.get(kind, OPENAI_TYPES[kind.spec.status]),
            "param": "model",
            "code": kind.value,
        }
    }


@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_anthropic_clients_get_the_documented_type(kind: ErrorKind) -> None:
    """The type is the one Anthropic documents for the status, or, without one, for the matter."""
    told = ANTHROPIC_TYPES_OF_THEIR_OWN.get(kind, ANTHROPIC_TYPES[kind.spec.status])
    assert json.loads(error_body(Dialect.ANTHROPIC, ClientError(kind, "No."))) == {
        "type": "error",
        "error": {"type": told, "message": "No."},
    }


def test_a_missing_param_is_null() -> None:
    """OpenAI's object always has all four members."""
    body = error_body(Dialect.OPENAI, ClientError(ErrorKind.INVALID_BODY, "No."))
    assert json.loads(body)["error"]["param"] is None


@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_gemini_clients_get_googles_status_and_our_reason(kind: ErrorKind) -> None:
    """As google.rpc.Status; the reason is for people and dashboards."""
    assert json.loads(error_body(Dialect.GEMINI, ClientError(kind, "No."))) == {
        "error": {
            "code": kind.spec.status,
            "message": "No.",
            "status": GEMINI_STATUSES[kind.spec.status],
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": kind.value.upper(),
                    "domain": "egret",
                }
            ],
        }
    }


@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_bedrock_clients_find_the_type_in_a_header(kind: ErrorKind) -> None:
    """AWS's clients raise the exception of that name; the others need no such header."""
    error = ClientError(kind, "No.")
    assert json.loads(error_body(Dialect.BEDROCK, error)) == {"message": "No."}
    named = ("x-amzn-errortype", BEDROCK_TYPES[kind.spec.status])
    assert error_headers(Dialect.BEDROCK, error)[0] == named
    for dialect in set(Dialect) - {Dialect.BEDROCK}:
        assert "x-amzn-errortype" not in dict(error_headers(dialect, error))


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_no_library_sends_a_refused_key_again(kind: ErrorKind, dialect: Dialect) -> None:
    """Claude Code would do so for minutes; other refusals are tried again as they always are."""
    headers = dict(error_headers(dialect, ClientError(kind, "No."), request_id=ID))
    forbidden = headers.get("x-should-retry") == b"false"
    assert forbidden is (kind.spec.status == 401)


ID = "5d0c3a0e-6c0e-4a55-9a0e-0d9d6f0f0a01"
ID_HEADERS = {
    Dialect.OPENAI: "x-request-id",
    Dialect.AZURE_OPENAI: "x-request-id",
    Dialect.ANTHROPIC: "request-id",
    Dialect.GEMINI: "x-request-id",
    Dialect.VERTEX_AI: "x-request-id",
    Dialect.BEDROCK: "x-amzn-requestid",
}


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
def test_each_client_library_finds_the_request_id_in_its_own_header(dialect: Dialect) -> None:
    """As `request_id` of OpenAI's and Anthropic's errors, `RequestId` of boto3's metadata."""
    headers = error_headers(dialect, ClientError(ErrorKind.INVALID_BODY, "No."), request_id=ID)
    assert (ID_HEADERS[dialect], ID.encode()) in headers


def test_the_request_id_is_in_the_fields_that_anthropic_and_google_have_for_it() -> None:
    """Anthropic's is beside the error, Google's is a detail of it."""
    error = ClientError(ErrorKind.INVALID_BODY, "No.")
    assert json.loads(error_body(Dialect.ANTHROPIC, error, request_id=ID))["request_id"] == ID
    details = json.loads(error_body(Dialect.GEMINI, error, request_id=ID))["error"]["details"]
    assert details[1] == {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": ID}
