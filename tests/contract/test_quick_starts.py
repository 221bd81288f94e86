"""Every command that a page names exists, with its options, targets and files."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command_line import run_command
from tests.support.documented_commands import (
    DOCS,
    PAGES,
    ROOT,
    block_lines,
    documented,
    of_egret,
)
from tests.support.helm import program

CHART = "deploy/helm/egret"
OURS = ("dashboards", "deploy", "egret_tools", "evaluation", "loadtest", "quality", "sidecar")
"""Packages whose modules pages name by `python -m`."""
FOLDERS = ("db", "deploy", "docs", "envoy", "examples", "proto", "requirements", "training")
NO_FILES = {"deploy/egret": "a Deployment of Kubernetes"}

COMMANDS = sorted(
    {(str(page.relative_to(ROOT)), command) for page in PAGES for command in documented(page)}
)
EGRET = sorted(
    {arguments for _, command in COMMANDS if (arguments := of_egret(command)) is not None}
)
MAKE = sorted({command for _, command in COMMANDS if command[0] == "make"})
MODULES = sorted(
    {
        command[2:]
        for _, command in COMMANDS
        if command[0].endswith("python") and command[1:2] == ("-m",)
        if command[2].partition(".")[0] in OURS
    }
)
FILES = sorted(
    {
        (page, word)
        for page, command in COMMANDS
        for word in command[1:]
        if word.partition("/")[0] in FOLDERS and "/" in word
    }
)


@pytest.mark.parametrize("words", EGRET, ids=[" ".join(words) for words in EGRET])
def test_every_command_and_option_that_a_page_names_is_there(words: tuple[str, ...]) -> None:
    """A misspelt one is refused before `--help` is looked at."""
    value = ["1"] if words[-1].startswith("--") else []  # or `--help` would be the option's value
    ran = run_command([*words, *value, "--help"])
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("words", MAKE, ids=[" ".join(words) for words in MAKE])
def test_every_target_and_variable_of_make_is_there(words: tuple[str, ...]) -> None:
    """Variables are those that the Makefile sets."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words[1:]:
        name, is_variable, _ = word.partition("=")
        kind = rf"^{name} *(?:\?=|:=)" if is_variable else rf"^{name}:"
        assert re.search(kind, makefile, re.MULTILINE), word


@pytest.mark.parametrize(
    ("python", "problem"),
    [
        ("exit 1", "error: Egret needs Python 3.11 to 3.14, which "),
        ('[ "$1" = -m ] || exit 0; mkdir -p "$3/bin"; touch "$3/bin/python"; exit 1', ""),
    ],
    ids=["of another version", "without ensurepip"],
)
def test_an_unfit_python_leaves_no_environment(python: str, problem: str, tmp_path: Path) -> None:
    """Or the next run would take half an environment for a whole one."""
    program, environment = tmp_path / "python", tmp_path / "venv"
    program.write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
    program.chmod(0o755)

    made = subprocess.run(
        ["make", f"PYTHON={program}", f"VENV={environment}", f"{environment}/bin/python"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert made.returncode != 0
    assert problem in made.stderr
    assert not environment.exists()


@cache
def _help_of(module: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("words", MODULES, ids=[" ".join(words) for words in MODULES])
def test_every_module_that_a_page_runs_is_there(words: tuple[str, ...]) -> None:
    """With the options that the page gives."""
    options = {word for word in words[1:] if word.startswith("--")}

    assert importlib.util.find_spec(words[0]) is not None
    assert not options or options <= set(re.findall(r"--[a-z-]+", _help_of(words[0])))


@pytest.mark.parametrize(("page", "file"), FILES, ids=[f"{page}: {file}" for page, file in FILES])
def test_every_file_of_the_checkout_that_a_command_names_is_there(page: str, file: str) -> None:
    """Or the table has the reason why not."""
    assert any(ROOT.glob(file)) or file in NO_FILES, page


def test_the_pages_have_commands_to_test() -> None:
    """Or the tests above would look at nothing."""
    assert len(EGRET) > 100
    assert len(MAKE) > 30
    assert len(MODULES) > 8
    assert len(FILES) > 5
    assert len(INSTALLS) == 3


INSTALLS = [
    (page, shlex.split(line)[2:])
    for page in ("kubernetes.md", "gateways/envoy-gateway.md", "gateways/istio.md")
    for line in block_lines(DOCS / page)
    if line.startswith("helm install egret")
]


@pytest.mark.parametrize(
    ("page", "typed"), INSTALLS, ids=[f"{page} -n {typed[3]}" for page, typed in INSTALLS]
)
def test_what_a_quick_start_installs_needs_no_secret_that_it_does_not_make(
    page: str, typed: list[str]
) -> None:
    """Each Secret that a pod mounts or reads was created some lines above, with those keys."""
    options = [word for word in typed if word != "--wait"]
    ran = subprocess.run(
        [program("helm4"), "template", *options],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    made = dict(_secrets_made(page))
    resources = [one for one in yaml.safe_load_all(ran.stdout) if one]
    own = {one["metadata"]["name"] for one in resources if one["kind"] == "Secret"}
    needed = {(name, key) for name, key in _secrets_needed(resources) if name not in own}
    assert needed
    missing = {(name, key) for name, key in needed if key not in made.get(name, ())}
    assert missing == set()


def _secrets_made(page: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the Secrets that the page has kubectl create, those of another page included."""
    for line in (*block_lines(DOCS / page), *block_lines(DOCS / "kubernetes.md")):
        match re.search(r"create secret (generic|tls) (\S+)(.*)", line):
            case None:
                continue
            case found:
                keys = re.findall(r"--from-(?:literal|file)='?([^\s=]+)", found[3])
                yield found[2], {"tls.crt", "tls.key"} if found[1] == "tls" else set(keys)


def _secrets_needed(value: Any) -> Iterator[tuple[str, str]]:
    """Yield name and key of each Secret that is referred to, wherever it stands."""
    if isinstance(value, list):
        for item in value:
            yield from _secrets_needed(item)
    elif isinstance(value, dict):
        if "secretKeyRef" in value:
            yield value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]
        if isinstance(secret := value.get("secret"), dict):
            name = str(secret.get("secretName") or secret.get("name"))
            yield from ((name, item["key"]) for item in secret.get("items", ()))
        for item in value.values():
            yield from _secrets_needed(item)
