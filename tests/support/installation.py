"""Installations as texts, and steps of `egret apply` without its command line."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.admin.installation.export import SEPARATOR, document_text
from sidecar.admin.installation.objects import WantedObject, parse_files
from sidecar.admin.installation.persistence import carry_out, lock_installation, plan_changes
from sidecar.admin.installation.plan import InstallationPlan, StoredObject
from sidecar.storage.pool import Connection

DIGEST = "0000000000000000000000000000000000000000000000000000000000000001"


def organization(name: str = "acme", more: str = "") -> str:
    """Return the document of an organization; *more* are further lines."""
    return f"kind: Organization\nname: {name}\n{more}"


def team(name: str = "acme/search", more: str = "") -> str:
    """Return the document of a team."""
    return f"kind: Team\nname: {name}\n{more}"


def key(key_id: str = "abcdefghijkl", name: str = "ci", more: str = "") -> str:
    """Return the document of a key of acme/search."""
    return (
        f"kind: Key\nid: '{key_id}'\nsecret_sha256: '{DIGEST}'\n"
        f"team: acme/search\nname: '{name}'\n{more}"
    )


def policy(name: str = "strict", more: str = "") -> str:
    """Return the document of a policy with one guardrail."""
    return f"kind: Policy\nname: {name}\nguardrails:\n- {{name: a, type: secrets{more}}}\n"


def price(model: str = "gpt-4o", amount: str = "2.5") -> str:
    """Return the document of a price."""
    return f"kind: Price\nmodel: {model}\nvalid_from: 2026-01-01\ninput: {amount}\noutput: 10\n"


def joined(*documents: str) -> str:
    """Return one text of several documents."""
    return SEPARATOR.join(documents)


def exported(stored: tuple[StoredObject, ...]) -> str:
    """Return the whole installation as one text."""
    return joined(*(document_text(one) for one in stored))


async def apply_text(
    connection: Connection, text: str, *, prunes: bool = False
) -> InstallationPlan:
    """Plan and make the changes of *text* in one transaction."""
    return await apply_objects(connection, parse_files([("a.yaml", text)]), prunes=prunes)


async def apply_objects(
    connection: Connection, wanted: Sequence[WantedObject], *, prunes: bool = False
) -> InstallationPlan:
    """Plan and make the changes of parsed files in one transaction."""
    async with connection.transaction():
        await lock_installation(connection)
        plan = await plan_changes(connection, wanted, file_set="default", prunes=prunes)
        await carry_out(connection, plan, file_set="default", note=None, advance=lambda _: None)
    return plan
