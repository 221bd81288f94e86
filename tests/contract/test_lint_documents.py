"""What is written about `egret lint`, and what it reads with, are those of today."""

from __future__ import annotations

import lzma
import subprocess
import sys
from pathlib import Path

import yaml
from egret_tools.devstack.processes import envoy_program
from egret_tools.envoy_lint.rules import ALL_RULES
from egret_tools.envoy_lint.schema import pool

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


LINT = ROOT / "tools" / "egret_tools" / "envoy_lint"


def _table(name: str) -> dict[str, str]:
    return dict(line.split("\t") for line in (LINT / name).read_text().splitlines())


def test_every_name_that_older_envoys_lack_is_one_of_the_installed_envoy() -> None:
    """`python proto/date_envoy_names.py` writes the table anew."""
    table = _table("new_in_envoy.tsv")
    assert set(table.values()) == {"1.37", "1.38", "1.39", "1.40"}
    assert [name for name in table if not _is_there(name)] == []


def _is_there(name: str) -> bool:
    owner, _, value = name.partition(":")
    try:
        if value:
            return value in pool().FindEnumTypeByName(owner).values_by_name
        pool().FindMessageTypeByName(owner)
    except KeyError:
        message, _, field = owner.rpartition(".")
        return field in pool().FindMessageTypeByName(message).fields_by_name
    return True


ARGUMENTS = {
    "METADATA": "(ROUTE:a:b)", "COMMON_DURATION": "(DS_RX_BEG:DS_RX_END:us)", "CEL": "(true)",
    "TYPED_CEL": "(true)",
    **dict.fromkeys(
        ("REQ", "RESP", "TRAILER", "REQUEST_HEADER", "RESPONSE_HEADER", "RESPONSE_TRAILER",
         "STREAM_INFO_REQ", "ENVIRONMENT", "QUERY_PARAM", "FILTER_STATE",
         "UPSTREAM_FILTER_STATE", "XFCC_PARSER"),
        "(a)",
    ),
    **dict.fromkeys(("DYNAMIC_METADATA", "CLUSTER_METADATA", "UPSTREAM_METADATA"), "(a:b)"),
}  # fmt: skip


def test_every_command_operator_is_one_of_the_installed_envoy(tmp_path: Path) -> None:
    """All of them in one access log that Envoy accepts; each version was asked like this."""
    text = " ".join(
        f"%{name}{ARGUMENTS.get(name, '')}%" for name in _table("command_operators.tsv")
    )
    kind = "type.googleapis.com/envoy.extensions"
    log = {
        "name": "log",
        "typed_config": {
            "@type": f"{kind}.access_loggers.file.v3.FileAccessLog",
            "path": "/dev/null",
            "log_format": {"text_format_source": {"inline_string": text}},
        },
    }
    config = tmp_path / "envoy.yaml"
    config.write_text(yaml.safe_dump({"admin": {"access_log": [log]}}))
    done = subprocess.run(
        [envoy_program(), "--mode", "validate", "-c", config, "-l", "error"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


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
