"""The one answer to «may this request go on, and changed how?»."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.domain.errors import ClientError
from sidecar.domain.finding import Finding


@dataclass(frozen=True, slots=True)
class Allow:
    """Forward the request as it is."""


@dataclass(frozen=True, slots=True)
class Redact:
    """Forward the request with these spans replaced."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Deny:
    """Answer the client from here."""

    error: ClientError


Decision = Allow | Redact | Deny
