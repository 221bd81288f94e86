from __future__ import annotations

import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Headers
from sidecar.keys.credentials import (
    MAX_NAMES_LENGTH,
    MAX_PARAMETERS,
    ApiKey,
    presented_key,
)

KEY = ApiKey(key_id="0123456789AB", secret="a" * 43)
OTHER = ApiKey(key_id="0123456789AB", secret="b" * 43)
TEXT = KEY.reveal().encode()
OTHER_TEXT = OTHER.reveal().encode()
MISSING = ErrorKind.MISSING_API_KEY
INVALID = ErrorKind.INVALID_API_KEY
CONFLICTING = ErrorKind.CONFLICTING_CREDENTIALS


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param([("authorization", b"Bearer " + TEXT)], KEY, id="bearer"),
        pytest.param([("authorization", b"bEARER " + TEXT)], KEY, id="scheme in any case"),
        pytest.param([("authorization", b" Bearer  " + TEXT + b"\t")], KEY, id="blanks around"),
        pytest.param([("x-api-key", TEXT)], KEY, id="x-api-key"),
        pytest.param([("api-key", TEXT)], KEY, id="api-key"),
        pytest.param([("x-goog-api-key", TEXT)], KEY, id="x-goog-api-key"),
        pytest.param(
            [("authorization", b"Bearer " + TEXT), ("x-api-key", TEXT)], KEY, id="same in two"
        ),
        pytest.param([], MISSING, id="no credential"),
        pytest.param([("cookie", TEXT), ("x-egret-key", TEXT)], MISSING, id="elsewhere"),
        pytest.param([("authorization", b"")], MISSING, id="empty header"),
        pytest.param([("authorization", b"Bearer ")], MISSING, id="bearer of nothing"),
        pytest.param([("authorization", b"Bearer")], MISSING, id="bare scheme"),
        pytest.param([("x-api-key", b"  ")], MISSING, id="blank header"),
        pytest.param([("authorization", TEXT)], INVALID, id="no scheme"),
        pytest.param(
            [("authorization", TEXT), ("x-api-key", TEXT)], CONFLICTING, id="no scheme and ours"
        ),
        pytest.param([("authorization", b"Basic " + TEXT)], INVALID, id="basic"),
        pytest.param([("authorization", b"Bearer\t" + TEXT)], INVALID, id="tab for a space"),
        pytest.param([("x-api-key", b"Bearer " + TEXT)], INVALID, id="scheme in x-api-key"),
        pytest.param([("x-api-key", b"sk-ant-1")], INVALID, id="a provider's key"),
        pytest.param([("x-api-key", TEXT + b"\x00\xff")], INVALID, id="bytes that are no text"),
        pytest.param(
            [("x-api-key", b"x"), ("authorization", b"Bearer x")], INVALID, id="same nonsense"
        ),
        pytest.param([("x-api-key", TEXT)] * 2, CONFLICTING, id="repeated, equal"),
        pytest.param([("x-api-key", TEXT), ("x-api-key", OTHER_TEXT)], CONFLICTING, id="repeated"),
        pytest.param([("x-api-key", b"")] * 2, CONFLICTING, id="repeated, empty"),
        pytest.param([("x-api-key", TEXT + b"," + TEXT)], CONFLICTING, id="joined by a comma"),
        pytest.param(
            [("authorization", b"Bearer " + TEXT + b", Bearer " + TEXT)],
            CONFLICTING,
            id="bearers joined by a comma",
        ),
        pytest.param(
            [("authorization", b"Bearer " + TEXT), ("x-api-key", OTHER_TEXT)],
            CONFLICTING,
            id="two keys",
        ),
        pytest.param(
            [("authorization", b"Bearer sk-1"), ("x-api-key", TEXT)],
            CONFLICTING,
            id="a provider's key and ours",
        ),
        pytest.param(
            [("authorization", b"Basic abc"), ("x-api-key", TEXT)],
            CONFLICTING,
            id="basic and ours",
        ),
        pytest.param(
            [("authorization", b"Bearer "), ("x-api-key", TEXT)], CONFLICTING, id="empty and ours"
        ),
    ],
)
def test_a_request_presents_one_key_or_a_fault(
    fields: list[tuple[str, bytes]], expected: ApiKey | ErrorKind
) -> None:
    """What two parsers could read differently presents nothing."""
    assert presented_key(Headers(tuple(fields))) == expected


