"""Checks an edited policy as `egret policy apply` does, and judges a text by it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, assert_never

from sidecar.admin.policy_plan import PlannedPolicy, plan_policies
from sidecar.admin_api.problems import Problem
from sidecar.apis.request_text import read_request
from sidecar.apis.routes import recognise
from sidecar.domain.finding import Allow, Deny, GuardrailResult, Redact
from sidecar.domain.http import Headers
from sidecar.domain.policy import Mode, Stage
from sidecar.domain.subject import Malformed, Route, Subject, TextPart, Unreadable
from sidecar.guardrails.matching.database import CompileError
from sidecar.pipeline.decide import decide
from sidecar.policy.compilation import (
    MAX_CPU_SECONDS,
    CheckFailedError,
    compile_in_subprocess,
    expression_faults,
)
from sidecar.policy.parse import PolicyDocument, PolicyDocumentError, parse_documents
from sidecar.policy.tester import PolicyTestResult, run_policy_test
from sidecar.policy.text import (
    MASK,
    NoSuchGuardrailError,
    NotEditableError,
    masked_places,
    with_mode,
)
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import StoredPolicy, load_policies

MAX_SAMPLE_CHARACTERS: Final = 100_000

Checked = PlannedPolicy | tuple[str, ...]
"""The plan of an edited text, or its faults."""


async def check_document(
    connection: Connection, text: str, *, name: str | None, together: bool = True
) -> Checked:
    """Return the plan of *text*, one policy called *name* if that is given; or its faults.

    With *together* its expressions are also compiled with those of all policies in force.
    """
    try:
        documents = parse_documents(text, expressions="syntax")
    except PolicyDocumentError as error:
        return tuple(str(fault) for fault in error.faults)
    document = documents[0]
    if len(documents) > 1:
        return ("the text holds several policies: apply them one by one, or with `egret apply`",)
    if name is not None and document.policy.name != name:
        return (f"the text is of the policy {document.policy.name}, not of {name}",)
    if [*masked_places(document.policy)]:
        return (f"{MASK} stands for a value that was masked: write the value",)
    stored = await load_policies(connection)
    if faults := await _expression_faults(document, stored if together else None):
        return faults
    return plan_policies([document], stored=stored)[0]


async def _expression_faults(
    document: PolicyDocument, stored: Sequence[StoredPolicy] | None
) -> tuple[str, ...]:
    """Compile the expressions, each alone, then with those of *stored*, if given."""
    if not document.expressions:
        return ()
    try:
        faults = await expression_faults(document.expressions, advance=lambda _: None)
    except CheckFailedError as error:
        return (str(error),)
    if faults:
        return tuple(str(fault) for fault in faults)
    if stored is None:
        return ()
    texts = {one.name: one.document for one in stored} | {document.policy.name: document.text}
    try:
        await compile_in_subprocess(
            [(text, 1) for text in texts.values()], cpu_seconds=MAX_CPU_SECONDS // 2
        )
    except CompileError as error:
        return (str(error),)
    return ()


def stored_document(stored: StoredPolicy) -> PolicyDocument:
    """Return a stored policy's document.

    Raises:
        Problem: another version of Egret wrote it.
    """
    try:
        return parse_documents(
            stored.document, version=max(1, stored.version), expressions="trust"
        )[0]
    except PolicyDocumentError:
        raise Problem(
            409,
            f"version {stored.version} of {stored.name} is not one this Egret can read",
            hint="apply it anew, or use the Egret that wrote it",
        ) from None


def edited_mode(document: PolicyDocument, guardrail: str, mode: Mode) -> str:
    """Return the document's text with *guardrail* in *mode*.

    Raises:
        Problem: there is no such guardrail, or the text leaves no place for the change.
    """
    try:
        return with_mode(document, guardrail, mode=mode).text
    except NoSuchGuardrailError:
        raise Problem(404, "the policy has no such guardrail") from None
    except NotEditableError:
        raise Problem(
            409,
            "the text of the policy cannot be changed by a button",
            hint="edit it, or change the file it comes from",
        ) from None


class SampleKind(enum.Enum):
    """How a sample is read."""

    MESSAGE = "message"
    ANSWER = "answer"
    REQUEST = "request"
    """A whole body of `/v1/chat/completions`, as a client sends it."""


@dataclass(frozen=True, slots=True)
class PolicyTrial:
    """A sample judged by a policy: the decision, its texts with their marks, the guardrails.

    Each text has its role and its pieces: some characters, the names of the findings in them, and
    whether one of these blocks. `unscanned` are reasons why content cannot be read.
    """

    decision: str
    is_refused: bool
    texts: Sequence[tuple[str, Sequence[tuple[str, str, bool]]]]
    unscanned: Sequence[str]
    tested: PolicyTestResult


_CHAT: Final = "/v1/chat/completions"
_JSON: Final = Headers((("content-type", b"application/json"),))


def _subject(sample: str, kind: SampleKind) -> Subject:
    if len(sample) > MAX_SAMPLE_CHARACTERS:
        raise Problem(413, f"the text has more than {MAX_SAMPLE_CHARACTERS} characters")
    content = sample.replace("\r\n", "\n").encode(errors="replace")
    if kind is not SampleKind.REQUEST:
        role = "model" if kind is SampleKind.ANSWER else "user"
        return Subject(model=None, streamed=False, parts=(TextPart(content, (0,), role),))
    route = recognise("POST", _CHAT)
    assert isinstance(route, Route)  # noqa: S101 - one of our own table
    read = read_request(route, _JSON, content)
    if isinstance(read, Malformed):
        raise Problem(409, read.problem, hint="a request with this body is refused with 400")
    if isinstance(read, Unreadable):
        raise Problem(
            409,
            f"the body cannot be read ({read.reason.value})",
            hint="the policy's `unscanned` decides on such a request",
        )
    return read


async def try_sample(document: str, sample: str, kind: SampleKind) -> PolicyTrial:
    """Judge *sample* by *document*, whose expressions were checked; no server is asked.

    Raises:
        Problem: the sample is too long or no request, or the policy does not compile within the
            limits.
    """
    subject = _subject(sample, kind)
    side = Stage.OUTPUT if kind is SampleKind.ANSWER else Stage.INPUT
    try:
        tested = await run_policy_test(document, subject, side=side)
    except CompileError as error:
        raise Problem(409, str(error), hint="write fewer or simpler expressions") from None
    texts = [
        (part.role, marked_pieces(part.content, tested.results, part=index))
        for index, part in enumerate(subject.parts)
    ]
    is_refused = False
    decided = decide(tested.results)
    match decided:
        case Deny(refusal):
            decision, is_refused = f"Refused: {refusal.message}", True
        case Redact(findings):
            decision = f"Goes on, with {len(findings)} values replaced"
        case Allow():
            decision = "Goes on unchanged"
        case _:
            assert_never(decided)
    unscanned = [one.value for one in dict.fromkeys(subject.unscanned)]
    return PolicyTrial(decision, is_refused, texts, unscanned, tested)


def marked_pieces(
    content: bytes, results: Sequence[GuardrailResult], *, part: int = 0
) -> list[tuple[str, str, bool]]:
    """Return the pieces of a text: each with the types found in it, and whether one blocks."""
    spans = [
        (found.start, found.end, f"{result.guardrail.name}: {found.type}", result.verdict.value)
        for result in results
        for found in result.findings
        if found.part == part
    ]
    edges = sorted({0, len(content), *(one[0] for one in spans), *(one[1] for one in spans)})
    pieces: list[tuple[str, str, bool]] = []
    for start, end in pairwise(edges):
        covering = [one for one in spans if one[0] <= start and end <= one[1]]
        names = ", ".join(dict.fromkeys(one[2] for one in covering))
        is_blocked = any(one[3] == "block" for one in covering)
        pieces.append((content[start:end].decode(errors="replace"), names, is_blocked))
    return pieces
