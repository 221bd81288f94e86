"""Bedrock with signed requests: AWS's own client, Egret, and a provider that checks signatures."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import pytest_asyncio
import yaml
from botocore.config import Config as ClientConfig
from botocore.exceptions import ClientError
from egret_tools.devstack.envoy_config import (
    AwsSigning,
    EnvoyParameters,
    Provider,
    render_envoy_config,
)

from tests.support.aws_provider import REGION, AwsProvider, running_aws_provider
from tests.support.second_gateway import Config, connection_managers, second_gateway
from tests.support.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

MODEL = "anthropic.claude-mock-v1:0"
PROFILE = f"arn:aws:bedrock:{REGION}:123456789012:application-inference-profile/ab12cd34ef56"
EMAIL = "bob.builder@example.com"
OLD, NEW = ("AKIAOLD", "old secret"), ("AKIANEW", "new/secret+")


def _write_credentials(file: Path, user: tuple[str, str]) -> None:
    new = file.with_suffix(".new")
    new.write_text(f"[default]\naws_access_key_id={user[0]}\naws_secret_access_key={user[1]}\n")
    new.replace(file)


@dataclass(frozen=True, slots=True)
class Bedrock:
    """The gateway that signs, and the provider behind it."""

    url: str
    provider: AwsProvider
    credentials: Path
    ca_file: Path

    def client(self) -> Any:
        """Return AWS's client; it takes the key of Egret from the environment."""
        config = ClientConfig(retries={"total_max_attempts": 1})
        return boto3.client(
            "bedrock-runtime", region_name=REGION, endpoint_url=self.url,
            verify=str(self.ca_file), config=config,
        )  # fmt: skip

    async def converse(self, text: str, *, model: str = MODEL) -> str:
        """Ask once and return what the model said."""
        said = [{"role": "user", "content": [{"text": text}]}]
        with contextlib.closing(self.client()) as client:
            answer = await asyncio.to_thread(client.converse, modelId=model, messages=said)
        words: str = answer["output"]["message"]["content"][0]["text"]
        return words


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def signing_gateway(
    session_stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bedrock]:
    """An Envoy whose Bedrock is rendered from the template with `signing`."""
    credentials = tmp_path_factory.mktemp("aws") / "credentials"
    _write_credentials(credentials, OLD)
    certificates = session_stack.run.path / "certificates"
    async with running_aws_provider(
        dict([OLD, NEW]),
        chain=certificates / "provider" / "certificate.pem",
        private_key=certificates / "provider" / "private-key.pem",
    ) as provider:
        bedrock = Provider(
            host="localhost", address="127.0.0.1", port=provider.port,
            ca_file=str(certificates / "provider-ca.pem"),
            signing=AwsSigning(region=REGION, credentials_file=str(credentials)),
        )  # fmt: skip
        async with second_gateway(session_stack, _with(bedrock)) as gateway:
            yield Bedrock(gateway.https_url, provider, credentials, session_stack.facts.ca_file)


def _with(bedrock: Provider) -> Any:
    """Take the cluster and the routes of the template with this provider."""
    parameters = EnvoyParameters(worker_sockets=("w",), sds_directory="s", bedrock=bedrock)
    rendered: Config = yaml.safe_load(render_envoy_config(parameters))

    def adapt(config: Config) -> None:
        clusters = config["static_resources"]["clusters"]
        clusters[:] = [one for one in clusters if one["name"] != "bedrock"]
        clusters += [
            one for one in rendered["static_resources"]["clusters"] if one["name"] == "bedrock"
        ]
        for manager in connection_managers(config):
            routes = manager["route_config"]["virtual_hosts"][-1]["routes"]
            signing = iter([one for one in _routes(rendered) if _is_bedrock(one)])
            routes[:] = [next(signing) if _is_bedrock(one) else one for one in routes]
            assert not [*signing]

    return adapt


def _routes(config: Config) -> list[Config]:
    routes: list[Config] = connection_managers(config)[0]["route_config"]["virtual_hosts"][-1][
        "routes"
    ]
    return routes


def _is_bedrock(route: Config) -> bool:
    return bool(route.get("route", {}).get("cluster") == "bedrock")


