"""Finds the one key a request presents."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.authorization.api_key import ApiKey, parse
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import CREDENTIAL_HEADERS, HeaderName, Headers

_BLANK = b" \t"


@dataclass(frozen=True, slots=True)
class CredentialFault:
    """Why a request presents no key that could be looked up."""

    kind: ErrorKind


def present(headers: Headers) -> ApiKey | CredentialFault:
    """Return the key that *headers* present.

    A client may send the same key in two headers (some do, to suit two APIs at once). Whatever
    two parsers could read differently presents nothing: two keys, a header that comes twice, or
    one that a proxy may have joined with a comma (RFC 9110 section 5.3).
    """
    presented = [field for field in headers.fields if field[0] in CREDENTIAL_HEADERS]
    names = {name for name, _ in presented}
    if len(names) < len(presented) or any(b"," in value for _, value in presented):
        return CredentialFault(ErrorKind.CONFLICTING_CREDENTIALS)
    credentials = [_credential(name, value) for name, value in presented]
    if not credentials:
        return CredentialFault(ErrorKind.MISSING_API_KEY)
    credential = credentials[0]
    if any(other != credential for other in credentials):
        return CredentialFault(ErrorKind.CONFLICTING_CREDENTIALS)
    if credential is None:
        return CredentialFault(ErrorKind.INVALID_API_KEY)
    if not credential:
        # `Bearer ` and nothing: a client whose environment variable was not set.
        return CredentialFault(ErrorKind.MISSING_API_KEY)
    return parse(credential) or CredentialFault(ErrorKind.INVALID_API_KEY)


def _credential(name: str, value: bytes) -> bytes | None:
    """Return what should be the key, or None for a scheme other than Bearer, or none at all."""
    value = value.strip(_BLANK)
    if name != HeaderName.AUTHORIZATION or not value:
        return value
    scheme, _, credential = value.partition(b" ")
    # RFC 9110 section 11.1: the scheme's case means nothing.
    return credential.strip(_BLANK) if scheme.lower() == b"bearer" else None
