from __future__ import annotations

import asyncio
import random
from pathlib import Path

import asyncpg
import pytest

from sidecar.admin.installation.objects import InstallationError, Kind, parse_files
from sidecar.admin.installation.persistence import (
    load_installation,
    lock_installation,
    plan_changes,
)
from sidecar.admin.installation.plan import PlannedAction
from sidecar.admin.owners import ChangeRefusedError
from sidecar.storage.postgres_policies import load_policy
from tests.support.alerts import route_text
from tests.support.command_line import Egret
from tests.support.installation import (
    apply_objects,
    apply_text,
    exported,
    joined,
    key,
    organization,
    policy,
    price,
    team,
)
from tests.support.postgres import Database
from tests.support.sizes import sized

EDITS = sized(200, small=80)
_WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted"
TEAM_FIELDS = (
    "",
    "enabled: false\n",
    "policy: p0\n",
    "allowed_models: [a, 'b*']\n",
    "limits: [requests/minute=5, {limit: cost/day=0.000001, models: [a]}]\n",
)
KEY_FIELDS = (
    *TEAM_FIELDS,
    "expires_at: 2031-01-01T00:00:00.000001+02:00\n",
    "expires_at: 2020-01-01\n",
    "not_before: 2026-01-01\ntags: [b, a, env=prod]\n",
    "allowed_operations: [embeddings, chat]\nallowed_sources: [2001:db8::/32, 192.0.2.1]\n",
    "priority: batch\nlimits: [{limit: tokens/minute=9, burst: 3, operations: [chat]}]\n",
)


ROUTE_FIELDS = (
    "",
    "enabled: false\nseverity: critical\n",
    "organization: acme\nrules: [key_leaked, fail_open]\n",
    "quiet_hours: 22:00-07:00\ndigest: daily\ntime_zone: Europe/Berlin\n",
)


