from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sidecar.keys.credentials import parse
from tests.support.command_line import Egret, Ran
from tests.support.installation import joined, key, organization, policy, price, team
from tests.support.postgres import Database

TREE = joined(
    policy(),
    price(),
    organization(more="policy: strict\nlimits: [cost/month=250]\n"),
    team(more="allowed_models: [gpt-*]\n"),
    key(more="tags: [env=prod]\nallowed_sources: [192.0.2.0/24]\n"),
)


def applied(egret: Egret, text: str, *options: str) -> Ran:
    """Apply a text without questions."""
    return egret("apply", "-f", "-", "--yes", "--no-wait", *options, stdin=text)


def test_files_make_an_installation_and_applying_them_again_changes_nothing(egret: Egret) -> None:
    created = applied(egret, TREE)
    again = applied(egret, TREE)

    assert (created.code, again.code) == (0, 0)
    assert created.lines[1] == "create|Policy|strict||||stdin, line 1 adds it"
    assert "5 to create, 0 to change, 0 to delete, 0 unchanged." in created.err
    assert again.err == "No changes.\n"
    assert egret("keys", "show", "abcdefghijkl", "-o", "json").json["tags"] == ["env=prod"]
    assert egret("limits", "list", "--org", "acme", "-o", "json").json[0]["amount"] == 250_000_000
    assert egret("policy", "show", "strict", "-o", "json").json["version"] == 1


def test_a_plan_shows_fields_and_the_difference_of_a_policy(egret: Egret) -> None:
    """Nothing is changed by a dry run, which is no drift of the files' own."""
    applied(egret, TREE)
    changed = TREE.replace("250", "300").replace("type: secrets", "type: secrets, action: flag")

    ran = egret("apply", "-f", "-", "--dry-run", stdin=changed)

    assert ran.code == 0
    assert (
        "change|Organization|acme|limits|cost/month=250|cost/month=300|stdin, line 12 changes it"
        in ran.lines
    )
    assert "+  action: flag" in ran.out
    assert "0 to create, 2 to change, 0 to delete, 3 unchanged." in ran.err
    assert ran.err.endswith("Nothing was changed: this was a dry run.\n")
    assert egret("diff", "-f", "-", stdin=TREE).code == 0


def test_a_difference_exits_with_2_and_an_error_with_1(egret: Egret, tmp_path: Path) -> None:
    applied(egret, TREE)
    egret("limits", "set", "--org", "acme", "cost/month=10")

    drift = egret("diff", "-f", "-", "-o", "json", stdin=TREE)

    assert drift.code == 2
    assert drift.json["drift"] is True
    assert drift.json["counts"] == {
        "create": 0, "change": 1, "delete": 0, "unchanged": 4, "adopted": 0
    }  # fmt: skip
    assert drift.json["changes"] == [
        {
            "action": "change",
            "kind": "Organization",
            "name": "acme",
            "why": "stdin, line 12 changes it",
            "fields": [
                {"field": "limits", "before": ["cost/month=10"], "after": ["cost/month=250"]}
            ],
            "diff": None,
        }
    ]
    assert egret("diff", "-f", "-", stdin="kind: X\n").code == 1
    assert egret("diff", "-f", str(tmp_path / "no.yaml")).code == 1
    assert egret("diff").code == 1
    assert egret("--server", "nowhere", "diff", "-f", "-", stdin=TREE).code == 1


def test_an_export_has_no_changes(egret: Egret, tmp_path: Path) -> None:
    """As one text, as a file, and as a folder of files."""
    applied(egret, TREE)
    folder = tmp_path / "config"

    text = egret("export")
    written = egret("export", "-o", str(folder))
    exported = egret("export", "-o", str(tmp_path / "all.yaml"))

    assert (text.code, written.code, exported.code) == (0, 0, 0)
    assert sorted(str(one.relative_to(folder)) for one in folder.rglob("*.yaml")) == [
        "organizations/acme.yaml",
        "policies/strict.yaml",
        "prices.yaml",
        "teams/acme/search.yaml",
    ]
    for options, stdin in (
        (("-f", "-"), text.out),
        (("-f", str(folder)), None),
        (("-f", str(tmp_path / "all.yaml")), None),
    ):
        assert egret("apply", "--dry-run", *options, stdin=stdin).err == "No changes.\n"


def test_an_export_of_nothing_is_no_error(egret: Egret, tmp_path: Path) -> None:
    """The first command of docs/gitops.md, before there is an object."""
    ran = egret("export", "-o", str(tmp_path / "config"))
    assert (ran.code, ran.err) == (0, f"0 objects exported to {tmp_path / 'config'}\n")


