from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

import pytest
import pytest_asyncio

from sidecar.domain.guardrail_settings import RemoteEndpoint, WebhookSettings
from sidecar.policy.parse import DEFAULT_POLICY_NAME, parse_policies
from sidecar.policy.policy_lint import lint, lost_protection
from tests.support.remote_checks import answers_as_the_readme_says

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    """The example, started as its README says, on a free port."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "server.py", "--port", "0",
        cwd=EXAMPLES / "webhook-guardrail", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    port = (await server.stdout.readline()).decode().rpartition(" ")[2].strip()
    yield f"http://127.0.0.1:{port}/check"
    server.terminate()
    assert await server.wait() == 0


async def test_the_example_server_answers_as_its_readme_says(url: str) -> None:
    """Two checks over one connection, and an end by SIGTERM."""
    await answers_as_the_readme_says(WebhookSettings(RemoteEndpoint(url)))


@pytest.mark.parametrize("example", ["grpc-guardrail", "webhook-guardrail"])
def test_an_example_policy_has_a_name_of_its_own_and_keeps_secrets_and_pii(example: str) -> None:
    """Applied as it stands, it takes nothing from keys without a policy."""
    readme = (EXAMPLES / example / "README.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    (policy,) = parse_policies(block[1])

    assert policy.name != DEFAULT_POLICY_NAME
    assert lost_protection(policy) == ("prompt-injection",)
    assert lint([policy], today=date(2026, 11, 27)) == ()
