"""The console's libraries are those that the lock names, unchanged, with their licences."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from deploy.console_assets import ASSETS, MANIFEST

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "sidecar/console/static"
VENDOR = STATIC / "vendor"
TEMPLATES = ROOT / "sidecar/console/templates"


def test_each_library_has_the_hash_of_the_manifest() -> None:
    lines = (VENDOR / MANIFEST).read_text("ascii").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}

    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in VENDOR.iterdir()
        if file.name != MANIFEST
    }

    assert found == listed
    assert set(found) == set(ASSETS)


def test_the_lock_has_a_hash_of_each_package_and_no_address() -> None:
    lock = json.loads((ROOT / "deploy/console/package-lock.json").read_text("utf-8"))
    wanted = json.loads((ROOT / "deploy/console/package.json").read_text("utf-8"))

    packages = {name: one for name, one in lock["packages"].items() if name}

    assert {
        name.removeprefix("node_modules/"): one["version"] for name, one in packages.items()
    } == wanted["dependencies"]
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    assert not any("resolved" in one for one in packages.values())


def test_nothing_is_loaded_from_elsewhere() -> None:
    for file in (*STATIC.glob("*.*"), *TEMPLATES.glob("*.html")):
        text = file.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"""(?:src|href|url\(|action)=?["'(]*(?:https?:)?//""", text), file


def test_templates_have_no_script_style_or_handler_within() -> None:
    for file in TEMPLATES.glob("*.html"):
        text = file.read_text("utf-8")
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)", text), file
        assert not re.search(r"\|\s*safe\b|autoescape\s+false|hx-on|hx-vals='js:", text), file
    assert '"allowEval": false' in (TEMPLATES / "base.html").read_text("utf-8")
