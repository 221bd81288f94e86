"""Routes of policies, which belong to the installation: read, change, bring back, try a text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from sidecar.admin import policy_changes as changes
from sidecar.admin.policy_changes import MAX_VERSION, Difference, ShownPolicy
from sidecar.admin.policy_plan import Change, PlannedPolicy
from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.objects import ApiModel, Body, ChosenPage, Name, Page, check_tag
from sidecar.admin_api.problems import Problem, not_found
from sidecar.admin_api.roles import Permission
from sidecar.domain.finding import Verdict
from sidecar.domain.policy import Action, Mode, Stage
from sidecar.domain.subject import Subject, TextPart
from sidecar.pipeline.decide import decide
from sidecar.policy.json_schema_file import policy_schema_text
from sidecar.policy.parse import PolicyDocument
from sidecar.policy.policy_lint import no_longer_hold
from sidecar.policy.tester import TextRole, run_policy_test
from sidecar.storage.postgres_policies import (
    PolicyUse,
    PolicyVersion,
    StoredPolicy,
    policy_uses,
    policy_versions,
)

router = APIRouter(route_class=AccessRoute, tags=["policies"])

SCHEMA_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/schema+json": {"schema": {"type": "object"}}}}
}
"""The answer of routes that return a JSON Schema."""

MAX_DOCUMENT: Final = 1_000_000
MAX_TEXT: Final = 100_000
MAX_NOTE: Final = 1_000

DryRun = Annotated[bool, Query(description="Return the change that would be made; make none.")]
Document = Annotated[str, Field(max_length=MAX_DOCUMENT, description="YAML; `---` between two.")]
Note = Annotated[str, Field(min_length=1, max_length=MAX_NOTE)]


class PolicyText(Body):
    """Policies to apply, and the reason, which is kept with their versions."""

    documents: Document
    note: Note | None = None


class Rollback(Body):
    """The version to bring back as the next one."""

    to: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    note: Note | None = None


class ModeChange(Body):
    """Whether a guardrail acts, or only reports."""

    mode: Mode
    note: Note | None = None


class Trial(Body):
    """A text to judge by a policy of the store, or by `document`; it is stored nowhere."""

    policy: Name | None = None
    document: Document | None = None
    text: Annotated[str, Field(max_length=MAX_TEXT)]
    role: TextRole = TextRole.USER
    is_answer: bool = False


class PolicyChange(ApiModel):
    """The planned change of one policy; `lost` warns of protection that would end."""

    name: str
    change: Change
    from_version: int
    to_version: int
    diff: str
    lost: str | None
    lost_guardrails: tuple[str, ...]


class GuardrailVerdict(ApiModel):
    """One guardrail's result; `start` and `end` of its findings count characters of the text."""

    name: str
    type: str
    action: Action
    mode: Mode
    verdict: Verdict
    score: float | None
    microseconds: float
    findings: list[dict[str, Any]]


class TrialResult(ApiModel):
    """The decision on a text; guardrails that ask a server are not asked."""

    policy: str
    decision: str
    pass_microseconds: float
    guardrails: list[GuardrailVerdict]
    not_asked: list[str]


@router.get("/policies")
async def list_policies(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    paging: ChosenPage,
) -> list[PolicyUse] | Page[PolicyUse]:
    """List the policies in force, and how many organizations, teams and keys bind each."""
    found = await policy_uses(access.connection, after=paging.after, most=paging.rows)
    return paging.answer(found, lambda one: one.name)


@router.get("/policy-schema", response_class=Response, responses=SCHEMA_ANSWER)
async def show_policy_schema(access: Annotated[Access, requires(None)]) -> Response:  # noqa: ARG001
    """Return the JSON Schema of a policy, for an editor's completion."""
    return Response(policy_schema_text(), media_type="application/schema+json")


@router.get("/policies/{policy}")
async def show_policy(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    policy: str,
    response: Response,
    version: Annotated[int | None, Query(ge=1, le=MAX_VERSION)] = None,
) -> ShownPolicy:
    """Show a policy in force, or an earlier version."""
    found = await stored_or_404(access, policy, version)
    response.headers["etag"] = version_tag(found)
    return changes.shown_policy(found)


@router.get("/policies/{policy}/versions")
async def list_versions(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    policy: str,
    paging: ChosenPage,
) -> list[PolicyVersion] | Page[PolicyVersion]:
    """List the versions of a policy, the latest first: when each came, by whom, and why."""
    before = paging.place(lambda after: max(0, min(int(after), MAX_VERSION)))
    found = await policy_versions(access.connection, policy, before=before, most=paging.rows)
    if not found and before is None:
        raise not_found("policy")
    return paging.answer(found, lambda one: str(one.version))


@router.get("/policies/{policy}/diff")
async def show_difference(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    policy: str,
    before: Annotated[int, Query(ge=1, le=MAX_VERSION, alias="from")],
    after: Annotated[int | None, Query(ge=1, le=MAX_VERSION, alias="to")] = None,
) -> Difference:
    """Show how two versions differ in meaning; by default from one to that in force."""
    old = await stored_or_404(access, policy, before)
    new = await stored_or_404(access, policy, after)
    return changes.difference(old, new)