def test_an_export_replaces_no_other_file(egret: Egret, tmp_path: Path) -> None:
    """One that is there and the same is no reason to stop; others in the folder are named."""
    applied(egret, TREE)
    folder = tmp_path / "config"
    egret("export", "-o", str(folder))

    assert egret("export", "-o", str(folder)).code == 0
    (folder / "prices.yaml").write_text("# mine\n")
    (folder / "mine.yaml").write_text("# mine\n")
    refused = egret("export", "-o", str(folder))
    forced = egret("export", "-o", str(folder), "--force")

    assert refused.code == 2
    assert "prices.yaml exists and would change" in refused.err
    assert forced.code == 0
    assert (
        f"{folder} holds 1 other file, such as {folder}/mine.yaml, that `egret apply` reads too"
        in forced.err
    )
    assert (folder / "prices.yaml").read_text().startswith("kind: Price")


def test_prune_deletes_objects_of_the_set_alone(egret: Egret) -> None:
    egret("orgs", "create", "by-hand")
    applied(egret, organization("other"), "--set", "others")
    applied(egret, TREE)
    rest = joined(policy(), price(), organization(), team())

    kept = applied(egret, rest)
    pruned = applied(egret, rest, "--prune")

    assert "Of the set default, 1 object in no file, such as key abcdefghijkl" in kept.err
    assert (
        "delete|Key|abcdefghijkl||||the set default owns it, and no file names it" in pruned.lines
    )
    assert egret("keys", "list", "-o", "json").json == []
    assert [one["name"] for one in egret("orgs", "list", "-o", "json").json] == [
        "acme", "by-hand", "other"
    ]  # fmt: skip


def test_everything_can_be_deleted_in_one_change(egret: Egret) -> None:
    """Keys before their teams, teams before their organizations, and policies last."""
    applied(egret, TREE)

    ran = applied(egret, organization("new"), "--prune")

    assert ran.code == 0
    assert "1 to create, 0 to change, 5 to delete, 0 unchanged." in ran.err


def test_objects_made_by_hand_come_under_the_set(egret: Egret) -> None:
    """So that a later --prune may delete them."""
    egret("orgs", "create", "acme")

    adopted = applied(egret, organization())
    applied(egret, organization("new"), "--prune")

    assert adopted.err == "New in the set default: 1 object.\nNo changes.\n"
    assert [one["name"] for one in egret("orgs", "list", "-o", "json").json] == ["new"]


def test_a_revoked_key_stays_revoked(egret: Egret) -> None:
    applied(egret, TREE)
    egret("keys", "revoke", "abcdefghijkl", "--no-wait")

    ran = applied(egret, TREE)

    assert "key abcdefghijkl was revoked at" in ran.err
    assert egret("keys", "show", "abcdefghijkl", "-o", "json").json["state"] == "revoked"
    assert egret("diff", "-f", "-", stdin=TREE).code == 2


def test_a_rotation_is_exported(egret: Egret) -> None:
    """The old key names the new one, which has the same name."""
    applied(egret, TREE)
    egret("keys", "rotate", "abcdefghijkl", "--no-wait")

    text = egret("export").out

    assert text.count("kind: Key") == 2
    assert egret("diff", "-f", "-", "--prune", stdin=text).code == 0


def test_the_audit_log_names_the_actor_and_the_note(egret: Egret) -> None:
    ran = egret(
        "--as", "ci", "apply", "-f", "-", "--yes", "--no-wait", "--note", "as agreed", stdin=TREE
    )

    assert ran.code == 0
    every = egret("audit", "list", "-o", "json").json
    assert {(one["actor"], one["note"]) for one in every} == {("ci", "as agreed")}
    assert egret("policy", "history", "strict", "-o", "json").json[0]["note"] == "as agreed"


def test_a_note_is_that_of_its_own_change(egret: Egret) -> None:
    """Also where no policy has a version for it; a change without one has none."""
    applied(egret, TREE)
    applied(egret, TREE.replace("250", "300"), "--note", "commit 0a1b2c")
    egret("orgs", "disable", "acme", "--no-wait")

    rows = egret("audit", "list", "--type", "organizations", "-o", "json").json
    assert [one["note"] for one in rows] == [None, "commit 0a1b2c", None]
    assert "commit 0a1b2c" in egret("audit", "list").out


