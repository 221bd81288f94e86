"""Whose limits a command is about: `--key`, `--team` or `--org`."""

from __future__ import annotations

from sidecar.cli.key_output import public_id
from sidecar.cli.output import WRONG_USAGE, fail
from sidecar.domain.limits import Level
from sidecar.storage.limit_administration import Owner


def owner_of(*, key: str | None, team: str | None, org: str | None) -> Owner:
    """Return the one owner that was named, or exit."""
    owner = owner_or_all(key=key, team=team, org=org)
    if owner is None:
        fail("say whose", mend="give one of --key, --team and --org", code=WRONG_USAGE)
    return owner


def owner_or_all(*, key: str | None, team: str | None, org: str | None) -> Owner | None:
    """Return the owner that was named, None where none was, or exit where several were."""
    named = [
        Owner(level, name)
        for level, name in zip(Level, (key, team, org), strict=True)
        if name is not None
    ]
    if len(named) > 1:
        fail("say whose", mend="give one of --key, --team and --org", code=WRONG_USAGE)
    if not named:
        return None
    owner = named[0]
    return Owner(owner.level, public_id(owner.name)) if owner.level is Level.KEY else owner
