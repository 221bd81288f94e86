"""Keys for one operation, or for clients in one network, through the real gateway."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Final

import pytest

from sidecar.keys.scopes import Scopes
from tests.support.second_gateway import (
    Config,
    connection_managers,
    ext_proc_filters,
    second_gateway,
)
from tests.support.stack import MESSAGES, Stack, chat, message

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

ELSEWHERE: Final = "198.51.100.7"
HERE_ONLY: Final = Scopes(sources=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
ELSEWHERE_ONLY: Final = Scopes(sources=(ip_network(f"{ELSEWHERE}/32"),))


def one_trusted_proxy(config: Config) -> None:
    """Let the last address in x-forwarded-for be the client's."""
    for manager in connection_managers(config):
        manager["xff_num_trusted_hops"] = 1


def without_attributes(config: Config) -> None:
    """Keep the client's address from Egret."""
    for settings in ext_proc_filters(config):
        del settings["request_attributes"]


async def test_a_key_for_chat_is_refused_everywhere_else(stack: Stack) -> None:
    """In the client's words, before anything reaches the provider; unknown paths included."""
    key = (await stack.new_key("free", scopes=Scopes(operations=("chat",)))).reveal()
    embeddings = {"model": "text-embedding-3-small", "input": "hello"}
    async with stack.counting(4) as counted:
        chats = [
            (await stack.post(chat("hello"), key=key)).status,
            (await stack.post(message("hello"), path=MESSAGES, key=key)).status,
        ]
        refused = await stack.post(embeddings, path="/v1/embeddings", key=key)
        unknown = await stack.post({}, path="/v1/fine_tuning/jobs", key=key)
    assert chats == [200, 200]
    assert refused.openai_error == (403, "invalid_request_error", "operation_not_allowed")
    assert unknown.openai_error == (403, "invalid_request_error", "operation_not_allowed")
    assert await stack.received_count() == 2
    assert counted.outcomes["refused", "embeddings", "operation_not_allowed"] == 1


async def test_a_key_for_another_network_is_refused_here(stack: Stack) -> None:
    """In either dialect; and one for this network is not."""
    here = (await stack.new_key("free", scopes=HERE_ONLY)).reveal()
    elsewhere = (await stack.new_key("free", scopes=ELSEWHERE_ONLY)).reveal()
    let_in = [await stack.post(chat("hello"), key=here) for _ in range(2)]
    openai = await stack.post(chat("hello"), key=elsewhere)
    anthropic = await stack.post(message("hello"), path=MESSAGES, key=elsewhere)
    assert [answer.status for answer in let_in] == [200, 200]
    assert openai.openai_error == (403, "invalid_request_error", "source_not_allowed")
    assert anthropic.anthropic_error == (403, "permission_error")
    assert await stack.received_count() == 2


@pytest.mark.parametrize(
    "name",
    ["x-forwarded-for", "forwarded", "x-real-ip", "x-envoy-external-address", "x-client-ip"],
)
async def test_where_a_client_says_it_is_does_not_matter(stack: Stack, name: str) -> None:
    """Only Envoy's own knowledge counts, whatever header claims otherwise."""
    key = (await stack.new_key("free", scopes=ELSEWHERE_ONLY)).reveal()
    value = f"for={ELSEWHERE}" if name == "forwarded" else ELSEWHERE
    answer = await stack.post(chat("hello"), key=key, headers=[(name, value)])
    assert answer.openai_error[2] == "source_not_allowed"


@pytest.mark.parametrize(
    ("forwarded_for", "status"),
    [
        pytest.param([ELSEWHERE], 200, id="the proxy's word"),
        pytest.param([f"{ELSEWHERE}, 203.0.113.9"], 403, id="the client's word before it"),
        pytest.param([ELSEWHERE, "203.0.113.9"], 403, id="in a header of its own"),
        pytest.param([], 403, id="nothing: the proxy itself"),
    ],
)
async def test_behind_a_trusted_proxy_the_last_address_is_the_clients(
    stack: Stack, forwarded_for: list[str], status: int
) -> None:
    """What stands before it in x-forwarded-for may be made up."""
    key = (await stack.new_key("free", scopes=ELSEWHERE_ONLY)).reveal()
    headers = [("x-forwarded-for", value) for value in forwarded_for]
    async with second_gateway(stack, one_trusted_proxy) as gateway:
        answer = await stack.post(chat("hello"), key=key, headers=headers, url=gateway.https_url)
    assert answer.status == status


async def test_a_gateway_that_does_not_say_where_a_client_is_lets_no_such_key_in(
    stack: Stack,
) -> None:
    """Refused, and told apart in the log; other keys go on."""
    key = await stack.new_key("free", scopes=HERE_ONLY)
    async with second_gateway(stack, without_attributes) as gateway:
        refused = await stack.post(chat("hello"), key=key.reveal(), url=gateway.https_url)
        other = await stack.post(chat("hello"), key="free", url=gateway.https_url)
    line = await stack.worker_line(refused.request_id)
    assert refused.openai_error[2] == "source_not_allowed"
    assert (line["error_type"], line["key_id"]) == ("SourceAddressUnknown", key.key_id)
    assert other.status == 200
