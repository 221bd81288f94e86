from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.http import CREDENTIAL_HEADERS, Headers
from sidecar.pipeline.admission import naming_model, strip

KEPT = (
    (":method", b"POST"),
    ("content-type", b"application/json"),
    ("x-api-key-id", b"1"),
    ("egret-x", b"1"),
    ("openai-beta", b"o"),
)


@pytest.mark.parametrize(
    "name",
    [
        *CREDENTIAL_HEADERS,
        "cookie",
        "proxy-authorization",
        "x-amz-security-token",
        "ocp-apim-subscription-key",
        "x-ms-oai-image-generation-deployment",
        "x-http-method-override",
        "x-goog-fieldmask",
        "openai-organization",
        "openai-project",
        "chatgpt-account-id",
        "x-goog-user-project",
        "x-egret-a",
        "x-egret-",
    ],
)
def test_what_a_client_proves_itself_with_never_leaves(name: str) -> None:
    """Nor what only we may say, overrides the rest or names who pays; everything else stays."""
    headers = Headers((*KEPT, (name, b"secret"), (name, b"again")))
    assert strip(headers) == (name,)


def test_nothing_is_removed_that_is_not_there() -> None:
    """Envoy counts each operation against a limit."""
    assert strip(Headers(KEPT)) == ()


def test_removals_come_in_a_stable_order() -> None:
    """The same request leads to the same bytes."""
    headers = Headers((("x-egret-b", b""), ("cookie", b""), ("authorization", b"")))
    assert strip(headers) == ("authorization", "cookie", "x-egret-b")


@pytest.mark.parametrize(
    "model",
    [
        "gpt-5",
        "llama3:8b",
        "meta-llama/Llama-3.1-8B-Instruct",
        "@cf/meta/llama-3",
        "ft:gpt-5-mini:acme::a1",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-v2:0",
    ],
)
def test_a_models_name_is_told_as_it_is(model: str) -> None:
    """In a header of its own."""
    assert naming_model(model) == (("x-egret-model", model.encode()),)


@given(st.none() | st.text(max_size=300) | st.from_regex(r"[ -~]{0,300}", fullmatch=True))
def test_no_models_name_can_be_read_in_two_ways(model: str | None) -> None:
    """Whatever a client writes: told whole in visible characters, or not at all."""
    named = naming_model(model)
    if not named:
        return
    told = dict(named)["x-egret-model"]
    assert told.decode() == model
    assert re.fullmatch(rb"[!-~]{1,256}", told)