IN_QUERY = ErrorKind.CREDENTIAL_IN_QUERY


@pytest.mark.parametrize(
    "query",
    [
        "key=" + KEY.reveal(),
        "key=",
        "key",
        "alt=sse&KEY=AIza",
        "alt=sse;key=AIza",
        "k%65y=AIza",
        "+key=AIza",
        "access_token=ya29",
        "api-key=x",
        "API_Key=x",
        "subscription-key=x",
        "X-Amz-Signature=x",
        "X-Amz-Security-Token=x",
        "a=1?&key=x",
        "$key=AIza",
        "alt=sse&%24key=AIza",
        "$access_token=ya29",
        "bearer_token=ya29",
        "password=x",
        "passwd=x",
        "Ocp-Apim-Subscription-Key=x",
        "X-Goog-Signature=x",
    ],
)
def test_a_credential_in_the_query_is_believed_beside_no_header(query: str) -> None:
    """Ours or a provider's own: it would be sent on, and written to every log on its way."""
    path = (":path", f"/v1beta/models/m:generateContent?{query}".encode())
    assert presented_key(Headers((path,))) == IN_QUERY
    assert presented_key(Headers((path, ("x-goog-api-key", TEXT)))) == IN_QUERY


@pytest.mark.parametrize(
    "query",
    [
        "$ct=application/x-protobuf",
        "ct=x",
        "%24callback=f",
        "alt=sse&callback=f",
        "$httpMethod=DELETE",
        "HTTPMETHOD",
        "$httpHeaders=Content-Type:application/x-protobuf",
        "alt=sse&%24httpheaders=X-Goog-FieldMask:candidates",
        "httpHeaders=x",
        "fields=candidates",
        "alt=sse&%24fields=candidates",
        "alt=proto",
        "$alt=proto&alt=sse",
        "alt=%70roto",
    ],
)
def test_a_query_that_overrides_the_headers_is_refused_beside_a_good_key(query: str) -> None:
    """Google would read another body, header or method, wrap its answer, or count no tokens."""
    path = (":path", f"/v1beta/models/m:generateContent?{query}".encode())
    unscanned = ErrorKind.UNSCANNED_CONTENT
    assert presented_key(Headers((path, ("x-goog-api-key", TEXT)))) == unscanned


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("&" * MAX_PARAMETERS, id="more parameters"),
        pytest.param("a;" * MAX_PARAMETERS + "key=x", id="one behind them"),
        pytest.param("%20" * MAX_NAMES_LENGTH + "key=x", id="a long name"),
        pytest.param("&".join(["%41" * 11] * MAX_PARAMETERS) + "=x", id="long names"),
    ],
)
def test_more_than_is_looked_through_counts_as_a_credential(query: str) -> None:
    """Who has no key must not make a worker decode 60 KB of names, nor hide one among them."""
    path = (":path", f"/v1/chat/completions?{query}".encode())
    assert presented_key(Headers((path, ("x-api-key", TEXT)))) == IN_QUERY


def test_as_many_parameters_as_are_looked_through_do_not_matter() -> None:
    """And values may be long, as tokens of pages are."""
    query = "&".join(["include[]=" + "x" * 500] * MAX_PARAMETERS)
    path = (":path", f"/v1/responses/r?{query}".encode())
    assert presented_key(Headers((path, ("x-api-key", TEXT)))) == KEY


@pytest.mark.parametrize(
    "query",
    ["", "?", "?alt=sse", "?$alt=sse", "?api-version=2024-10-21", "?keys=a", "?x=key", "?$$key=a"],
)
def test_other_queries_do_not_matter(query: str) -> None:
    """Versions and formats are the providers' affair."""
    path = (":path", f"/openai/deployments/gpt/chat/completions{query}".encode())
    assert presented_key(Headers((path, ("api-key", TEXT)))) == KEY
