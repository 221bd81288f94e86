from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "sidecar" / "_generated"
PROTO = ROOT / "proto"
BUF = Path(sys.executable).parent / "buf"


def files_in(folder: Path) -> dict[Path, bytes]:
    """Return what was generated for our own protocol, by path."""
    files = (folder / "egret").rglob("guardrail*.*")
    return {file.relative_to(folder): file.read_bytes() for file in files if file.suffix != ".pyc"}


def test_the_generated_files_are_those_of_the_protocol(tmp_path: Path) -> None:
    """Nobody edited them, and a changed protocol asks for `make proto`."""
    subprocess.run([sys.executable, PROTO / "generate_guardrail.py", tmp_path], check=True)
    assert files_in(GENERATED) == files_in(tmp_path)


INCOMPATIBLE = {
    "another_number": ("string guardrail = 1;", "string guardrail = 9;"),
    "another_type": ("uint32 start = 2;", "string start = 2;"),
    "a_field_gone": ("  string key_id = 4;\n", ""),
    "a_method_gone": ("  rpc Check(CheckRequest) returns (CheckResponse);\n", ""),
    "another_verdict": ("VERDICT_BLOCK = 4;", "VERDICT_BLOCK = 5;"),
}


@pytest.mark.parametrize("case", INCOMPATIBLE)
def test_a_change_that_breaks_servers_of_others_is_found(tmp_path: Path, case: str) -> None:
    """By the same command as `make check` runs."""
    before, after = INCOMPATIBLE[case]
    proto = (PROTO / "egret/guardrail/v1/guardrail.proto").read_text()
    assert before in proto
    changed = tmp_path / "proto/egret/guardrail/v1/guardrail.proto"
    changed.parent.mkdir(parents=True)
    changed.write_text(proto.replace(before, after))
    (tmp_path / "buf.yaml").write_text((ROOT / "buf.yaml").read_text())
    done = subprocess.run(
        [BUF, "breaking", "--against", PROTO / "published.binpb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 100, done.stderr
    assert "guardrail.proto" in done.stdout
