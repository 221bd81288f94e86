"""The client that `make client` generates, against a running `egret admin`."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin_server import admin_server
from tests.support.postgres import Database

ROOT = Path(__file__).parents[3]
GENERATOR = ROOT / "build/client/venv/bin/openapi-python-client"
CLIENT = ROOT / "clients/python"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The client's package, generated from the document in the repository."""
    subprocess.run(
        [
            GENERATOR, "generate", "--fail-on-warning", "--meta", "none",
            "--path", CLIENT / "openapi.json", "--config", CLIENT / "generator.yaml",
            "--output-path", tmp_path / "egret_admin_client",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "egret_admin_client"
    for name in [one for one in sys.modules if one.partition(".")[0] == "egret_admin_client"]:
        del sys.modules[name]


async def test_a_generated_client_administers_and_returns_problems_as_objects(
    package: str, database: Database
) -> None:
    """It creates a team, a key and a limit, reads keys page by page, and types each refusal."""

    def module(name: str) -> Any:
        return importlib.import_module(f"{package}.{name}")

    models, keys, owners = module("models"), "api.keys", "api.organizations_and_teams"
    set_limits = module("api.limits_and_budgets.set_team_limits").asyncio_detailed
    async with (
        admin_server(database) as (url, token),
        module("client").AuthenticatedClient(url, token) as client,
    ):

        async def call(name: str, *arguments: str, **options: Any) -> Any:
            return await module(name).asyncio(*arguments, client=client, **options)

        acme = models.NewOwner(name="acme")
        await call(f"{owners}.create_organization", body=acme)
        taken = await call(f"{owners}.create_organization", body=acme)
        team = await call(f"{owners}.create_team", "acme", body=models.NewOwner(name="search"))
        made = [
            await call(f"{keys}.create_key", "acme", "search", body=models.NewKey(name=name))
            for name in ("a", "b", "c")
        ]
        names, after = [], module("types").UNSET
        for _ in range(2):
            page = await call(f"{keys}.list_keys", team="acme/search", limit=2, after=after)
            names += [one.name for one in page.items]
            after = page.next_
        limits = models.LimitSet(limits=[models.LimitWords(limit="requests/minute=60")])
        first = await set_limits("acme", "search", client=client, body=limits)
        late = await set_limits(
            "acme", "search", client=client, body=limits, if_match='"an older state"'
        )

    assert (team.organization, team.name, made[0].key[:4]) == ("acme", "search", "egk_")
    assert (names, after) == (["a", "b", "c"], None)
    assert first.headers["etag"]
    assert first.parsed.limits[0].limit == "requests/minute=60"
    assert isinstance(taken, models.Problem)
    assert (taken.status, "acme" in taken.detail) == (409, True)
    assert isinstance(late.parsed, models.Problem)
    assert (late.parsed.status, late.parsed.title) == (412, "Precondition Failed")
