from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sidecar.admin.installation.key_secrets import (
    FolderSecrets,
    KeysAtPlaces,
    KubernetesSecrets,
    SecretStore,
    find_keys,
)
from sidecar.admin.installation.objects import (
    InstallationError,
    KeyDocument,
    SecretReference,
    parse_files,
)
from sidecar.admin.installation.plan import plan_installation
from sidecar.admin.owners import ChangeRefusedError
from sidecar.keys.credentials import generate, parse
from tests.support.installation import joined, key
from tests.support.kubernetes_api import KubernetesApi, kubernetes_api

PLACE = SecretReference(name="ci-key", key="api-key")


def text(name: str = "ci", place: str = "{name: ci-key, key: api-key}") -> str:
    """Return the document of a key that is named by its place."""
    return f"kind: Key\nsecret: {place}\nteam: acme/search\nname: {name}\n"


async def found(store: SecretStore | None, *documents: str) -> KeysAtPlaces:
    """Read *documents* with the keys of *store*."""
    return await find_keys(parse_files([("a.yaml", joined(*documents))]), store)


async def faults(store: SecretStore | None, *documents: str) -> list[str]:
    """Return the faults of *documents*."""
    with pytest.raises(InstallationError) as caught:
        await found(store, *documents)
    return [str(one) for one in caught.value.faults]


async def written(keys: KeysAtPlaces) -> list[str]:
    """Write new keys, and return their places."""
    places: list[str] = []
    await keys.write(lambda place: places.append(str(place)))
    return places


def store_of(api: KubernetesApi) -> KubernetesSecrets:
    """Return the Secrets of an API."""
    return KubernetesSecrets(url=api.url, service_account=api.service_account)


async def test_a_key_is_made_once_and_then_read_from_its_file(tmp_path: Path) -> None:
    """Nothing is written before the plan is accepted, and nothing twice."""
    store = FolderSecrets(tmp_path)
    first = await found(store, text())
    file = tmp_path / "ci-key" / "api-key"
    assert not file.parent.exists()
    assert await written(first) == ["ci-key/api-key"]
    second = await found(store, text())

    held = parse(file.read_text(encoding="ascii"))
    (one,) = second.objects
    assert isinstance(one.content, KeyDocument)
    assert held is not None
    assert (one.name, one.content.secret) == (held.key_id, None)
    assert one.content.secret_sha256 == held.secret_sha256.hex()
    assert second.objects[0].name == first.objects[0].name
    assert await written(second) == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["api-key"]


async def test_a_part_that_a_killed_process_left_stops_no_key(tmp_path: Path) -> None:
    """In a container each process has the same number."""
    keys = await found(FolderSecrets(tmp_path), text())
    (tmp_path / "ci-key").mkdir()
    (tmp_path / "ci-key" / f".api-key.{os.getpid()}").touch()

    assert await written(keys) == ["ci-key/api-key"]


async def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    keys = await found(FolderSecrets(tmp_path), text())
    (tmp_path / "ci-key").mkdir()
    (tmp_path / "ci-key" / "api-key").write_text("mine", encoding="ascii")
    with pytest.raises(ChangeRefusedError, match="the secret ci-key/api-key: File exists"):
        await written(keys)

    assert (tmp_path / "ci-key" / "api-key").read_text(encoding="ascii") == "mine"


async def test_a_value_that_is_no_key_is_a_fault_and_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "ci-key").mkdir()
    (tmp_path / "ci-key" / "api-key").write_text("hunter2", encoding="ascii")
    (fault,) = await faults(FolderSecrets(tmp_path), text())

    assert "ci-key/api-key is no key of Egret (remove it for a new key" in fault
    assert "hunter2" not in fault


async def test_a_place_that_was_not_read_is_a_fault_of_the_plan() -> None:
    """So that no key without a digest is stored, whoever plans: the API reads no secrets."""
    keys = await found(None, text())
    with pytest.raises(InstallationError) as caught:
        plan_installation(keys.objects, (), file_set="default", prunes=False, deleted={})

    assert "secret: the key's place was not read (run `egret apply` with --secrets" in str(
        caught.value
    )