class RandomFiles:
    """Files of an installation, with one thing changed at a time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._keys: dict[str, tuple[str, str]] = {}
        self._teams: dict[str, str] = {}
        self._policies = {"p0": ""}
        self._routes: dict[str, str] = {}
        self._prices: dict[str, str] = {}
        self._number = 0

    def edit(self) -> None:
        """Add, change or remove one object."""
        self._number += 1
        number, choose = self._number, self._random.choice
        match self._random.randrange(8):
            case 0 | 1:
                name = f"n{number}-{self._random.randrange(10)}"
                self._keys[f"k{number:011}"] = (name, choose(KEY_FIELDS))
            case 2 if self._keys:
                key_id = choose([*self._keys])
                self._keys[key_id] = (self._keys[key_id][0], choose(KEY_FIELDS))
            case 3 if self._keys:
                del self._keys[choose([*self._keys])]
            case 4:
                self._teams[f"acme/t{self._random.randrange(9)}"] = choose(TEAM_FIELDS)
            case 5:
                more = choose(("", ", action: flag", ", mode: shadow", ", rollout: 12.5%"))
                self._policies[f"p{self._random.randrange(5)}"] = more
            case 6:
                self._routes[f"r{self._random.randrange(4)}"] = choose(ROUTE_FIELDS)
            case _:
                long = "2.50\nabove_tokens: 200000\ncached_input_above: 0.5\ncache_write_hour: 6"
                amounts = ("0", "0.000001", "99999999.999999", "2.50", long)
                self._prices[f"m{self._random.randrange(5)}"] = choose(amounts)

    def text(self) -> str:
        """Return all documents."""
        return joined(
            *(policy(*one) for one in self._policies.items()),
            *(price(*one) for one in self._prices.items()),
            organization(),
            team(),
            *(team(*one) for one in self._teams.items()),
            *(route_text(name, more=more) for name, more in self._routes.items()),
            *(key(key_id, name, more) for key_id, (name, more) in self._keys.items()),
        )


@pytest.mark.asyncio
async def test_random_edits_come_back_by_an_export(database: Database) -> None:
    """After each edit the export has no difference, and neither have the files."""
    files = RandomFiles(20)
    async with database.connect() as connection:
        for _ in range(EDITS):
            files.edit()
            written = parse_files([("a.yaml", files.text())])
            await apply_objects(connection, written, prunes=True)
            stored = await load_installation(connection)
            for wanted in (parse_files([("a.yaml", exported(stored))]), written):
                plan = await plan_changes(connection, wanted, file_set="default", prunes=True)
                assert (plan.changes, plan.adopted, plan.unchanged) == ((), (), len(stored))


@pytest.mark.asyncio
async def test_a_change_made_meanwhile_ends_the_change(database: Database, tmp_path: Path) -> None:
    """The second of two people is asked to look at the new plan."""
    async with database.connect() as connection:
        await apply_text(connection, organization())
        (tmp_path / "a.yaml").write_text(organization(more="enabled: false\n"))
        command = ("apply", "-f", str(tmp_path), "--yes", "--no-wait")
        async with asyncio.TaskGroup() as group, connection.transaction():
            await lock_installation(connection)
            second = group.create_task(asyncio.to_thread(Egret(database.dsn), *command))
            while not await connection.fetchval(_WAITS):  # noqa: ASYNC110 - the database is asked
                await asyncio.sleep(0.02)
            await connection.execute("UPDATE organizations SET allowed_models = '{gpt-*}'")
        ran = second.result()
        enabled = await connection.fetchval("SELECT enabled FROM organizations")

    assert ran.code == 1
    assert "the installation was changed meanwhile; nothing was done" in ran.err
    assert enabled is True


@pytest.mark.asyncio
async def test_a_change_that_does_not_end_is_not_waited_for_without_end(
    database: Database,
) -> None:
    async with (
        database.connect() as one,
        database.connect() as other,
        one.transaction(),
    ):
        await lock_installation(one)
        with pytest.raises(ChangeRefusedError, match="another change has not ended for 1 s"):
            async with other.transaction():
                await lock_installation(other, seconds=1)
        assert await load_installation(other) == ()  # workers read on


@pytest.mark.asyncio
async def test_keys_that_exchange_names_are_refused(database: Database) -> None:
    """The names of a team's keys are unique at every moment."""
    tree = joined(organization(), team())
    first, second = key("aaaaaaaaaaaa", "one"), key("bbbbbbbbbbbb", "two")
    async with database.connect() as connection:
        await apply_text(connection, joined(tree, first, second))
        other = joined(tree, key("aaaaaaaaaaaa", "two"), key("bbbbbbbbbbbb", "one"))
        with pytest.raises(ChangeRefusedError, match="exchange their names"):
            await apply_text(connection, other)


@pytest.mark.asyncio
async def test_the_first_revocation_stays(database: Database) -> None:
    tree = joined(organization(), team(), key(more="revoked_at: 2026-02-01\n"))
    async with database.connect() as connection:
        await apply_text(connection, tree)
        plan = await apply_text(connection, tree.replace("2026-02", "2026-03"))
        text = exported(await load_installation(connection))

    assert len(plan.kept) == 1
    assert "revoked_at: '2026-02-01T00:00:00Z'" in text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("spoilt", "problem", "hint"),
    [
        pytest.param(
            """UPDATE organizations SET limits = '[{"measure": "x"}]'""",
            r"organization acme is not one this Egret can read \(limits: Invalid enum value 'x'",
            "correct it with `egret limits remove --org acme --all`",
            id="limits",
        ),
        pytest.param(
            """UPDATE organizations SET allowed_models = '{""}'""",
            r"organization acme is not one this Egret can read \(allowed_models.0: must",
            "correct it with `egret orgs set acme --any-model`, or --model GLOB",
            id="models",
        ),
        pytest.param(
            "UPDATE prices SET model = E'gpt\\t4'",
            r"price gpt\t4 is not one this Egret can read \(model: must match",
            "correct it by its own command",
            id="a price",
        ),
    ],
)
async def test_an_object_that_this_version_cannot_read_is_named_with_its_field(
    database: Database, spoilt: str, problem: str, hint: str
) -> None:
    """And the command that corrects it: one object stops `export`, `diff` and `apply` of all."""
    async with database.connect() as connection:
        await apply_text(connection, joined(organization(), price()))
        await connection.execute(spoilt)
        with pytest.raises(ChangeRefusedError, match=problem) as caught:
            await load_installation(connection)

    assert caught.value.hint == f"{hint}, or use the Egret that wrote it"