def test_a_policy_that_does_not_compile_changes_nothing(egret: Egret) -> None:
    """Its file and line are named, as `egret policy apply` does."""
    text = joined(
        organization(),
        "kind: Policy\nname: p\nguardrails:\n"
        "- name: d\n  type: denied_patterns\n  patterns: [{name: A, regex: '(x{1,999}){999}'}]\n",
    )

    ran = applied(egret, text)

    assert ran.code == 1
    assert "stdin: line 9, column 31: guardrails[0].patterns[0].regex" in ran.err
    assert egret("orgs", "list", "-o", "json").json == []


@pytest.mark.parametrize(
    ("text", "transactions"),
    [
        pytest.param(joined(policy("new"), organization()), 1, id="bound to nothing"),
        pytest.param(organization(more="policy: strict\n"), 1, id="there before"),
        pytest.param(joined(policy("default"), organization()), 1, id="bound as it stands"),
        pytest.param(joined(policy("new"), organization(more="policy: new\n")), 2, id="bound"),
    ],
)
async def test_a_change_is_one_transaction_but_for_new_policies_that_are_bound(
    egret: Egret, database: Database, text: str, transactions: int
) -> None:
    """Those have one before, so that workers have compiled them by then."""
    await asyncio.to_thread(applied, egret, policy())

    ran = await asyncio.to_thread(applied, egret, text)

    async with database.connect() as connection:
        count = await connection.fetchval("SELECT count(DISTINCT transaction) FROM audit_log")
    assert count == 1 + transactions
    assert ("1 new policy: this is stored; no worker is running." in ran.err) == (transactions > 1)


async def test_a_refusal_after_new_policies_says_that_they_are_stored(
    egret: Egret, database: Database
) -> None:
    """Here another change comes right after them; the next apply does the rest."""
    await database.execute(
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO organizations (name) VALUES ('acme'); RETURN NULL; END $$;"
        "CREATE TRIGGER other AFTER INSERT ON policies EXECUTE FUNCTION other()"
    )
    text = joined(policy("new"), organization(more="policy: new\n"))

    refused = await asyncio.to_thread(applied, egret, text)
    again = await asyncio.to_thread(applied, egret, text)

    assert (refused.code, "nothing was done" in refused.err) == (1, False)
    assert "the new policies are stored, and nothing else was done; look at" in refused.err
    assert again.code == 0


def test_without_a_terminal_it_wants_a_yes(egret: Egret, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TREE)

    ran = egret("apply", "-f", str(tmp_path))

    assert ran.code == 2
    assert "pass --yes" in ran.err
    assert egret("orgs", "list", "-o", "json").json == []


def test_a_json_plan_is_all_of_standard_output(egret: Egret) -> None:
    ran = applied(egret, TREE, "-o", "json")

    assert ran.json["applied"] is True
    assert len(ran.json["changes"]) == 5
    assert ran.json["changes"][0]["diff"].startswith("--- strict version 0")


@pytest.mark.parametrize(
    ("make", "code", "error"),
    [
        ("empty", 1, "has no .yaml files"),
        ("loop", 1, "is a link to a folder"),
        ("circle", 2, "Too many levels of symbolic links"),
        ("missing", 2, "No such file or directory"),
        ("pipe", 1, "is not a file"),
        ("bytes", 1, "byte 6 is not UTF-8"),
        ("comment", 1, "holds no object"),
    ],
)
def test_a_folder_that_cannot_be_read_changes_nothing(
    egret: Egret, tmp_path: Path, make: str, code: int, error: str
) -> None:
    """A file that is passed over could be one that names what --prune would delete."""
    applied(egret, TREE)
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "b.yaml").write_text("kind: X\n")
    file = folder / "a.yaml"
    match make:
        case "loop":
            (folder / "again").symlink_to(folder)
        case "circle":
            file.symlink_to(file)
        case "missing":
            file.symlink_to(folder / "gone.yaml")
        case "pipe":
            os.mkfifo(file)
        case "bytes":
            file.write_bytes(b"kind: \xff\n")
        case "comment":
            file.write_text("# later\n")
        case _:
            pass

    ran = egret("apply", "-f", str(folder), "--prune", "--yes")

    assert ran.code == code
    assert error in ran.err
    assert egret("diff", "-f", "-", stdin=TREE).code == 0


