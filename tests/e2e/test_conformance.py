"""The conformance suite against our own workers."""

from __future__ import annotations

import pytest
from egret_tools.cli.conformance_session import choose
from egret_tools.conformance.case import Protocol
from egret_tools.conformance.modes import MODES
from egret_tools.conformance.suite import Options, results_of
from egret_tools.conformance.target import UnixTarget

from tests.support.stack import CHAT, Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]


async def test_every_case_conforms_in_every_mode_over_both_protocols(session_stack: Stack) -> None:
    """Through an Envoy of its own; the built-in policy holds for the key."""
    runs = choose(files=(), modes=(), names=(), with_egret=True)
    key = session_stack.facts.key.get_secret_value()
    options = Options(
        target=UnixTarget(session_stack.run.sockets / "worker-0.sock"),
        path=CHAT,
        headers=(("authorization", f"Bearer {key}"),),
    )
    results = [result async for result in results_of(runs, options)]
    differing = [
        f"{result.run.case.name} ({result.run.mode}, {result.run.protocol.value}): {line}"
        for result in results
        for line in result.differences
    ]
    assert not differing, "\n".join(differing)
    assert {result.run.mode for result in results} == set(MODES)
    assert {result.run.protocol for result in results} == set(Protocol)
    assert len(results) == len(runs) > 200
