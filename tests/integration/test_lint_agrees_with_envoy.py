"""`egret lint` and Envoy itself, on the same configurations."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from egret_tools.devstack.processes import envoy_program
from egret_tools.envoy_lint.lint import lint
from egret_tools.envoy_lint.source import SourceError

from tests.support.configurations.accepted import ACCEPTED
from tests.support.configurations.refused import REFUSED
from tests.support.sizes import sized

MAKES_ENVOY_REFUSE = {"EGR001", "EGR002", "EGR106", "EGR528"}
"""The schema, a type that Envoy does not have, a mode without the trailers it needs, a format."""
SAMPLE = 12
"""Each Envoy takes a fifth of a second: without --full one of so many configurations runs."""


def lint_refuses(text: str) -> bool:
    """Return whether lint says that Envoy does not start."""
    try:
        found = lint("envoy.yaml", text).findings
    except SourceError:
        return True
    return bool({one.rule.id for one in found} & MAKES_ENVOY_REFUSE)


def envoy_refuses(text: str, folder: Path) -> str:
    """Return the last words of an Envoy that refuses; empty if it starts."""
    file = folder / "envoy.yaml"
    file.write_text(text)
    command = [str(envoy_program()), "--mode", "validate", "-c", str(file), "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stderr.strip()[-300:] or "refused" if done.returncode else ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("configurations", [ACCEPTED, REFUSED], ids=["accepted", "refused"])
def test_no_verdict_of_lint_is_one_that_envoy_contradicts(
    configurations: Mapping[str, str], tmp_path: Path
) -> None:
    """Lint says that Envoy does not start exactly if it does not."""
    step = sized(1, small=SAMPLE)
    contradicted = {
        name: words
        for name, text in list(configurations.items())[::step]
        if bool(words := envoy_refuses(text, tmp_path)) != lint_refuses(text)
    }
    assert contradicted == {}


def test_there_are_enough_configurations() -> None:
    """Of both kinds, and no two are the same."""
    texts = [*ACCEPTED.values(), *REFUSED.values()]
    assert len(set(texts)) == len(texts) >= 120
    assert len(ACCEPTED) >= 60
