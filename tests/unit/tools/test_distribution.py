"""What `tools/pyproject.toml` and the extra `tools` declare is the same."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
EGRET = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = tomllib.loads((ROOT / "tools" / "pyproject.toml").read_text())["project"]


def test_the_extra_names_the_dependencies_of_the_tools() -> None:
    """Requirements are resolved from the extra: egret itself is on no index."""
    extras = EGRET["optional-dependencies"]

    assert ["egret", *extras["tools"]] == TOOLS["dependencies"]


def test_the_tools_run_on_the_pythons_of_egret() -> None:
    """And under the same licence."""
    for name in ("requires-python", "license"):
        assert TOOLS[name] == EGRET[name]
