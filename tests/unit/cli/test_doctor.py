from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from trustme import CA

from sidecar.admin.diagnostics import CheckState
from sidecar.cli.doctor import check_certificates, check_proxies
from sidecar.settings.administration import AdminSettings
from tests.support.command_line import Egret

NO_DATABASE = Egret("postgresql://nowhere/none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--through", "https://llm.example"), "needs an API key"),
        (("--through", "llm.example", "--key", "egk_x"), "is no URL of a gateway"),
        (("--through", "https://u:secret@llm.example", "--key", "egk_x"), "is no URL"),
        (
            ("--through", "https://llm.example", "--key", "egk_x", "--ca-file", "/none.pem"),
            "/none.pem: No such file or directory; name a file of certificates",
        ),
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


@pytest.mark.parametrize("end", ["\r", "\n", "\x7f", "\udcff"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is often read from a file with line ends."""
    arguments = ("doctor", "--through", "https://llm.example")
    monkeypatch.setenv("EGRET_KEY", f"egk_hidden{end}")
    ran = NO_DATABASE(*arguments)
    problem = "error: EGRET_KEY has a line end or another control character; remove it\n"
    assert (ran.code, ran.out, ran.err) == (2, "", problem)


def test_canaries_need_no_database_and_a_file_that_cannot_be_written_is_named(
    tmp_path: Path,
) -> None:
    """They are a client's requests; nothing listens here."""
    arguments = ("--through", "http://127.0.0.1:9", "--key", "egk_x", "--output", "json")
    metrics = tmp_path / "egret.prom"
    ran = NO_DATABASE("doctor", *arguments, "--metrics-file", str(metrics))
    assert ran.code == 1
    assert [row["state"] for row in ran.json] == ["failed", *["skipped"] * 6]
    assert 'gateway="http://127.0.0.1:9"} 0.0' in metrics.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["egret.prom"]
    ran = NO_DATABASE("doctor", *arguments, "--metrics-file", str(tmp_path / "none" / "x.prom"))
    assert "cannot write" in ran.err


@pytest.mark.parametrize(
    ("settings", "state"),
    [
        ({}, CheckState.OK),
        ({"public_url": "https://egret.example"}, CheckState.WARNING),
        ({"public_url": "https://egret.example", "proxies": "10.0.0.0/8"}, CheckState.OK),
    ],
)
def test_a_public_address_needs_the_addresses_of_its_proxy(
    settings: dict[str, str], state: CheckState
) -> None:
    """Or all people behind it share one bound of refused credentials."""
    assert check_proxies(AdminSettings.model_validate(settings)).state is state


@pytest.mark.parametrize(
    ("days", "state", "found"),
    [
        (-1, CheckState.FAILED, "one in {} has expired, and new connections of Envoy fail"),
        (3.1, CheckState.WARNING, "one in {} expires in 3 days"),
        (30, CheckState.OK, "valid for 7 days and more"),
        (None, CheckState.FAILED, "{} cannot be read as certificates"),
    ],
)
def test_a_certificate_near_its_end_is_named(
    tmp_path: Path, days: float | None, state: CheckState, found: str
) -> None:
    """Of the gRPC server, whose connections stay open past the end."""
    authority, server, client_ca = CA(), tmp_path / "server.pem", tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(client_ca)
    if days is not None:
        end = datetime.now(tz=UTC) + timedelta(days=days)
        start = end - timedelta(days=90)
        issued = authority.issue_cert("egret.example", not_before=start, not_after=end)
        issued.cert_chain_pems[0].write_to_path(server)
    checked = check_certificates((server, tmp_path / "key.pem", client_ca))
    assert (checked.state, checked.found) == (state, found.format(server))