@pytest.mark.asyncio
async def test_a_stored_limit_for_no_operation_is_exported_and_corrected_by_a_file(
    database: Database,
) -> None:
    """Older versions accepted it; the file that has it names its line."""
    async with database.connect() as connection:
        await apply_text(connection, organization(more="limits: [requests/minute=1]\n"))
        await connection.execute(
            """UPDATE organizations SET limits =
               '[{"measure": "requests", "window": "day", "amount": 5, "operations": ["chatt"]}]'
            """
        )
        with pytest.raises(InstallationError, match="there is no operation 'chatt'"):
            parse_files([("a.yaml", exported(await load_installation(connection)))])
        await apply_text(
            connection,
            organization(more="limits: [{limit: requests/day=5, operations: [chat]}]\n"),
        )
        stored = await connection.fetchval("SELECT limits->0->'operations' FROM organizations")

    assert stored == '["chat"]'


@pytest.mark.asyncio
async def test_the_role_of_the_command_line_may_apply(database: Database) -> None:
    async with database.connect() as connection:
        await connection.execute("SET ROLE egret_admin")
        await apply_text(connection, joined(policy(), price(), organization(), team(), key()))
        await apply_text(connection, organization("other"), prunes=True)


@pytest.mark.asyncio
async def test_a_policy_that_files_bring_back_continues_behind_its_deleted_versions(
    database: Database,
) -> None:
    """Also in the plan: a worker must not take it for the policy that it served before."""
    async with database.connect() as connection:
        for more in ("", ", action: redact"):
            await apply_text(connection, policy(more=more))
        await apply_text(connection, organization(), prunes=True)
        (change,) = (await apply_text(connection, policy())).changes
        stored = await load_policy(connection, "strict")

    assert change.policy is not None
    assert "+++ strict version 3\n" in change.policy.diff
    assert stored is not None
    assert stored.version == 3


@pytest.mark.asyncio
async def test_the_plan_counts_the_api_tokens_that_go_with_an_owner(database: Database) -> None:
    """Each with its own owner; a revoked one is no loss."""
    async with database.connect() as connection:
        await apply_text(connection, joined(policy(), organization(), team()))
        await connection.execute(
            "INSERT INTO admin_tokens (id, secret_sha256, name, role, organization_id, team_id,"
            " created_by, revoked_at) SELECT rpad(n, 12, '0'), sha256('s'), n, 'viewer', o.id,"
            " CASE WHEN n <> 'one' THEN t.id END, 'tests', CASE n WHEN 'old' THEN now() END"
            " FROM unnest('{one,two,three,old}'::text[]) AS n, organizations AS o, teams AS t"
        )
        wanted = parse_files([("a.yaml", organization("other"))])
        plan = await plan_changes(connection, wanted, file_set="default", prunes=True)

    reasons = {one.kind: one.reason for one in plan.changes if one.action is PlannedAction.DELETE}
    assert reasons[Kind.ORGANIZATION].endswith("; API tokens that go too: 1")
    assert reasons[Kind.TEAM].endswith("; API tokens that go too: 2")
    assert reasons[Kind.POLICY].endswith("no file names it")


@pytest.mark.asyncio
async def test_the_role_of_a_worker_may_not_change_the_installation(database: Database) -> None:
    async with database.connect() as connection:
        await connection.execute("SET ROLE egret_sidecar")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await apply_text(connection, organization())
