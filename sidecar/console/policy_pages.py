"""Pages of policies: list, show, edit with a difference, try a text, roll back, promote."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from sidecar.admin.finding_reports import finding_sums
from sidecar.admin.policy_plan import Change, PlannedPolicy
from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.console.changes import see_change, watched_change
from sidecar.console.forms import read_fields
from sidecar.console.policy_check import (
    Checked,
    PolicyTrial,
    SampleKind,
    check_document,
    edited_mode,
    stored_document,
    try_sample,
)
from sidecar.console.rendering import diff_lines, render
from sidecar.domain.policy import Mode
from sidecar.policy.json_schema_file import policy_schema_text
from sidecar.policy.parse import DEFAULT_POLICY_NAME, default_policy_text, parse_policies
from sidecar.policy.text import hides_values, render_policy
from sidecar.storage.postgres_policies import (
    PolicyChangedError,
    StoredPolicy,
    apply_policy,
    load_policy,
    policy_uses,
    policy_versions,
)

MAX_NOTE_CHARACTERS: Final = 1_000
KINDS: Final = {one.value for one in SampleKind}
MAX_VERSION: Final = 2**31 - 1
"""Of a column of the database."""
SHADOW_SPAN: Final = timedelta(days=7)
NEW: Final = """\
name: {name}
# Content that no guardrail can read: images, audio, files.
unscanned: block
guardrails:
  - name: secrets
    type: secrets
    action: block
  - name: personal-data
    type: pii
    action: redact
"""
"""The text that an editor begins with."""

router = APIRouter(route_class=AccessRoute, include_in_schema=False)
"""No policy can have a name with a plus sign, so `+editor` is the name of none."""
_View = Annotated[Access, requires(Permission.VIEW_INSTALLATION)]
_Manage = Annotated[Access, requires(Permission.MANAGE_POLICIES)]


@router.get("/policies")
async def listed(request: Request, access: _View) -> HTMLResponse:
    """List the policies in force and how many owners bind them."""
    return render(
        request,
        access,
        "policies.html",
        policies=await policy_uses(access.connection),
        may_manage=access.allows(Permission.MANAGE_POLICIES),
    )


@router.get("/policies/+schema.json")
async def schema(_: Annotated[Access, requires(None)]) -> Response:
    """Return the JSON Schema of a policy, for the editor's completion."""
    return Response(policy_schema_text(), media_type="application/json")


@router.get("/policies/+editor")
async def new(request: Request, access: _Manage, name: str = "") -> HTMLResponse:
    """Show the editor with a policy to begin with."""
    return _editor(
        request, access, name=None, version=0, text=NEW.format(name=name or "my-policy")
    )


@router.get("/policies/{name}")
async def shown(request: Request, access: _View, name: str) -> HTMLResponse:
    """Show the policy in force: its text, its guardrails and its versions."""
    return await _page(request, access, name)


@router.get("/policies/{name}/versions/{version}")
async def version_shown(request: Request, access: _View, name: str, version: int) -> HTMLResponse:
    """Show an earlier version and its difference from the one before."""
    after = await _load(access, name, version)
    text = _canonical(after)
    before = "" if version == 1 else _canonical(await _load(access, name, version - 1))
    lines = difflib.unified_diff(
        before.splitlines(),
        text.splitlines(),
        f"{name} version {version - 1}",
        f"{name} version {version}",
        lineterm="",
    )
    return render(
        request,
        access,
        "policy_version.html",
        name=name,
        version=version,
        text=text,
        diff=diff_lines("\n".join(lines)),
        in_force=(await _load(access, name, None)).version == version,
        may_manage=access.allows(Permission.MANAGE_POLICIES),
    )


@router.get("/policies/{name}/edit")
async def edit(request: Request, access: _Manage, name: str) -> HTMLResponse:
    """Show the policy's own text in an editor."""
    stored = await _load(access, name, None)
    policies = parse_policies(stored.document, version=stored.version, expressions="trust")
    if hides_values(policies[0]):
        raise Problem(
            409,
            "the policy holds credentials of a guardrail's server, which no page shows",
            hint="edit the file that it comes from, and run `egret policy apply`",
        )
    return _editor(request, access, name=name, version=stored.version, text=stored.document)


@router.post("/policies/+editor")
async def check(request: Request, access: _Manage) -> Response:
    """Check an edited text, then show its difference, or apply it, or judge a text by it."""
    fields = await read_fields(request)
    name, version = fields.get("policy") or None, _version_of(fields) or 0
    document = (await request.form()).get("document")
    text = document.replace("\r\n", "\n") if isinstance(document, str) else ""
    step = fields.get("step", "check")
    checked = await check_document(access.connection, text, name=name, together=step != "try")
    if step == "apply" and isinstance(checked, PlannedPolicy):
        if checked.change is Change.NONE:
            checked = ("the text means the same as the policy in force: nothing to apply",)
        elif checked.version == version:
            return await _apply(access, checked, fields.get("note"))
    trial = None
    if step == "try" and isinstance(checked, PlannedPolicy):
        trial = await try_sample(checked.document, fields.get("sample", ""), _kind(fields))
    return _editor(
        request, access, name=name, version=version, text=text, fields=fields, checked=checked,
        trial=trial,
    )  # fmt: skip


