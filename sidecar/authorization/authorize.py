"""Judges a presented key by what is stored of it, and a model by the globs that allow it."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.authorization.api_key import ApiKey
from sidecar.domain.errors import ErrorKind
from sidecar.domain.globs import compile_glob
from sidecar.domain.principal import KeyRecord

_NO_DIGEST = bytes(32)
"""Compared with where there is no record, so that both cases do the same work."""


@dataclass(frozen=True, slots=True)
class Authorized:
    """The key is good now; the request acts for the record's principal."""

    record: KeyRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """The key is not good, for this reason."""

    kind: ErrorKind


Authorization = Authorized | Refused


def judge(record: KeyRecord | None, key: ApiKey, *, now: float) -> Authorization:
    """Judge *key* by *record* at *now*, in seconds since the epoch.

    The secret comes first: only its holder learns that a key is revoked, expired or disabled;
    to everyone else an id that exists and one that does not look the same.
    """
    stored = _NO_DIGEST if record is None else record.secret_sha256
    is_holder = hmac.compare_digest(stored, key.secret_sha256)
    if record is None or not is_holder:
        return Refused(ErrorKind.INVALID_API_KEY)
    # A revocation counts whatever its time says: clocks differ, and it was meant.
    if record.revoked_at is not None:
        return Refused(ErrorKind.REVOKED_API_KEY)
    if record.expires_at is not None and now >= record.expires_at:
        return Refused(ErrorKind.EXPIRED_API_KEY)
    if record.not_before is not None and now < record.not_before:
        return Refused(ErrorKind.DISABLED_API_KEY)
    if not (record.enabled and record.team_enabled and record.organization_enabled):
        return Refused(ErrorKind.DISABLED_API_KEY)
    return Authorized(record)


def is_model_allowed(model: str | None, patterns: Iterable[str] | None) -> bool:
    """Tell whether any glob of *patterns* matches the whole of *model*; None allows every model.

    `*` is any run of characters, `?` exactly one; all else stands for itself, in its own case.
    A request that names no model is not one that a list allows.
    """
    if patterns is None:
        return True
    if model is None:
        return False
    return any(compile_glob(pattern).match(model) is not None for pattern in patterns)
