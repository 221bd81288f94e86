from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import Egret

NO_DATABASE = Egret("postgresql://nowhere/none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--through", "https://llm.example"), "needs an API key"),
        (("--through", "llm.example", "--key", "egk_x"), "is no URL of a gateway"),
        (("--through", "https://u:secret@llm.example", "--key", "egk_x"), "is no URL"),
    ],
)
def test_canaries_need_a_key_and_an_address_without_a_password(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is shown again."""
    monkeypatch.delenv("EGRET_KEY", raising=False)
    ran = NO_DATABASE("doctor", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert "secret" not in ran.err


def test_canaries_need_no_database_and_a_file_that_cannot_be_written_is_named(
    tmp_path: Path,
) -> None:
    """They are a client's requests; nothing listens here."""
    arguments = ("--through", "http://127.0.0.1:9", "--key", "egk_x", "--output", "json")
    metrics = tmp_path / "egret.prom"
    ran = NO_DATABASE("doctor", *arguments, "--metrics-file", str(metrics))
    assert ran.code == 1
    assert [row["state"] for row in ran.json] == ["failed", *["skipped"] * 6]
    assert 'check="attached"} 0' in metrics.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["egret.prom"]
    ran = NO_DATABASE("doctor", *arguments, "--metrics-file", str(tmp_path / "none" / "x.prom"))
    assert "cannot write" in ran.err
