"""Plans, checks and applies new versions of policies, for callers that are no terminal."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.admin.audit_log import set_note
from sidecar.admin.owners import ChangeRefusedError, InvalidValueError
from sidecar.admin.policy_plan import Change, PlannedPolicy, plan_policies
from sidecar.domain.policy import Mode
from sidecar.guardrails.matching.database import CompileError
from sidecar.policy.compilation import (
    MAX_CPU_SECONDS,
    CheckFailedError,
    compile_in_subprocess,
    expression_faults,
)
from sidecar.policy.parse import (
    DEFAULT_POLICY_NAME,
    PolicyDocument,
    PolicyDocumentError,
    PolicyFault,
    default_policy_text,
    parse_documents,
    parse_policies,
)
from sidecar.policy.policy_lint import missing_extras
from sidecar.policy.text import (
    MASK,
    NoSuchGuardrailError,
    NotEditableError,
    masked_places,
    render_policy,
    with_mode,
)
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import (
    PolicyChangedError,
    StoredPolicy,
    apply_policy,
    deleted_versions,
    load_policies,
    load_policy,
)

MAX_VERSION: Final = 2**31 - 1
"""Of a column of the database."""


async def read_policies(text: str) -> tuple[PolicyDocument, ...]:
    """Return the policies of a YAML text, without checking their expressions.

    Raises:
        PolicyDocumentError: with every fault, and for a masked value, which stands for another.
    """

    def read() -> tuple[PolicyDocument, ...]:
        documents = parse_documents(text, expressions="syntax")
        problem = f"`{MASK}` stands for a value that is not shown; write the value itself"
        faults = [
            PolicyFault(1, 1, f"{one.policy.name}: {'.'.join(map(str, path))}", problem)
            for one in documents
            for path in masked_places(one.policy)
        ]
        if faults:
            raise PolicyDocumentError(faults)
        return documents

    return await asyncio.to_thread(read)  # a large text takes a while


async def compare(
    connection: Connection, documents: Sequence[PolicyDocument]
) -> tuple[PlannedPolicy, ...]:
    """Compare policies with those in force."""
    stored = await load_policies(connection)
    deleted = await deleted_versions(connection, [one.policy.name for one in documents])
    return await asyncio.to_thread(plan_policies, documents, stored=stored, deleted=deleted)


async def plan_change(
    connection: Connection, documents: Sequence[PolicyDocument]
) -> tuple[PlannedPolicy, ...]:
    """Compare policies with those in force, and compile those that differ.

    Raises:
        PolicyDocumentError: expressions cannot be compiled, each with its place.
        ChangeRefusedError: those of a policy cannot be compiled together.
    """
    planned = await compare(connection, documents)
    names = {one.name for one in planned if one.change is not Change.NONE}
    await check_expressions([one for one in documents if one.policy.name in names])
    return planned


async def check_expressions(documents: Sequence[PolicyDocument]) -> None:
    """Compile the expressions of *documents*, each alone and those of each policy together.

    Each runs in a process of its own, which ends at its limit of CPU time or memory.

    Raises:
        PolicyDocumentError: with each fault at its place.
        ChangeRefusedError: together they cannot be compiled, or the check failed; or as
            `check_packages` does.
    """
    check_packages(documents)
    await check_alone(documents, advance=lambda _done: None)
    await check_together(documents)


def check_packages(documents: Sequence[PolicyDocument]) -> None:
    """Check that each guardrail of *documents* could judge in this installation.

    Workers without its package would refuse every request, or let it pass unjudged.

    Raises:
        InvalidValueError: an extra is not installed.
    """
    missing = missing_extras()
    for document in documents:
        for guardrail in document.policy.guardrails:
            kind = guardrail.settings.guardrail_type
            if extra := missing.get(kind):
                raise InvalidValueError(
                    f"guardrail {guardrail.name} of policy {document.policy.name} needs the extra"
                    f" {extra}, which is not installed here",
                    hint=f"install Egret's wheel with its extra {extra}, as where workers run",
                )


async def check_alone(
    documents: Sequence[PolicyDocument], *, advance: Callable[[int], None]
) -> None:
    """Compile each expression of *documents*; otherwise like `check_expressions`."""
    placed = [one for document in documents for one in document.expressions]
    try:
        faults = await expression_faults(placed, advance=advance) if placed else ()
    except CheckFailedError as error:
        raise _failed(error) from None
    if faults:
        raise PolicyDocumentError(faults)


async def check_together(documents: Sequence[PolicyDocument]) -> None:
    """Compile those of *documents* that have expressions; otherwise like the above."""
    texts = [one.text for one in documents if one.expressions]
    try:
        await compile_in_subprocess(texts, cpu_seconds=MAX_CPU_SECONDS // 2)
    except CheckFailedError as error:
        raise _failed(error) from None
    except CompileError as error:
        raise InvalidValueError(
            str(error),
            hint="write fewer or simpler expressions; words without one go to denied_terms",
        ) from None


def _failed(error: CheckFailedError) -> ChangeRefusedError:
    return ChangeRefusedError(str(error), hint="see that there is memory for it, and try again")


async def apply_plan(
    connection: Connection, planned: Sequence[PlannedPolicy], *, note: str | None
) -> Mapping[str, int]:
    """Bring the planned policies into force, and return their new versions by name.

    Raises:
        ChangeRefusedError: another change was faster; nothing was changed.
    """
    changes = [one for one in planned if one.change is not Change.NONE]
    await set_note(connection, note)
    try:
        applied = [
            await apply_policy(
                connection,
                one.name,
                document=one.document,
                expected_version=one.version,
                note=note,
            )
            for one in changes
        ]
    except PolicyChangedError as error:
        raise ChangeRefusedError(str(error), hint="look at the new difference") from None
    return {one.name: one.version for one in applied}


async def stored_policy(
    connection: Connection, name: str, version: int | None = None
) -> StoredPolicy | None:
    """Return a version of a policy, or that in force; of `default` also the built-in, as 0."""
    stored = await load_policy(connection, name, version=version)
    if stored is None and name == DEFAULT_POLICY_NAME and version in {None, 0}:
        return StoredPolicy(name, 0, default_policy_text())
    return stored


async def existing_policy(
    connection: Connection, name: str, version: int | None = None
) -> StoredPolicy:
    """Return a version of a policy, or that in force, likewise.

    Raises:
        ChangeRefusedError: there is none.
    """
    stored = await stored_policy(connection, name, version)
    if stored is None:
        wanted = f"policy {name}" if version is None else f"version {version} of policy {name}"
        command = "list" if version is None else f"history {name}"
        raise ChangeRefusedError(f"there is no {wanted}", hint=f"see `egret policy {command}`")
    return stored


@dataclass(frozen=True, slots=True)
class ShownPolicy:
    """A policy with every default written out; values of webhook headers are masked."""

    name: str
    version: int
    document: str


def shown_policy(stored: StoredPolicy) -> ShownPolicy:
    """Return a policy as people may see it.

    Raises:
        ChangeRefusedError: this Egret cannot read it.
    """
    name, version = stored.name, stored.version
    try:
        policy = parse_policies(stored.document, version=version, expressions="trust")[0]
    except PolicyDocumentError:
        raise _unreadable(stored) from None
    return ShownPolicy(name, version, render_policy(policy))


@dataclass(frozen=True, slots=True)
class Difference:
    """The unified difference of two versions in meaning."""

    name: str
    from_version: int
    to_version: int
    diff: str


def difference(before: StoredPolicy, after: StoredPolicy) -> Difference:
    """Return how two versions of a policy differ.

    Raises:
        ChangeRefusedError: this Egret cannot read one of them.
    """
    lines = difflib.unified_diff(
        shown_policy(before).document.splitlines(keepends=True),
        shown_policy(after).document.splitlines(keepends=True),
        fromfile=f"{before.name} version {before.version}",
        tofile=f"{after.name} version {after.version}",
    )
    return Difference(after.name, before.version, after.version, "".join(lines))


def earlier_document(stored: StoredPolicy) -> PolicyDocument:
    """Return the document of a stored version, to bring it back.

    Raises:
        ChangeRefusedError: this Egret cannot read it.
    """
    try:
        return parse_documents(stored.document, expressions="syntax")[0]
    except PolicyDocumentError:
        raise _unreadable(stored) from None


def document_with_mode(stored: StoredPolicy, guardrail: str, mode: Mode) -> PolicyDocument:
    """Return the document of a policy in which a guardrail enforces, or runs in shadow.

    Raises:
        ChangeRefusedError: there is no such guardrail, or the text cannot be edited.
    """
    try:
        return with_mode(earlier_document(stored), guardrail, mode=mode)
    except NoSuchGuardrailError:
        raise ChangeRefusedError(
            f"policy {stored.name} has no guardrail {guardrail}",
            hint=f"see `egret policy show {stored.name}`",
        ) from None
    except NotEditableError:
        raise ChangeRefusedError(
            f"the text of policy {stored.name} cannot be changed by a command",
            hint="change the file it comes from, and apply that",
        ) from None


def _unreadable(stored: StoredPolicy) -> ChangeRefusedError:
    return ChangeRefusedError(
        f"version {stored.version} of {stored.name} is not one this Egret can read",
        hint="apply it anew, or use the Egret that wrote it",
    )
