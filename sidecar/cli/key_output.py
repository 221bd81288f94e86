"""How commands take a key's id and tell of a key."""

from __future__ import annotations

from sidecar.authorization.api_key import KEY_ID_LENGTH, PREFIX, parse
from sidecar.cli.database import Told
from sidecar.cli.output import WRONG_USAGE, Row, fail
from sidecar.storage.key_listing import Key


def told_of(key: Key) -> Told:
    """Return what workers are told of a change to one key."""
    return Told(keys=(key.key_id,))


def public_id(text: str) -> str:
    """Take `egk_<id>` as well, and a whole key, whose secret is let go at once."""
    key = parse(text)
    if key is not None:
        return key.key_id
    key_id = text.removeprefix(PREFIX)
    if not (len(key_id) == KEY_ID_LENGTH and key_id.isascii() and key_id.isalnum()):
        # It may be a mistyped key or a secret: it is not repeated.
        fail("KEY_ID is not the id of a key", mend="see `egret keys list`", code=WRONG_USAGE)
    return key_id


def key_row(key: Key) -> Row:
    """Return what is told of a key."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "team": key.team,
        "state": key.state.value,
        "not_before": key.not_before,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "replaced_by": key.replaced_by,
        "policy": key.policy,
        "allowed_models": key.allowed_models,
        "allowed_operations": key.allowed_operations,
        "allowed_sources": key.allowed_sources,
        "tags": key.tags,
        "priority": key.priority,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "requests": key.requests,
        "refused": key.refused,
    }
