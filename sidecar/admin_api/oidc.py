"""OpenID Connect: the authorization code flow with PKCE, and roles by claims of the ID token.

A state is stored by its digest, bound to the browser by a cookie, and deleted when its answer
comes, so that a callback can be neither replayed nor begun by another site.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from sidecar.admin_api.problems import RETRY_AFTER, Problem
from sidecar.admin_api.roles import Grant, GrantError, find_grant
from sidecar.admin_api.sign_in import TOKEN_ACTOR, digest
from sidecar.settings.administration import AdminSettings
from sidecar.storage.pool import Connection
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent

CALLBACK: Final = "/login/callback"
LEEWAY_SECONDS: Final = 120
"""By which the provider's clock may differ."""
_ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Of an ID token's signature: asymmetric ones alone, so that no public key passes for a secret."""
_SECONDS: Final = 10.0
_MAX_BYTES: Final = 1_000_000
_DISCOVERY: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Begun:
    """A login that was begun: the address to go to, and all that its answer is checked against."""

    url: str
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Person:
    """A person as the identity provider vouches for them."""

    name: str
    grants: tuple[Grant, ...]


async def begin(settings: AdminSettings, *, state: str, browser: str, next_path: str) -> Begun:
    """Return the address of the provider's login, and the details to store under *state*.

    Raises:
        Problem: 503, the provider gives no answer, or an incomplete one.
    """
    nonce, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    async with _client() as client:
        metadata = await _metadata(client, settings)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    query = {
        "response_type": "code",
        "client_id": settings.oidc_client_id,
        "redirect_uri": f"{settings.origin}{CALLBACK}",
        "scope": settings.oidc_scope,
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge.rstrip(b"=").decode(),  # RFC 7636
        "code_challenge_method": "S256",
    }
    endpoint = str(metadata["authorization_endpoint"])
    url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"
    details = {
        "nonce": nonce,
        "verifier": verifier,
        "browser": digest(browser).hex(),
        "next": next_path,
    }
    return Begun(url, details)


async def finish(
    settings: AdminSettings,
    details: Mapping[str, Any],
    answer: Mapping[str, str],
    *,
    browser: str,
) -> Mapping[str, Any]:
    """Return the claims in the provider's *answer* to a login with these *details*.

    Raises:
        Problem: 400 for an answer that is not good, 503.
    """
    if not hmac.compare_digest(details["browser"], digest(browser).hex()):
        raise _refused("another browser")
    if "error" in answer or "code" not in answer:
        raise _refused("the provider")
    if answer.get("iss", settings.oidc_issuer) != settings.oidc_issuer:  # RFC 9207
        raise _refused("another issuer")
    async with _client() as client:
        metadata = await _metadata(client, settings)
        tokens = await _exchange(client, settings, metadata, answer["code"], details["verifier"])
        keys = await _read(client, metadata["jwks_uri"])
        claims = _verified(tokens.get("id_token"), keys, settings, nonce=details["nonce"])
        if _values(claims, settings.oidc_roles_claim) is None and "userinfo_endpoint" in metadata:
            token = str(tokens.get("access_token"))
            more = await _read(client, metadata["userinfo_endpoint"], token=token)
            if more.get("sub") != claims["sub"]:
                raise _refused("the user info")
            claims = more | claims
    return claims


async def person_of(
    claims: Mapping[str, Any], settings: AdminSettings, connection: Connection
) -> Person:
    """Return the person of these claims, with their roles.

    Raises:
        Problem: 403, without any.
    """
    person = Person(_name(claims, settings), await _grants(claims, settings, connection))
    if not person.grants:
        get_logger().warning(LogEvent.ADMIN_LOGIN_REFUSED, reason="no role", person=person.name)
        raise Problem(
            HTTPStatus.FORBIDDEN,
            f"{person.name} has no role here",
            hint="EGRET_ADMIN__OIDC_ROLES maps values of the claim"
            f" `{settings.oidc_roles_claim}` to roles",
        )
    return person


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_SECONDS, follow_redirects=False, trust_env=False)


