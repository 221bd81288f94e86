"""Pages of policies: list, show, edit with a difference, try a text, roll back, promote."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, Response

from sidecar.admin.finding_reports import finding_sums
from sidecar.admin.owners import ChangeRefusedError
from sidecar.admin.policy_changes import (
    MAX_VERSION,
    apply_plan,
    difference,
    document_with_mode,
    earlier_document,
    plan_change,
    read_policies,
    shown_policy,
    stored_policy,
)
from sidecar.admin.policy_plan import Change, PlannedPolicy
from sidecar.admin_api.access import Access, AccessRoute, read_form, requires
from sidecar.admin_api.objects import Paging
from sidecar.admin_api.policy_routes import list_policies, policy_changed
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.console.changes import see_change, watched_change
from sidecar.console.forms import chosen, read_fields
from sidecar.console.policy_trial import PolicyTrial, SampleKind, try_sample
from sidecar.console.rendering import diff_lines, render
from sidecar.domain.policy import Mode
from sidecar.policy.json_schema_file import policy_schema_text
from sidecar.policy.parse import PolicyDocument, PolicyDocumentError
from sidecar.policy.text import hides_values
from sidecar.storage.postgres_policies import StoredPolicy, policy_versions

MAX_NOTE_CHARACTERS: Final = 1_000
PAGE_SIZE: Final = 200
"""Policies, or versions of one."""
KINDS: Final = {one.value for one in SampleKind}
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

Checked = PlannedPolicy | tuple[str, ...]
"""The plan of an edited text, or its faults."""

router = APIRouter(route_class=AccessRoute, include_in_schema=False)
"""No policy can have a name with a plus sign, so `+editor` is the name of none."""
_View = Annotated[Access, requires(Permission.VIEW_INSTALLATION)]
_Manage = Annotated[Access, requires(Permission.MANAGE_POLICIES)]


@router.get("/policies")
async def listed(request: Request, access: _View, after: str = "") -> HTMLResponse:
    """List the policies in force and how many owners bind them."""
    return render(
        request,
        access,
        "policies.html",
        page=await list_policies(access, Paging(after or None, PAGE_SIZE)),
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
async def version_shown(
    request: Request,
    access: _View,
    name: str,
    version: Annotated[int, Path(ge=1, le=MAX_VERSION)],
) -> HTMLResponse:
    """Show an earlier version and its difference from the one before."""
    after = await _load(access, name, version)
    earlier = await policy_versions(access.connection, name, before=version, most=1)
    before = await _load(access, name, earlier[0].version) if earlier else None
    return render(
        request,
        access,
        "policy_version.html",
        name=name,
        version=version,
        text=shown_policy(after).document,
        diff=None if before is None else diff_lines(difference(before, after).diff),
        in_force=(await _load(access, name, None)).version == version,
        may_manage=access.allows(Permission.MANAGE_POLICIES),
    )


@router.get("/policies/{name}/edit")
async def edit(request: Request, access: _Manage, name: str) -> HTMLResponse:
    """Show the policy's own text in an editor."""
    stored = await _load(access, name, None)
    if hides_values(earlier_document(stored).policy):
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
    document = (await read_form(request)).get("document")
    text = document.replace("\r\n", "\n") if isinstance(document, str) else ""
    step = fields.get("step", "check")
    checked = await _checked(access, text, name)
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
    mode = chosen(fields, "mode", {one.value: one for one in Mode})
    stored = await _load(access, name, None)
    edited = document_with_mode(stored, guardrail, mode)
    verb = "promote" if mode is Mode.ENFORCE else "demote"
    return await _bring_into_force(
        access, edited, note=f"{verb} {guardrail}", made_from=stored.version
    )


@router.post("/policies/{name}/rollback")
async def roll_back(request: Request, access: _Manage, name: str) -> Response:
    """Bring an earlier version back as the next one."""
    earlier = await _load(access, name, _version_of(await read_fields(request)))
    document = earlier_document(earlier)
    return await _bring_into_force(access, document, note=f"rollback to version {earlier.version}")


async def _checked(access: Access, text: str, name: str | None) -> Checked:
    """Return the plan of *text*, one policy called *name* if that is given; or its faults."""
    try:
        documents = await read_policies(text)
        found = documents[0].policy.name
        if len(documents) > 1:
            return ("the text holds several policies: apply them with `egret policy apply`",)
        if name not in {None, found}:
            return (f"the text is of the policy {found}, not of {name}",)
        return (await plan_change(access.connection, documents))[0]
    except PolicyDocumentError as error:
        return tuple(str(fault) for fault in error.faults)
    except ChangeRefusedError as error:
        return (error.problem,)


async def _bring_into_force(
    access: Access, document: PolicyDocument, *, note: str, made_from: int | None = None
) -> Response:
    try:
        (planned,) = await plan_change(access.connection, [document])
    except PolicyDocumentError as error:
        raise Problem(409, str(error)) from None
    if made_from not in {None, planned.version}:
        raise policy_changed()
    if planned.change is Change.NONE:
        raise Problem(409, "that is in force already", hint="nothing was changed")
    return await _apply(access, planned, note)


async def _apply(access: Access, planned: PlannedPolicy, note: str | None) -> Response:
    reason = note[:MAX_NOTE_CHARACTERS] if note else None
    versions = await apply_plan(access.connection, [planned], note=reason)
    return see_change(f"/policies/{planned.name}", access.changed(policies=versions))


async def _load(access: Access, name: str, version: int | None) -> StoredPolicy:
    stored = await stored_policy(access.connection, name, version)
    if stored is None:
        raise Problem(404, "there is no such policy, or no such version of it")
    return stored


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
    policy = earlier_document(stored).policy
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
        text=shown_policy(stored).document,
        versions=await policy_versions(connection, name, most=PAGE_SIZE),
        shadow=shadow,
        shadow_days=SHADOW_SPAN.days,
        trial=trial,
        fields=fields or {},
        watched=watched_change(request),
        may_edit=access.allows(Permission.MANAGE_POLICIES) and not hides_values(policy),
        may_manage=access.allows(Permission.MANAGE_POLICIES),
    )
