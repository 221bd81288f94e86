"""What is written about `egret lint`, and what it reads with, are those of today."""

from __future__ import annotations

import lzma
import subprocess
import sys
from pathlib import Path

from egret_tools.envoy_lint.rules import ALL_RULES

ROOT = Path(__file__).resolve().parents[2]


def test_every_rule_is_documented_as_it_is() -> None:
    """Nobody has to read the code to know what a rule means."""
    rows = [
        " | ".join(
            (f"| {rule.id} {rule.name}", rule.severity.value, _cell(rule.risk), _cell(rule.hint))
        )
        for rule in ALL_RULES
    ]
    documented = [
        line.removesuffix(" |")
        for line in (ROOT / "docs" / "lint.md").read_text().splitlines()
        if line.startswith("| EGR")
    ]
    assert documented == rows


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_descriptors_are_those_of_the_installed_envoy(tmp_path: Path) -> None:
    """A new Envoy asks for `make proto`."""
    made = tmp_path / "envoy_config.binpb.xz"
    script = ROOT / "proto" / "extract_envoy_config.py"
    done = subprocess.run(
        [sys.executable, script, made], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    committed = ROOT / "tools" / "egret_tools" / "envoy_lint"
    for name in (made.name, "envoy_limits.json.xz"):
        ours, theirs = ((place / name).read_bytes() for place in (committed, tmp_path))
        assert lzma.decompress(ours) == lzma.decompress(theirs)
