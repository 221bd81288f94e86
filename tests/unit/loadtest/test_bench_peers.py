from __future__ import annotations

import json
from pathlib import Path

from pydantic import SecretStr

from loadtest.bench_peers import LOADS, peers_grid
from loadtest.load import Target
from loadtest.peers import Peer, guarded_portkey, litellm


def test_a_line_says_what_a_gateway_had_switched_on() -> None:
    """Figures of gateways that do not do the same are no use without it."""
    figures = {"LiteLLM.rss_mb": 462.0}
    for load in LOADS:
        names = ("rps", "p50_ms", "p95_ms", "p99_ms", "cpu_us")
        figures |= {f"LiteLLM.{load.name}.{name}": 70.5 for name in names}
    grid = peers_grid(figures, {"LiteLLM": "master key"})
    assert [row[:3] for row in grid.rows] == [
        ["LiteLLM", "master key", "1"],
        ["LiteLLM", "master key", "16"],
    ]
    assert grid.rows[0][3:] == ["70", "70.50", "70.50", "70.50", "70", "462"]


def test_guardrails_of_another_gateway_are_on_only_where_it_is_said(tmp_path: Path) -> None:
    """Both ways ask for a key, and send to the same provider."""
    bare = litellm(tmp_path, provider_port=9, is_guarded=False)
    guarded = litellm(tmp_path, provider_port=9, is_guarded=True)
    configs = [json.loads(Path(way.command[2]).read_text()) for way in (bare, guarded)]
    assert ["guardrails" in config for config in configs] == [False, True]
    assert [config["general_settings"]["master_key"] for config in configs] == [
        bare.key,
        guarded.key,
    ]
    assert {config["model_list"][0]["litellm_params"]["api_base"] for config in configs} == {
        "http://127.0.0.1:9/v1"
    }


def test_one_process_is_asked_with_and_without_a_rule(tmp_path: Path) -> None:
    """Portkey takes its rules from a header of the request."""
    target = Target("http://127.0.0.1:1/v1/chat/completions", SecretStr("k"), tmp_path)
    bare = Peer("Portkey", "nothing", 7, target)
    guarded = guarded_portkey(bare, provider_port=9)
    config = json.loads(guarded.target.headers["x-portkey-config"])
    assert (guarded.pid, guarded.target.url) == (bare.pid, target.url)
    assert config["custom_host"] == "http://127.0.0.1:9/v1"
    assert config["input_guardrails"][0]["deny"] is True
