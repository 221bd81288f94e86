"""What `egret lint` finds, Envoy takes without a word; the few it refuses are named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from egret_tools.devstack.credentials import (
    write_certificate,
    write_certificates,
    write_credential,
)
from egret_tools.devstack.processes import envoy_program
from pydantic import SecretStr

from tests.support.envoy_forms import FORMS, RIGHT
from tests.support.envoy_mistakes import MISTAKES, OLDER_MISTAKES, REFUSED_BY_ENVOY
from tests.support.envoy_routes import (
    in_an_aggregate,
    open_by_header,
    with_a_share_by_header,
    with_copies_by_header,
    with_copies_in_the_clear,
)
from tests.support.own_envoy import Mistake, for_version, with_mistake
from tests.support.ways_around_egret import FORGED, TCP, UNGUARDED, off_by_a_mode, off_in_a_matcher


@pytest.fixture(scope="module")
def sds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("envoy")
    pair = write_certificates(directory / "certificates").gateway
    secrets = directory / "sds"
    secrets.mkdir()
    write_certificate(secrets, name="server_certificate", certificate=pair)
    for provider in ("openai", "anthropic"):
        write_credential(secrets, name=provider, header_value=SecretStr("made up"))
    return secrets


@pytest.mark.parametrize("rule", [*MISTAKES, *OLDER_MISTAKES])
def test_a_mistake_is_one_that_envoy_starts_with(sds: Path, tmp_path: Path, rule: str) -> None:
    """A rule on what Envoy refuses by itself tells people nothing new."""
    if rule in MISTAKES:
        text = with_mistake(MISTAKES[rule])
    else:
        minor, mistake, _ = OLDER_MISTAKES[rule]
        text = for_version(minor, mistake)
    checked = _validated(sds, tmp_path, text)
    assert (checked.returncode != 0) == (rule in REFUSED_BY_ENVOY), checked.stderr


@pytest.mark.parametrize("form", [*FORGED, *TCP])
def test_envoy_starts_with_each_way_around_egret(sds: Path, tmp_path: Path, form: str) -> None:
    """Filters that write to its metadata, and listeners without HTTP."""
    checked = _validated(sds, tmp_path, with_mistake((FORGED | TCP)[form]))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "mistake",
    [
        *UNGUARDED,
        off_by_a_mode,
        off_in_a_matcher,
        open_by_header,
        in_an_aggregate(),
        with_copies_in_the_clear,
        with_a_share_by_header,
        with_copies_by_header,
    ],
)
def test_envoy_starts_with_each_other_form_of_a_mistake(
    sds: Path, tmp_path: Path, mistake: Mistake
) -> None:
    """As with the one in the table."""
    checked = _validated(sds, tmp_path, with_mistake(mistake))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("form", [*FORMS, *RIGHT])
def test_envoy_starts_with_each_further_form(sds: Path, tmp_path: Path, form: str) -> None:
    """The wrong ones, and the right ones that look like them."""
    mistake = RIGHT[form] if form in RIGHT else FORMS[form][0]
    checked = _validated(sds, tmp_path, with_mistake(mistake))
    assert checked.returncode == 0, checked.stderr


def _validated(sds: Path, tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "envoy.yaml"
    config.write_text(text.replace("/etc/egret/sds", str(sds)))
    return subprocess.run(
        [envoy_program(), "--mode", "validate", "-c", config, "-l", "critical"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
