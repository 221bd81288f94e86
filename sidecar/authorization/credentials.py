"""Finds the one key a request presents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from sidecar.authorization.api_key import ApiKey, parse
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import (
    CREDENTIAL_HEADERS,
    CREDENTIAL_PARAMETERS,
    OPTIONAL_PARAMETER_SIGIL,
    OVERRIDING_PARAMETERS,
    HeaderName,
    Headers,
)

_BLANK = b" \t"

_PARAMETER: Final = re.compile("[&;]")
"""Some servers still take a semicolon between parameters (HTML 4.01 appendix B.2.2)."""

MAX_PARAMETERS: Final = 64
MAX_NAMES_LENGTH: Final = 2048
"""Far more than any API has. This is done before a key is known: Envoy takes 60 KB of headers,
and to decode as many names would cost anybody's worker twenty milliseconds."""


@dataclass(frozen=True, slots=True)
class CredentialFault:
    """Why a request presents no key that could be looked up."""

    kind: ErrorKind


def present(headers: Headers) -> ApiKey | CredentialFault:
    """Return the key that *headers* present.

    A client may send the same key in two headers (some do, to suit two APIs at once). Whatever
    two parsers could read differently presents nothing: two keys, a header that comes twice, or
    one that a proxy may have joined with a comma (RFC 9110 section 5.3). A credential in the
    query is never believed, whatever the headers say: the provider would be sent it, and
    whoever logs paths would keep it. More parameters than are looked through count as one. Nor
    does a key go with a query that overrides what the headers say: we would judge another request
    than the provider reads.
    """
    query = headers.text(HeaderName.PATH).partition("?")[2]
    if query and (fault := _fault_of_query(query)):
        return fault
    presented = [field for field in headers.fields if field[0] in CREDENTIAL_HEADERS]
    names = {name for name, _ in presented}
    if len(names) < len(presented) or any(b"," in value for _, value in presented):
        return CredentialFault(ErrorKind.CONFLICTING_CREDENTIALS)
    credentials = [_credential(name, value) for name, value in presented]
    if not credentials:
        return CredentialFault(ErrorKind.MISSING_API_KEY)
    if any(other != credentials[0] for other in credentials):
        return CredentialFault(ErrorKind.CONFLICTING_CREDENTIALS)
    return _key(credentials[0])


def _key(credential: bytes | None) -> ApiKey | CredentialFault:
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


def _fault_of_query(query: str) -> CredentialFault | None:
    parameters = _PARAMETER.split(query, MAX_PARAMETERS)
    raw = [parameter.partition("=")[0] for parameter in parameters]
    if len(raw) > MAX_PARAMETERS or sum(map(len, raw)) > MAX_NAMES_LENGTH:
        return CredentialFault(ErrorKind.CREDENTIAL_IN_QUERY)  # any of the rest may be one
    names = {
        unquote_plus(name).strip().casefold().removeprefix(OPTIONAL_PARAMETER_SIGIL)
        for name in raw
    }
    if not names.isdisjoint(CREDENTIAL_PARAMETERS):
        return CredentialFault(ErrorKind.CREDENTIAL_IN_QUERY)
    if not names.isdisjoint(OVERRIDING_PARAMETERS):
        return CredentialFault(ErrorKind.UNSCANNED_CONTENT)
    return None