@router.post("/policies/{name}/try")
async def try_in_force(request: Request, access: _View, name: str) -> HTMLResponse:
    """Judge a text by the policy in force; it is neither stored nor sent anywhere."""
    fields = await read_fields(request)
    stored = await _load(access, name, None)
    trial = await try_sample(stored.document, fields.get("sample", ""), _kind(fields))
    return await _page(request, access, name, trial=trial, fields=fields)


@router.post("/policies/{name}/mode")
async def change_mode(request: Request, access: _Manage, name: str) -> Response:
    """Promote a guardrail from shadow, or put it there."""
    fields = await read_fields(request)
    guardrail = fields.get("guardrail", "")
    mode = Mode.ENFORCE if fields.get("mode") == Mode.ENFORCE.value else Mode.SHADOW
    stored = await _load(access, name, None)
    text = edited_mode(stored_document(stored), guardrail, mode)
    verb = "promote" if mode is Mode.ENFORCE else "demote"
    return await _bring_into_force(access, name, text, note=f"{verb} {guardrail}")


@router.post("/policies/{name}/rollback")
async def roll_back(request: Request, access: _Manage, name: str) -> Response:
    """Bring an earlier version back as the next one."""
    earlier = await _load(access, name, _version_of(await read_fields(request)))
    return await _bring_into_force(
        access, name, earlier.document, note=f"rollback to version {earlier.version}"
    )


async def _bring_into_force(access: Access, name: str, text: str, *, note: str) -> Response:
    checked = await check_document(access.connection, text, name=name)
    if not isinstance(checked, PlannedPolicy):
        raise Problem(409, "; ".join(checked))
    if checked.change is Change.NONE:
        raise Problem(409, "that is in force already", hint="nothing was changed")
    return await _apply(access, checked, note)


async def _apply(access: Access, planned: PlannedPolicy, note: str | None) -> Response:
    try:
        async with access.connection.transaction():
            applied = await apply_policy(
                access.connection,
                planned.name,
                document=planned.document,
                expected_version=planned.version,
                note=note[:MAX_NOTE_CHARACTERS] if note else None,
            )
    except PolicyChangedError as error:
        raise Problem(409, str(error), hint="look at the new difference") from None
    barrier = access.changed(policies={applied.name: applied.version})
    return see_change(f"/policies/{applied.name}", barrier)


async def _load(access: Access, name: str, version: int | None) -> StoredPolicy:
    stored = await load_policy(access.connection, name, version=version)
    if stored is None and name == DEFAULT_POLICY_NAME and version in {None, 0}:
        return StoredPolicy(name, 0, default_policy_text())
    if stored is None:
        raise Problem(404, "there is no such policy, or no such version of it")
    return stored


def _canonical(stored: StoredPolicy) -> str:
    """Return the text with every default written out, and credentials masked."""
    return render_policy(stored_document(stored).policy)


def _version_of(fields: Mapping[str, str]) -> int | None:
    text = fields.get("version", "")
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_VERSION))
    return min(int(text), MAX_VERSION) if is_number else None


def _kind(fields: Mapping[str, str]) -> SampleKind:
    given = fields.get("kind", "")
    return SampleKind(given) if given in KINDS else SampleKind.MESSAGE


def _editor(
    request: Request,
    access: Access,
    *,
    name: str | None,
    version: int,
    text: str,
    fields: Mapping[str, str] | None = None,
    checked: Checked | None = None,
    trial: PolicyTrial | None = None,
) -> HTMLResponse:
    planned = checked if isinstance(checked, PlannedPolicy) else None
    return render(
        request,
        access,
        "policy_edit.html",
        name=name,
        # Once a difference was shown it is the base of what is applied.
        version=planned.version if planned else version,
        moved=planned is not None and planned.version != version,
        text=text,
        fields=fields or {},
        planned=planned,
        diff=diff_lines(planned.diff) if planned else (),
        faults=checked if isinstance(checked, tuple) else (),
        trial=trial,
    )


async def _page(
    request: Request,
    access: Access,
    name: str,
    *,
    trial: PolicyTrial | None = None,
    fields: Mapping[str, str] | None = None,
) -> HTMLResponse:
    connection = access.connection
    stored = await _load(access, name, None)
    policy = stored_document(stored).policy
    since = datetime.now(UTC) - SHADOW_SPAN
    counted = await finding_sums(connection, since=since, policy=name, limit=500)
    shadow: dict[str, dict[str, int]] = {}
    for one in counted:
        if one.mode == Mode.SHADOW.value:
            verdicts = shadow.setdefault(one.guardrail, {})
            verdicts[one.verdict] = verdicts.get(one.verdict, 0) + one.requests
    return render(
        request,
        access,
        "policy.html",
        name=name,
        stored=stored,
        policy=policy,
        text=render_policy(policy),
        versions=await policy_versions(connection, name),
        shadow=shadow,
        shadow_days=SHADOW_SPAN.days,
        trial=trial,
        fields=fields or {},
        watched=watched_change(request),
        may_edit=access.allows(Permission.MANAGE_POLICIES) and not hides_values(policy),
        may_manage=access.allows(Permission.MANAGE_POLICIES),
    )
