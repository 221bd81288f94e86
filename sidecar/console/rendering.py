"""Renders the console's pages from templates; everything in them is escaped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sidecar.admin.audit_log import AuditEntry
from sidecar.admin_api.access import Access
from sidecar.admin_api.objects import etag
from sidecar.admin_api.roles import Permission
from sidecar.policy.tester import PICTURES

STATIC: Final = Path(__file__).parent / "static"
MAX_SHOWN: Final = 200
"""Characters of a name or value in a list; names of models come from clients."""


@dataclass(frozen=True, slots=True)
class PageLink:
    """A page of the navigation; `letter` after `g` goes there, `permission` shows it."""

    path: str
    title: str
    letter: str
    permission: Permission


PAGES: Final = (
    PageLink("/", "Overview", "o", Permission.VIEW),
    PageLink("/usage", "Usage", "u", Permission.VIEW),
    PageLink("/keys", "Keys", "k", Permission.VIEW),
    PageLink("/organizations", "Organizations", "t", Permission.VIEW),
    PageLink("/limits", "Limits and budgets", "l", Permission.VIEW),
    PageLink("/policies", "Policies", "p", Permission.VIEW_INSTALLATION),
    PageLink("/prices", "Prices", "r", Permission.VIEW_INSTALLATION),
    PageLink("/findings", "Findings", "f", Permission.VIEW),
    PageLink("/alerts", "Alerts", "e", Permission.VIEW_INSTALLATION),
    PageLink("/tokens", "API tokens", "i", Permission.MANAGE_TOKENS),
    PageLink("/audit", "Audit log", "a", Permission.VIEW_AUDIT),
    PageLink("/doctor", "Doctor", "d", Permission.VIEW_INSTALLATION),
)


def visible(value: object, most: int = MAX_SHOWN) -> str:
    """Return text with control characters as pictures, cut after *most* characters."""
    text = str(value)
    return (text if len(text) <= most else f"{text[:most]} …").translate(PICTURES)


def money(value: Decimal | float) -> str:
    """Return US dollars, small amounts with four decimals or two digits that are not zero."""
    amount = Decimal(value)
    if not amount or abs(amount) >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.{max(4, 1 - amount.adjusted())}f}"


def differences(entry: AuditEntry) -> list[tuple[str, str, str]]:
    """Return the columns of a change that hold something, with their values as JSON."""
    before, after = entry.before or {}, entry.after or {}
    empty: tuple[object, ...] = (None, [], "")

    def written(side: Mapping[str, Any], name: str) -> str:
        return json.dumps(side[name], ensure_ascii=False) if name in side else ""

    return [
        (name, written(before, name), written(after, name))
        for name in sorted({*before, *after})
        if before.get(name) not in empty or after.get(name) not in empty
    ]


def seen(*values: object) -> str:
    """Return the tag of the values that a form was filled with, for its field `seen`."""
    return etag(values).strip('"')


@cache
def _static(name: str) -> str:
    """Return the address of a static file; a new content has a new address."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?{digest[:12]}"


_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("sidecar.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "visible": visible,
    "money": money,
    "count": lambda value: f"{value:,}",
    "utc": lambda at: at.astimezone(UTC).strftime("%Y-%m-%d %H:%M"),
    "differences": differences,
    "iso": lambda at: at.astimezone(UTC).isoformat(timespec="seconds"),
    "query": lambda values: urlencode({k: v for k, v in values.items() if v not in (None, "")}),
}
_ENVIRONMENT.globals |= {"static": _static, "seen": seen}


def render(
    request: Request, access: Access, template: str, *, status: int = 200, **values: Any
) -> HTMLResponse:
    """Render a page for the person of *access*."""
    path = request.url.path
    current = max(
        (one for one in PAGES if f"{path}/".startswith(f"{one.path.rstrip('/')}/")),
        key=lambda one: len(one.path),
    )
    pages = [
        {"path": one.path, "title": one.title, "letter": one.letter, "is_current": one is current}
        for one in PAGES
        if may_somewhere(access, one.permission)
    ]
    text = _ENVIRONMENT.get_template(template).render(
        access=access,
        Permission=Permission,
        pages=pages,
        csrf=lambda: csrf_field(access.csrf_token),
        may_somewhere=lambda permission: may_somewhere(access, permission),
        **values,
    )
    return HTMLResponse(text, status_code=status)


def render_plain(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a page that needs no session: the login page, a problem."""
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(**values), status_code=status)


def csrf_field(token: str) -> Markup:
    """Return the hidden field that every form has."""
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(token)


def may_somewhere(access: Access, permission: Permission) -> bool:
    """Return whether the person has *permission* for any owner at all."""
    within = access.within(permission)
    return within is None or bool(within)


def diff_lines(diff: str) -> Sequence[tuple[str, str]]:
    """Return each line of a unified diff with the class of its style."""
    styles = {"+": "plus", "-": "minus", "@": "at"}
    return [(styles.get(line[:1], ""), line) for line in diff.splitlines()]