async def _exchange(
    client: httpx.AsyncClient,
    settings: AdminSettings,
    metadata: Mapping[str, Any],
    code: str,
    verifier: str,
) -> dict[str, Any]:
    """Return the tokens for a code; Egret authenticates as the provider asks for it."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": f"{settings.origin}{CALLBACK}",
        "client_id": settings.oidc_client_id or "",
        "code_verifier": verifier,
    }
    auth: httpx.Auth = httpx.Auth()  # none
    if settings.oidc_client_secret_file is not None:
        try:
            secret = settings.oidc_client_secret_file.read_text(encoding="utf-8").strip()
        except OSError:
            raise _away() from None
        methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if "client_secret_basic" in methods:  # both parts are encoded: RFC 6749 section 2.3.1
            auth = httpx.BasicAuth(quote(form["client_id"], safe=""), quote(secret, safe=""))
        else:
            form["client_secret"] = secret
    try:
        answer = await client.post(
            metadata["token_endpoint"],
            data=form,
            auth=auth,
            headers={"accept": "application/json"},
        )
    except httpx.HTTPError:
        raise _away() from None
    if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _away()
    if not answer.is_success:
        raise _refused("the code")
    return _json(answer)


async def _metadata(client: httpx.AsyncClient, settings: AdminSettings) -> Mapping[str, Any]:
    issuer = settings.oidc_issuer or ""
    metadata = await _read(client, issuer.rstrip("/") + _DISCOVERY)
    if metadata.get("issuer") != issuer:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the identity provider names another issuer",
            hint="write EGRET_ADMIN__OIDC_ISSUER exactly as the provider does",
        )
    for field in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        if not isinstance(metadata.get(field), str):
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the discovery document of the identity provider has no `{field}`",
                hint=f"look at {_DISCOVERY} below EGRET_ADMIN__OIDC_ISSUER",
            )
    return metadata


async def _read(
    client: httpx.AsyncClient, url: str, *, token: str | None = None
) -> dict[str, Any]:
    """Return a document of the provider, with *token* that of a person."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        answer = await client.get(url, headers=headers)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL):
        raise _away() from None
    return _json(answer)


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json() if len(answer.content) <= _MAX_BYTES else None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _away()
    return document


def _verified(
    token: object, keys: Mapping[str, Any], settings: AdminSettings, *, nonce: str
) -> dict[str, Any]:
    """Return the claims of an ID token that is the provider's, for Egret and for this login."""
    registry = jwt.JWTClaimsRegistry(
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": settings.oidc_issuer or ""},
        aud={"essential": True, "value": settings.oidc_client_id or ""},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": nonce},
    )
    usable: list[Any] = []
    try:
        for key in keys.get("keys", ()):
            # Others, as of new kinds, are ignored (RFC 7517 5).
            with contextlib.suppress(JoseError, ValueError, TypeError, KeyError):
                usable += KeySet.import_key_set({"keys": [key]}).keys
        decoded = jwt.decode(str(token), KeySet(usable), algorithms=_ALGORITHMS)
        registry.validate(decoded.claims)
    except (JoseError, ValueError, TypeError, KeyError):
        raise _refused("the ID token") from None
    claims: dict[str, Any] = decoded.claims
    party = claims.get("azp", settings.oidc_client_id)
    if party != settings.oidc_client_id or not isinstance(claims["sub"], str):
        raise _refused("the ID token")
    return claims


def _values(claims: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """Return the values of a claim, or of one within others: `realm_access.roles`."""
    found: object = claims
    for step in (name,) if name in claims else name.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    match found:
        case str():
            return (found,)
        case list():
            return tuple(one for one in found if isinstance(one, str))
        case _:
            return None


def _name(claims: Mapping[str, Any], settings: AdminSettings) -> str:
    """Return the person's name for the audit log; an address that is not verified is none.

    Nor is a name like those of tokens: people can choose some claims.
    """
    name = claims.get(settings.oidc_name_claim)
    if settings.oidc_name_claim == "email" and claims.get("email_verified") is False:
        name = None
    is_name = isinstance(name, str) and name.strip() and not name.startswith(TOKEN_ACTOR)
    return str(name if is_name else claims["sub"])


async def _grants(
    claims: Mapping[str, Any], settings: AdminSettings, connection: Connection
) -> tuple[Grant, ...]:
    granted: dict[Grant, None] = {}
    for value in _values(claims, settings.oidc_roles_claim) or ():
        for text in (settings.oidc_roles or {}).get(value, ()):
            try:
                granted[await find_grant(connection, text)] = None
            except GrantError:
                get_logger().warning(LogEvent.ADMIN_LOGIN_REFUSED, reason="grant", grant=text)
    return tuple(granted)


def _refused(reason: str) -> Problem:
    get_logger().warning(LogEvent.ADMIN_LOGIN_REFUSED, reason=reason)
    return Problem(
        HTTPStatus.BAD_REQUEST,
        f"the login was refused because of {reason}",
        hint="log in again",
    )


def _away() -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the identity provider gives no answer",
        hint="try again; `egret admin login-link` needs no provider",
        headers=RETRY_AFTER,
    )
