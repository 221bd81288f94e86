"""`egret lint` reads what a running Envoy shows of itself."""

from __future__ import annotations

import asyncio

import pytest
from egret_tools.envoy_lint.lint import lint

from tests.support.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]


async def test_the_dump_of_the_running_envoy_breaks_no_rule(stack: Stack) -> None:
    """Every message in it is known, every listener, cluster and route is looked at."""
    async with stack.client.get(f"{stack.facts.admin_url}/config_dump") as response:
        dump = await response.text()
    broken = dump.replace('"allow_mode_override": true', '"allow_mode_override": false')
    found = [await asyncio.to_thread(lint, "dump", text) for text in (dump, broken)]
    assert [one.rule.id for one in found[0].findings] == []
    assert {one.rule.id for one in found[1].findings} == {"EGR103"}
