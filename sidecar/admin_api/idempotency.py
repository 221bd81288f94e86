"""Idempotency keys: a write that is sent again gets the answer of the first, and changes nothing.

The key is claimed in the transaction of the write, so a write that failed can be sent again, and
of two at once the second waits for the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sidecar.admin_api.problems import Problem
from sidecar.storage.pool import Connection

HEADER: Final = "idempotency-key"
REPLAYED_HEADER: Final = "idempotent-replayed"
MAX_KEY_CHARACTERS: Final = 200
KEPT_HOURS: Final = 24

_CLAIM: Final = """
INSERT INTO admin_idempotency_keys (key_sha256, request_sha256) VALUES ($1, $2)
ON CONFLICT (key_sha256) DO NOTHING RETURNING true
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that workers are notified of: ids of keys, and versions of policies."""

    keys: Sequence[str]
    policies: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The first answer of a write, and its change, of which the second waits for workers too."""

    response: Response
    change: Change | None


async def begin(connection: Connection, request: Request, person: str) -> KeptAnswer | None:
    """Claim the key of a write, if it has one; return the answer that it had the first time.

    Raises:
        Problem: the key was used for another request, or its answer cannot be shown again.
    """
    name = _name(request, person)
    if name is None:
        return None
    said = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    said.update(await request.body())
    if await connection.fetchval(_CLAIM, name, said.digest()):
        return None
    row = await connection.fetchrow(
        "SELECT request_sha256, status, body, etag, change FROM admin_idempotency_keys"
        " WHERE key_sha256 = $1",
        name,
    )
    if row is None or row["request_sha256"] != said.digest():
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "the idempotency key was used for another request",
            hint="use a new one for each change",
        )
    if row["body"] is None:
        raise Problem(
            HTTPStatus.CONFLICT,
            "this was done before; its answer had a secret, which is shown once",
            hint="rotate the key, or revoke the token and create another",
        )
    headers = {REPLAYED_HEADER: "true"}
    if row["etag"] is not None:
        headers["etag"] = row["etag"]
    response = Response(row["body"], row["status"], headers=headers, media_type="application/json")
    change = row["change"]
    return KeptAnswer(response, None if change is None else Change(**orjson.loads(change)))


async def end(
    connection: Connection,
    request: Request,
    response: Response,
    person: str,
    *,
    change: Change | None,
    shows_secret: bool,
) -> None:
    """Store the answer of a write with a key, unless it shows a secret."""
    name = _name(request, person)
    if name is None:
        return
    body = None if shows_secret else bytes(response.body).decode()
    await connection.execute(
        "UPDATE admin_idempotency_keys SET status = $2, body = $3, etag = $4, change = $5"
        " WHERE key_sha256 = $1",
        name,
        response.status_code,
        body,
        response.headers.get("etag"),
        None if change is None else orjson.dumps(asdict(change)).decode(),
    )


async def delete_expired(connection: Connection) -> None:
    """Delete keys that are older than `KEPT_HOURS`."""
    await connection.execute(
        "DELETE FROM admin_idempotency_keys WHERE created_at < now() - make_interval(hours => $1)",
        KEPT_HOURS,
    )


def _name(request: Request, person: str) -> bytes | None:
    key = request.headers.get(HEADER)
    if key is None or request.method in {"GET", "HEAD"}:
        return None
    if not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise Problem(
            HTTPStatus.BAD_REQUEST, f"an idempotency key has 1 to {MAX_KEY_CHARACTERS} characters"
        )
    return hashlib.sha256(f"{person}\n{key}".encode()).digest()