@pytest.fixture
def bedrock(stack: Stack, signing_gateway: Bedrock, monkeypatch: pytest.MonkeyPatch) -> Bedrock:
    """The same, with a key whose policy redacts and a provider that remembers nothing."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", stack.keys["redact"])
    _write_credentials(signing_gateway.credentials, OLD)
    for kept in (
        signing_gateway.provider.received,
        signing_gateway.provider.refused,
        signing_gateway.provider.users,
    ):
        kept.clear()
    return signing_gateway


@pytest.mark.parametrize("size", [0, 300_000, 1_200_000], ids=["short", "300 KB", "1.2 MB"])
async def test_what_is_signed_is_what_egret_made_of_the_request(
    bedrock: Bedrock, size: int
) -> None:
    """The redacted body, whole, in the name of AWS's user; the client's key is nowhere."""
    assert await bedrock.converse(f"Write to {EMAIL}. {'x ' * (size // 2)}") == "Yes."
    (body,) = bedrock.provider.received
    assert json.loads(body)["messages"][0]["content"][0]["text"].startswith("Write to [EMAIL_1]. ")
    assert (bedrock.provider.users, bedrock.provider.refused) == ([OLD[0]], [])


async def test_a_model_may_be_named_by_its_arn(bedrock: Bedrock) -> None:
    """AWS's client escapes the slash of a profile's ARN, and Envoy signs the path as it is."""
    assert await bedrock.converse(f"Write to {EMAIL}.", model=PROFILE) == "Yes."
    assert b"[EMAIL_1]" in bedrock.provider.received[0]
    assert (bedrock.provider.users, bedrock.provider.refused) == ([OLD[0]], [])


async def test_a_stream_is_signed_too(bedrock: Bedrock) -> None:
    """AWS's client reads the framed events."""
    said = [{"role": "user", "content": [{"text": f"Write to {EMAIL}."}]}]

    def read() -> str:
        with contextlib.closing(bedrock.client()) as client:
            answer = client.converse_stream(modelId=MODEL, messages=said)
            pieces = [
                event["contentBlockDelta"]
                for event in answer["stream"]
                if "contentBlockDelta" in event
            ]
        return "".join(piece["delta"]["text"] for piece in pieces)

    assert await asyncio.to_thread(read) == "Yes."
    assert EMAIL.encode() not in bedrock.provider.received[0]


async def test_a_refusal_is_read_by_awss_client(
    bedrock: Bedrock, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its type, and nothing is signed."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", stack.keys["block"])
    with pytest.raises(ClientError) as refused:
        await bedrock.converse("Tell me about Bluebird.")
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert bedrock.provider.users == []


async def _error(bedrock: Bedrock) -> str:
    """Ask until the provider refuses, as Envoy has read the new file then."""
    async with asyncio.timeout(60):
        while True:
            try:
                await bedrock.converse("hello")
            except ClientError as refused:
                return str(refused.response["Error"]["Code"])


async def test_a_wrong_secret_is_refused_by_the_provider(bedrock: Bedrock) -> None:
    """The provider's own answer, which tells that it does look at signatures."""
    _write_credentials(bedrock.credentials, (OLD[0], "a wrong secret"))
    assert await _error(bedrock) == "InvalidSignatureException"
    assert bedrock.provider.refused == ["the signature is wrong"]


async def test_without_credentials_a_request_arrives_bare(bedrock: Bedrock) -> None:
    """Neither a signature nor what the client presented; the provider refuses it."""
    bedrock.credentials.with_suffix(".new").write_text("[another]\n")
    bedrock.credentials.with_suffix(".new").replace(bedrock.credentials)
    assert await _error(bedrock) == "InvalidSignatureException"
    assert bedrock.provider.refused == ["bare"]


async def test_a_clients_own_signature_is_replaced(bedrock: Bedrock, stack: Stack) -> None:
    """What it says of a date, a hash or a session is overwritten, or taken away."""
    headers = {
        "x-amz-date": "20200101T000000Z",
        "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
        "x-amz-user-agent": "somebody",
    }
    answer = await stack.post(
        {"messages": [{"role": "user", "content": [{"text": EMAIL}]}]},
        path=f"/model/{MODEL.replace(':', '%3A')}/converse",
        key="redact", headers=headers.items(), url=bedrock.url,
    )  # fmt: skip
    assert (answer.status, bedrock.provider.refused) == (200, [])


async def test_credentials_are_replaced_under_load_without_a_failed_request(
    bedrock: Bedrock,
) -> None:
    """By a rename; the old user is good until nobody signs with it any more."""
    done = asyncio.Event()

    async def ask() -> int:
        count = 0
        while not done.is_set():
            count += await bedrock.converse("hello") == "Yes."
        return count

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        asking = [group.create_task(ask()) for _ in range(2)]
        while OLD[0] not in bedrock.provider.users:  # noqa: ASYNC110 - in threads
            await asyncio.sleep(0.02)
        _write_credentials(bedrock.credentials, NEW)
        while bedrock.provider.users[-2:] != [NEW[0]] * 2:  # noqa: ASYNC110 - in threads
            await asyncio.sleep(0.02)
        done.set()
    assert sum(one.result() for one in asking) == len(bedrock.provider.users)
    assert bedrock.provider.refused == []
