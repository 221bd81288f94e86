"""Judges a text, or a whole request, by a policy that may not be in force yet."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sidecar.admin_api.problems import Problem
from sidecar.apis.request_text import read_request
from sidecar.apis.routes import recognise
from sidecar.domain.finding import Deny, GuardrailResult
from sidecar.domain.http import Headers
from sidecar.domain.policy import Stage
from sidecar.domain.subject import Malformed, Route, Subject, TextPart, Unreadable
from sidecar.pipeline.decide import decide
from sidecar.policy.tester import PolicyTestResult, decision_words, run_policy_test

MAX_SAMPLE_CHARACTERS: Final = 100_000


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
    """Judge *sample* by *document*, in a thread: a long text must not hold other requests up.

    Its expressions were checked; no remote guardrail is called.

    Raises:
        Problem: the sample is too long or no request.
        CompileError: the policy does not compile within the limits.
    """
    subject = _subject(sample, kind)
    side = Stage.OUTPUT if kind is SampleKind.ANSWER else Stage.INPUT

    def judged() -> PolicyTrial:
        tested = asyncio.run(run_policy_test(document, subject, side=side))
        texts = [
            (part.role, marked_pieces(part.content, tested.results, part=index))
            for index, part in enumerate(subject.parts)
        ]
        decision = decide(tested.results)
        unscanned = [one.value for one in dict.fromkeys(subject.unscanned)]
        words, is_refused = decision_words(decision), isinstance(decision, Deny)
        return PolicyTrial(words, is_refused, texts, unscanned, tested)

    return await asyncio.to_thread(judged)


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
    places = {edge: place for place, edge in enumerate(edges)}
    covered: list[list[tuple[int, int, str, str]]] = [[] for _ in edges[1:]]
    for span in spans:
        for place in range(places[span[0]], places[span[1]]):
            covered[place].append(span)
    pieces: list[tuple[str, str, bool]] = []
    for (start, end), covering in zip(pairwise(edges), covered, strict=True):
        names = ", ".join(dict.fromkeys(one[2] for one in covering))
        is_blocked = any(one[3] == "block" for one in covering)
        pieces.append((content[start:end].decode(errors="replace"), names, is_blocked))
    return pieces
