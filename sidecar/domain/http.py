"""HTTP header fields as Envoy sends them, their names, and changes to requests and answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final


class HeaderName:
    """Header names that Egret reads or writes, in the lower case that Envoy uses."""

    METHOD: Final = ":method"
    STATUS: Final = ":status"
    PATH: Final = ":path"
    UPGRADE: Final = "upgrade"
    AUTHORIZATION: Final = "authorization"
    X_API_KEY: Final = "x-api-key"
    API_KEY: Final = "api-key"
    X_GOOG_API_KEY: Final = "x-goog-api-key"
    X_GOOG_API_CLIENT: Final = "x-goog-api-client"
    ACCEPT_ENCODING: Final = "accept-encoding"
    CONTENT_ENCODING: Final = "content-encoding"
    CONTENT_LENGTH: Final = "content-length"
    CONTENT_TYPE: Final = "content-type"
    AMZN_ERROR_TYPE: Final = "x-amzn-errortype"
    RETRY_AFTER: Final = "retry-after"
    REQUEST_ID: Final = "x-request-id"
    ANTHROPIC_REQUEST_ID: Final = "request-id"
    AMZN_REQUEST_ID: Final = "x-amzn-requestid"
    ANTHROPIC_VERSION: Final = "anthropic-version"
    EGRET_MODEL: Final = "x-egret-model"
    EGRET_REQUEST_ID: Final = "x-egret-request-id"
    RESPONSE_TIME: Final = "x-response-time"
    SERVER_TIMING: Final = "server-timing"
    SHOULD_RETRY: Final = "x-should-retry"
    LIMITS: Final = "x-egret-limits"
    BUDGET: Final = "x-egret-budget"


CREDENTIAL_HEADERS: Final = (
    HeaderName.AUTHORIZATION,
    HeaderName.X_API_KEY,
    HeaderName.API_KEY,
    HeaderName.X_GOOG_API_KEY,
)
"""Headers that may carry a client's key. All are removed before a request leaves."""

CREDENTIAL_PARAMETERS: Final = frozenset(
    {
        *("key", "access_token", "oauth_token", "bearer_token"),  # Google's system parameters
        *("password", "passwd"),
        *("api-key", "api_key", "apikey", "subscription-key"),  # Azure's gateways and others
        "ocp-apim-subscription-key",
        *("x-amz-credential", "x-amz-signature", "x-amz-security-token"),  # AWS's signed URLs
        *("x-goog-credential", "x-goog-signature"),  # Google's
    }
)
"""Query parameters that carry a credential in some API, in lower case. None is accepted."""

OVERRIDING_PARAMETERS: Final = frozenset({"ct", "httpmethod", "httpheaders", "callback", "fields"})
"""Google's system parameters, in lower case, that make it read another type of body, headers or
method than are sent, wrap its answer into a script, or leave the token counts out of it.
The provider would do something else than Egret checked."""

ANSWER_FORMS: Final = frozenset({"json", "sse", "media"})
"""Values of Google's `alt`; with `proto` the answer is binary, and its tokens are not counted."""

OPTIONAL_PARAMETER_SIGIL: Final = "$"
"""Google takes each of its system parameters with or without it
(https://cloud.google.com/apis/docs/system-parameters)."""

EGRET_HEADER_PREFIX: Final = "x-egret-"
"""Egret's own: a client's copy is stripped, so that no service behind it is deceived."""


NO_ENCODING: Final = frozenset({b"identity", b""})
"""Values of `content-encoding`, in lower case, that leave a body as it is."""

UTF8_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})
"""Charsets, in lower case, of bodies that may be read as UTF-8."""

HeaderFields = tuple[tuple[str, bytes], ...]
"""Ordered, repeatable header fields with lower-case names and raw byte values."""


@dataclass(frozen=True, slots=True, init=False)
class Headers:
    """The header fields of a request or an answer; `by_name` has the first value of each name."""

    fields: HeaderFields
    by_name: dict[str, bytes] = field(init=False, repr=False, compare=False)

    def __init__(self, fields: HeaderFields = ()) -> None:
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "by_name", dict(reversed(fields)))

    def all(self, name: str) -> tuple[bytes, ...]:
        """Return every value of *name* in order; a repeated header is not folded."""
        value = self.by_name.get(name)
        if value is None:
            return ()
        if len(self.by_name) == len(self.fields):
            return (value,)  # no name is repeated
        return tuple([value for key, value in self.fields if key == name])

    def text(self, name: str) -> str:
        """Return the first value of *name* as text, or an empty string.

        Latin-1 keeps each byte (RFC 9110 section 5.5), so that nothing is lost or raises.
        """
        return self.by_name.get(name, b"").decode("latin-1")


@dataclass(frozen=True, slots=True)
class HeaderMutation:
    """Changes to a set of headers: remove first, then overwrite.

    Envoy applies removals before writes, and ignores `append_action` (1.40): a write overwrites.
    """

    set_headers: HeaderFields = ()
    remove_headers: tuple[str, ...] = ()


NO_CHANGE: Final = HeaderMutation()
"""Headers stay as they are."""


def is_other_charset(parameter: str) -> bool:
    """Return whether a parameter of a media type, in lower case, states no charset of UTF-8.

    Servers that read headers as e-mail has them also know `charset*` and `charset*0*`, of any
    number and written in any way (RFC 2231 sections 3 and 4).
    """
    name, _, value = parameter.partition("=")
    is_charset = name.partition("*")[0].strip() == "charset"
    return is_charset and value.strip().strip('"') not in UTF8_CHARSETS


def content_length(body: bytes) -> tuple[str, bytes]:
    """Return the header with the length of a new *body*.

    BUFFERED: Envoy keeps the old one, and refuses a body of another length. Streamed: a kept one
    would smuggle the rest of the body as a new request, so the old one is removed as well. Envoy
    writes the new one only where `allow_content_length_header` is set in its filter; the removal
    counts everywhere, and leaves the message chunked.
    """
    return HeaderName.CONTENT_LENGTH, str(len(body)).encode()


MetadataFields = bytes
"""Dynamic metadata of namespace `egret`: encoded fields of a `Struct`, in any number and order."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of Egret: status, headers, body in the client's dialect.

    `details` is short and stable (no user data); Envoy logs it as response code details.
    """

    status: int
    headers: tuple[tuple[str, bytes], ...]
    body: bytes
    details: str
    metadata: MetadataFields = b""