async def test_one_key_is_not_two_objects(tmp_path: Path) -> None:
    made = generate(os.urandom)
    (tmp_path / "ci-key").mkdir()
    (tmp_path / "ci-key" / "api-key").write_text(made.reveal(), encoding="ascii")
    (fault,) = await faults(FolderSecrets(tmp_path), key(made.key_id, "a"), text("b"))

    assert f"key {made.key_id} is in a.yaml, line 1, already" in fault


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (text() + "id: abcdefghijkl\n", "or `secret` in their place"),
        (
            "kind: Key\nid: abcdefghijkl\nteam: acme/search\nname: a\n",
            "or `secret` in their place",
        ),
        (text(place="{name: ../x, key: a}"), "the name of a Secret in Kubernetes"),
        (text(place="{name: a, key: ..}"), "the name of a Secret in Kubernetes"),
        (text(place="{name: a, key: a/b}"), "the name of a Secret in Kubernetes"),
        (text(place="{name: a, kye: b}"), "key"),
    ],
)
def test_a_fault_of_a_place_is_named(document: str, expected: str) -> None:
    with pytest.raises(InstallationError, match=expected):
        parse_files([("a.yaml", document)])


@pytest.mark.parametrize("others", [{}, {"other": "kept"}])
async def test_a_key_is_added_to_a_secret_of_kubernetes(
    tmp_path: Path, others: dict[str, str]
) -> None:
    """By `get` and `patch`, and with what else it holds."""
    async with kubernetes_api(tmp_path) as api:
        api.add("ci-key", **others)
        first = await found(store_of(api), text())
        assert await written(first) == ["ci-key/api-key"]
        second = await found(store_of(api), text())
        held = parse(api.value("ci-key", "api-key"))
        data = set(api.secrets["ci-key"]["data"])

    assert held is not None
    assert held.key_id == first.objects[0].name == second.objects[0].name
    assert second.new == {}
    assert data == {"api-key", *others}
    assert set(api.verbs) == {"GET", "PATCH"}


async def test_a_secret_of_kubernetes_is_never_overwritten(tmp_path: Path) -> None:
    """Neither a value that came meanwhile, nor one that comes between reading and writing."""
    async with kubernetes_api(tmp_path) as api:
        api.add("ci-key")
        keys = await found(store_of(api), text())
        api.add("ci-key", **{"api-key": "mine"})
        with pytest.raises(ChangeRefusedError, match="has a value by now"):
            await written(keys)
        value = api.value("ci-key", "api-key")

    assert value == "mine"


async def test_a_secret_that_the_chart_did_not_make_is_a_fault(tmp_path: Path) -> None:
    async with kubernetes_api(tmp_path) as api:
        (fault,) = await faults(store_of(api), text())

    assert "there is no Secret ci-key" in fault
    assert api.verbs == ["GET"]


async def test_an_api_that_refuses_or_is_no_kubernetes_ends_the_command(tmp_path: Path) -> None:
    """Its certificate must be of the cluster's authority; without a pod there is no account."""
    async with kubernetes_api(tmp_path / "a") as api, kubernetes_api(tmp_path / "b") as other:
        api.add("ci-key")
        (api.service_account / "token").write_text("old", encoding="utf-8")
        with pytest.raises(ChangeRefusedError, match="was not read: status 401"):
            await found(store_of(api), text())
        stranger = KubernetesSecrets(url=other.url, service_account=api.service_account)
        with pytest.raises(ChangeRefusedError, match="no answer: ClientConnectorCertificateError"):
            await found(stranger, text())
    with pytest.raises(ChangeRefusedError, match="no service account is mounted here"):
        await found(KubernetesSecrets(service_account=tmp_path / "none"), text())