@router.post("/policies/plan")
async def plan_policies(
    access: Annotated[Access, requires(Permission.MANAGE_POLICIES)], body: PolicyText
) -> list[PolicyChange]:
    """Check policies as if to apply them, and show the differences; change nothing."""
    documents = await changes.read_policies(body.documents)
    return _changes(await changes.plan_change(access.connection, documents))


@router.post("/policies/apply")
async def apply_policies(
    access: Annotated[Access, requires(Permission.MANAGE_POLICIES)],
    body: PolicyText,
    request: Request,
    dry_run: DryRun = False,
) -> list[PolicyChange]:
    """Bring policies into force, all or nothing. `If-Match` lists the tags of all of them."""
    documents = await changes.read_policies(body.documents)
    return await _apply(access, request, documents, body.note, dry_run=dry_run)


@router.post("/policies/{policy}/rollback")
async def roll_back(
    access: Annotated[Access, requires(Permission.MANAGE_POLICIES)],
    policy: str,
    body: Rollback,
    request: Request,
    dry_run: DryRun = False,
) -> list[PolicyChange]:
    """Bring an earlier version back as the next one."""
    earlier = await stored_or_404(access, policy, body.to)
    note = body.note or f"rollback to version {body.to}"
    document = changes.earlier_document(earlier)
    return await _apply(access, request, [document], note, dry_run=dry_run)


@router.put("/policies/{policy}/guardrails/{guardrail}/mode")
async def set_mode(
    access: Annotated[Access, requires(Permission.MANAGE_POLICIES)],
    policy: str,
    guardrail: str,
    body: ModeChange,
    request: Request,
    dry_run: DryRun = False,
) -> list[PolicyChange]:
    """Promote a guardrail from shadow to enforce, or demote it."""
    stored = await stored_or_404(access, policy, None)
    document = changes.document_with_mode(stored, guardrail, body.mode)
    verb = "promote" if body.mode is Mode.ENFORCE else "demote"
    note = body.note or f"{verb} {guardrail}"
    return await _apply(
        access, request, [document], note, dry_run=dry_run, made_from=stored.version
    )


@router.post("/policies/try")
async def try_text(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)], body: Trial
) -> TrialResult:
    """Judge a text; routes, models, roll-outs and exceptions do not count."""
    return await judge_text(access, body)


async def judge_text(access: Access, trial: Trial) -> TrialResult:
    """Judge the text of *trial*, in a thread: a costly policy must not hold other requests up."""
    if (trial.policy is None) == (trial.document is None):
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, "name a policy, or send a document, and not both"
        )
    if trial.document is not None:
        access.check(Permission.MANAGE_POLICIES)
        document, *others = await changes.read_policies(trial.document)
        if others:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the document holds several policies")
        await changes.check_expressions([document])
    else:
        stored = await stored_or_404(access, trial.policy or "", None)
        document = changes.earlier_document(stored)
    role = TextRole.MODEL if trial.is_answer else trial.role
    part = TextPart(trial.text.encode(errors="replace"), (0,), role.value)
    subject = Subject(model=None, streamed=False, parts=(part,))
    side = Stage.OUTPUT if trial.is_answer else Stage.INPUT

    def judged() -> TrialResult:
        result = asyncio.run(run_policy_test(document.text, subject, side=side))
        decision = type(decide(result.results)).__name__.lower()
        described = result.described(subject)
        return TrialResult(policy=document.policy.name, decision=decision, **described)

    return await asyncio.to_thread(judged)


async def stored_or_404(access: Access, name: str, version: int | None) -> StoredPolicy:
    """Return a version of a policy, or that in force.

    Raises:
        Problem: 404.
    """
    found = await changes.stored_policy(access.connection, name, version)
    if found is None:
        raise not_found("policy" if version is None else "version of the policy")
    return found


def version_tag(stored: StoredPolicy) -> str:
    """Return the entity tag of a policy: its version."""
    return f'"{stored.name}-{stored.version}"'


async def _apply(
    access: Access,
    request: Request,
    documents: Sequence[PolicyDocument],
    note: str | None,
    *,
    dry_run: bool,
    made_from: int | None = None,
) -> list[PolicyChange]:
    """Apply *documents* if the policies that they replace are those that `If-Match` names.

    A document may be *made_from* a version. The versions are those that the plan has read: one
    that was read before or behind it may be another.
    """
    planned = await changes.plan_change(access.connection, documents)
    for one in planned:
        check_tag(request, version_tag(StoredPolicy(one.name, one.version, "")))
        if made_from not in {None, one.version}:
            raise policy_changed()
    if not dry_run:
        access.changed(policies=await changes.apply_plan(access.connection, planned, note=note))
    return _changes(planned)


def policy_changed() -> Problem:
    """Return the problem of a document that was made from another version than it replaces."""
    return Problem(
        HTTPStatus.CONFLICT, "the policy was changed meanwhile", hint="repeat the change"
    )


def _changes(planned: Sequence[PlannedPolicy]) -> list[PolicyChange]:
    return [
        PolicyChange(
            name=one.name,
            change=one.change,
            from_version=one.version,
            to_version=one.new_version,
            diff=one.diff,
            lost=no_longer_hold(one.lost) if one.lost else None,
            lost_guardrails=one.lost,
        )
        for one in planned
    ]