def test_a_mounted_config_map_is_read(egret: Egret, tmp_path: Path) -> None:
    """Its files are links into a hidden folder, which is not read a second time."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "a.yaml").write_text(organization())
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

    assert egret("apply", "-f", str(tmp_path), "--yes", "--no-wait").code == 0


def test_a_database_that_is_away_is_reported(tmp_path: Path) -> None:
    egret = Egret(f"postgresql://nobody@/nowhere?host={tmp_path}")

    for command in (("apply", "-f", "-", "--yes"), ("diff", "-f", "-")):
        ran = egret(*command, stdin=TREE)
        assert (ran.code, "PostgreSQL gave no answer" in ran.err) == (1, True)
    assert egret("export").code == 1


def test_the_schema_is_printed_without_a_database() -> None:
    assert Egret("").__call__("apply", "--schema").json["title"] == "Egret installation"


def test_a_key_that_a_file_names_by_its_place_is_made_once(egret: Egret, tmp_path: Path) -> None:
    """Not by a dry run; the key in the place is good, and is known by its id from then on."""
    text = joined(
        organization(),
        team(),
        "kind: Key\nsecret: {name: ci-key, key: token}\nteam: acme/search\nname: ci\n",
    )
    secrets = str(tmp_path / "secrets")
    without = applied(egret, text)
    dry = egret("apply", "-f", "-", "--dry-run", "--secrets", secrets, stdin=text)
    assert not (tmp_path / "secrets").exists()
    missing = egret("diff", "-f", "-", "--secrets", secrets, stdin=text)
    made = applied(egret, text, "--secrets", secrets)
    file = tmp_path / "secrets" / "ci-key" / "token"
    before = file.read_text(encoding="ascii")
    again = applied(egret, text, "--secrets", secrets)
    (listed,) = egret("keys", "list", "-o", "json").json
    held = parse(before)
    exported = egret("export").out

    assert (without.code, dry.code, missing.code, made.code) == (1, 0, 2, 0)
    assert "secret: the key's place was not read" in without.err
    assert "A new key is in ci-key/token." in made.err
    assert again.err == "No changes.\n"
    assert file.read_text(encoding="ascii") == before
    assert held is not None
    assert (listed["key_id"], held.secret in made.out + made.err) == (held.key_id, False)
    assert held.secret_sha256.hex() in exported
    assert "ci-key" not in exported


def test_the_outcome_is_written_for_node_exporter(egret: Egret, tmp_path: Path) -> None:
    """Drift by `diff`, the time by `apply`, with changes or without; nothing by a dry run."""
    file = tmp_path / "egret.prom"
    dry = egret("apply", "-f", "-", "--dry-run", "--metrics-file", str(file), stdin=TREE)
    assert (dry.code, file.exists()) == (0, False)
    drift = egret("diff", "-f", "-", "--metrics-file", str(file), stdin=TREE)
    drifted = file.read_text(encoding="ascii")
    applied(egret, TREE, "--metrics-file", str(file))
    first = file.read_text(encoding="ascii")
    file.unlink()
    applied(egret, TREE, "--metrics-file", str(file))
    again = file.read_text(encoding="ascii")
    same = egret("diff", "-f", "-", "--metrics-file", str(file), stdin=TREE)

    assert (drift.code, same.code) == (2, 0)
    assert 'egret_installation_drift{set="default"} 1.0' in drifted
    assert 'egret_installation_checked_timestamp_seconds{set="default"} 1' in drifted
    for text in (first, again):
        assert 'egret_installation_applied_timestamp_seconds{set="default"} 1' in text
        assert "egret_installation_drift{" not in text
    assert 'egret_installation_drift{set="default"} 0' in file.read_text(encoding="ascii")
    assert [path.name for path in tmp_path.iterdir()] == ["egret.prom"]
    nowhere = egret("diff", "-f", "-", "--metrics-file", str(tmp_path / "no/file"), stdin=TREE)
    assert (nowhere.code, "name another --metrics-file" in nowhere.err) == (1, True)


async def test_a_time_zone_of_a_machine_that_was_stored_is_read(
    egret: Egret, database: Database
) -> None:
    """Former versions took it: files that do not name it are applied nevertheless."""
    limits = '[{"measure": "cost", "window": "day", "amount": 5, "time_zone": "Factory"}]'
    async with database.connect() as connection:
        await connection.execute(
            "INSERT INTO alert_routes (name, channel, secret, time_zone)"
            " VALUES ('ops', 'slack', 'env:ALERT_A', 'Factory')"
        )
        await connection.execute(
            "INSERT INTO organizations (name, limits) VALUES ('zoo', $1::text::jsonb)", limits
        )

    ran = await asyncio.to_thread(applied, egret, organization())

    assert ran.code == 0, ran.err
