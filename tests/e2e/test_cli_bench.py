"""`egret bench` before a real gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Egret, Ran
from tests.support.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

NOWHERE = Egret("postgresql://nobody@127.0.0.1:1/none")


async def bench(*words: str) -> Ran:
    return await asyncio.to_thread(NOWHERE, "bench", *words, "-o", "json")


def through(stack: Stack, key: str) -> tuple[str, ...]:
    return stack.facts.https_url, "--ca-file", str(stack.facts.ca_file), "--key", stack.keys[key]


async def test_the_parts_of_an_answers_time_are_within_the_whole(stack: Stack) -> None:
    """As often as asked for, and no request more reaches the provider.

    The provider takes its time: Envoy tells its part in whole milliseconds.
    """
    await stack.tell_provider("delay", ms=20)
    ran = await bench(*through(stack, "block"), "--requests", "30", "--connections", "3")

    assert ran.code == 0, ran
    assert (ran.json["statuses"], ran.json["lost"]) == ({"200": 30}, {})
    assert await stack.received_count() == 30
    times: dict[str, dict[str, Any]] = ran.json["times"]
    assert list(times) == [
        "whole answer", "first byte of the body", "upstream", "egret", "authorize", "guardrails",
    ]  # fmt: skip
    for shares in times.values():
        assert 0 <= shares["p50_ms"] <= shares["p95_ms"] <= shares["p99_ms"] <= shares["max_ms"]
    for part in ("upstream", "egret"):
        assert 0 < times[part]["p50_ms"] < times["whole answer"]["p50_ms"]
    assert stack.keys["block"] not in ran.out + ran.err


async def test_refusals_are_counted_and_fail_the_command(stack: Stack, tmp_path: Path) -> None:
    """Their times are not those of answers."""
    body = tmp_path / "body.json"
    body.write_text('{"model": "gpt-4o", "messages": [{"role": "user", "content": "Bluebird"}]}')

    ran = await bench(*through(stack, "block"), "--requests", "5", "--body", str(body))

    assert ran.code == 1
    assert (ran.json["statuses"], ran.json["times"]) == ({"400": 5}, {})
    assert ran.err.startswith("the first error says: ")


async def test_conversations_are_new_in_each_run_and_grow_by_two_messages_a_turn(
    stack: Stack,
) -> None:
    """A gateway that had seen them would show no first turn."""
    words = ("--conversation", "--requests", "6", "--turns", "3", "--size", "8k")
    prompts: list[str] = []
    for _ in range(2):
        ran = await bench(*through(stack, "block"), *words)
        assert ran.code == 0, ran
        assert [one["turn"] for one in ran.json["turns"]] == [1, 2, 3]
        assert all((one["requests"], one["refused"]) == (2, 0) for one in ran.json["turns"])
        assert ran.json["p50_ms"]["whole answer"]["next"] > 0
        talks = [json.loads(one.body)["messages"] for one in await stack.received()]
        assert sorted(len(one) for one in talks) == [40, 40, 42, 42, 44, 44]
        prompts += [one[0]["content"] for one in talks]
        await stack.forget()
    assert len(set(prompts)) == 4


async def test_a_gateway_that_is_not_trusted_is_told_no_key(stack: Stack) -> None:
    """Each request counts as lost."""
    ran = await bench(stack.facts.https_url, "--key", "sk-x", "--requests", "2")

    assert ran.code == 1
    assert (ran.json["statuses"], sum(ran.json["lost"].values())) == ({}, 2)
    assert "the certificate is not trusted" in ran.err
    assert "--ca-file" in ran.err
    assert await stack.received_count() == 0
