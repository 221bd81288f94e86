"""What tells an email address from code and names of files with an at sign."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sidecar.guardrails.rules.rule import Span

_NO_TOP_LEVEL_DOMAIN: Final = re.compile(
    # Suffixes of files (`logo@2x.png`) and of systemd's units (`getty@tty1.service`), none of
    # them in IANA's root zone; and camel case as long as no domain is ever written in.
    rb"(?i:png|jpe?g|gif|svg|webp|bmp|ico|pdf|css|js|json|ts|tsx|jsx|html?|xml|ya?ml|txt|php"
    rb"|service|socket|timer|mount)|(?=.{8})[a-z]{2,}[A-Z][a-z]+(?:[A-Z][a-z]*)*"
)
_KOTLIN_LABEL: Final = re.compile(rb"(?:this|super)@[A-Z]")


def address(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Take an address up to its last label that may be a top-level domain."""
    found = content[start:end]
    if _KOTLIN_LABEL.match(found) or _is_remote(content, start, end):
        return ()
    at = found.rindex(b"@")
    while _NO_TOP_LEVEL_DOMAIN.fullmatch(found, found.rindex(b".") + 1):
        found = found[: found.rindex(b".")]
        if b"." not in found[at:] or not found[-1:].isalpha():
            return ()
    return ((start, start + len(found)),)


def _is_remote(content: bytes, start: int, end: int) -> bool:
    """Tell `git@github.com:org/repo`: nobody's address, and where a repository is."""
    return (
        content[start : start + len(b"git@")] == b"git@"
        and content[end : end + 1] == b":"
        and not content[end + 1 : end + 2].isspace()
    )
