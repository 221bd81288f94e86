"""`egret apply`, `diff` and `export` with `--server`."""

from __future__ import annotations

from pathlib import Path

from tests.support.admin_server import ByServer


async def test_files_are_applied_by_the_server(by_server: ByServer, tmp_path: Path) -> None:
    """The plan that was shown, all or nothing; `diff` exits with 2 for a difference."""
    file = tmp_path / "config.yaml"
    file.write_text("kind: Organization\nname: acme\nallowed_models: [gpt-*]\n")

    before = await by_server("diff", "-f", str(file))
    dry = await by_server("apply", "-f", str(file), "--dry-run")
    applied = await by_server("apply", "-f", str(file), "--yes", "--output", "json")
    after = await by_server("diff", "-f", str(file), "--output", "json")
    exported = await by_server("export", "-o", str(tmp_path / "out"))
    file.write_text("kind: Dance\n")
    wrong = await by_server("apply", "-f", str(file), "--yes")
    secrets = await by_server("apply", "-f", str(file), "--secrets", str(tmp_path))

    assert (before.code, "create|Organization|acme" in "\n".join(before.lines)) == (2, True)
    assert "1 to create" in dry.err
    assert (applied.code, applied.json["applied"]) == (0, True)
    assert (after.code, after.json["counts"]["unchanged"]) == (0, 1)
    assert exported.code == 0
    assert "gpt-*" in (tmp_path / "out" / "organizations" / "acme.yaml").read_text()
    assert (wrong.code, str(file) in wrong.err) == (1, True)
    assert secrets.code == 2
