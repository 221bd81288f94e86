"""What pages tell people to type is what there is to type."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sidecar.cli.main import command_tree
from tests.support.helm import program

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CHART = "deploy/helm/egret"
FENCE = re.compile(r"^( *)```(?:bash|sh|console)?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def commands(page: Path) -> Iterator[str]:
    """Yield the commands of a page; what is typed into one is left out, as is a comment."""
    for _, block in FENCE.findall(page.read_text(encoding="utf-8")):
        text = re.sub(r"<<'END'.*?\n *END\n", "\n", block, flags=re.DOTALL)
        for line in text.replace("\\\n", " ").splitlines():
            yield re.sub(r"\s#\s.*", "", line.strip())


def _of_egret(line: str) -> list[str] | None:
    """Return the arguments of `egret`, if that is what the line runs."""
    try:
        words = shlex.split(line.removeprefix("$ ").partition(" | ")[0].partition(" > ")[0])
    except ValueError:
        return None
    while words and ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    is_ours = len(words) > 1 and words[0] == "egret" and all(map(str.isascii, words))
    return words[1:] if is_ours else None


EGRET = sorted(
    {
        (page.name, *arguments)
        for page in (*DOCS.glob("*.md"), ROOT / "README.md")
        for line in commands(page)
        if (arguments := _of_egret(line)) is not None
    }
)


@pytest.mark.parametrize("typed", EGRET, ids=[" ".join(typed) for typed in EGRET])
def test_every_command_and_option_that_a_page_names_is_there(typed: tuple[str, ...]) -> None:
    """A misspelt one would be refused before `--help` is looked at."""
    ran = CliRunner().invoke(command_tree(list(typed[1:])), [*typed[1:], "--help"])
    assert ran.exit_code == 0, ran.output


INSTALLS = [
    (page, shlex.split(line)[2:])
    for page in ("kubernetes.md", "gateways.md")
    for line in commands(DOCS / page)
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


def test_pages_have_something_to_type() -> None:
    """Or the tests above would look at nothing."""
    assert len(EGRET) > 30
    assert len(INSTALLS) == 3


def _secrets_made(page: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the Secrets that the page has kubectl create, those of another page included."""
    for line in (*commands(DOCS / page), *commands(DOCS / "kubernetes.md")):
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
