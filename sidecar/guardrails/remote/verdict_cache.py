"""Caches verdicts of remote guardrails, keyed by digest, with single flight.

An entry is found by a keyed digest of the request, or of one of its messages, and of the
organization; neither text nor key id is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Final

import msgspec
from cachetools import TLRUCache

from sidecar.domain.finding import RemoteEvent
from sidecar.domain.guardrail_settings import GrpcSettings, WebhookSettings
from sidecar.domain.policy import Guardrail
from sidecar.domain.subject import TextPart
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest, RemoteVerdict

MAX_CACHE_BYTES: Final = 16 * 1024 * 1024
_ENTRY_BYTES: Final = 1_000
_FINDING_BYTES: Final = 250
"""Rounded up from the size of an entry and of a finding in CPython 3.11."""


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: RemoteAnswer
    expires_at: float

    @property
    def size_bytes(self) -> int:
        return _ENTRY_BYTES + _FINDING_BYTES * len(self.answer.findings)


class _Flight:
    """A check under way for one caller or more; cancelled when the last of them is."""

    def __init__(self, task: asyncio.Task[RemoteAnswer]) -> None:
        self.task = task
        self._waiting = 0

    @property
    def is_open(self) -> bool:
        """Whether another caller may join."""
        return not self.task.done() and not self.task.cancelling()

    async def answer(self) -> RemoteAnswer:
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.task.cancel()


class VerdictCache:
    """A bounded cache of one worker. *secret* keys its digests; the clock is monotonic."""

    def __init__(
        self, *, clock: Callable[[], float], secret: bytes, max_bytes: int = MAX_CACHE_BYTES
    ) -> None:
        self._clock = clock
        self._secret = secret
        self._max_entry_bytes = max_bytes // 16
        self._entries: TLRUCache[bytes, _Entry] = TLRUCache(
            max_bytes,
            ttu=lambda _key, entry, _now: entry.expires_at,
            timer=clock,
            getsizeof=lambda entry: entry.size_bytes,
        )
        self._flights: dict[bytes, _Flight] = {}

    async def answer(
        self,
        request: RemoteRequest,
        ask: Callable[[], Awaitable[RemoteAnswer]],
        *,
        keep_seconds: float,
    ) -> RemoteAnswer:
        """Return the cached answer, that of an equal check under way, or else that of *ask*."""
        key = request_digest(request, secret=self._secret)
        entry = self._entries.get(key)
        if entry is not None:
            request.note(RemoteEvent.CACHE_HIT)
            return entry.answer
        flight = self._flights.get(key)
        if flight is not None and flight.is_open:
            request.note(RemoteEvent.JOINED)
            return await flight.answer()

        async def ask_and_keep() -> RemoteAnswer:
            answer = await ask()
            self._keep(key, answer, keep_seconds)
            return answer

        def forget(_: asyncio.Task[RemoteAnswer]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        task = asyncio.get_running_loop().create_task(ask_and_keep())
        self._flights[key] = flight = _Flight(task)
        task.add_done_callback(forget)
        return await flight.answer()

    async def answer_by_message(
        self,
        request: RemoteRequest,
        ask: Callable[[RemoteRequest], Awaitable[RemoteAnswer]],
        *,
        keep_seconds: float,
    ) -> RemoteAnswer:
        """Return the answers to all messages as one; *ask* gets those that are not known.

        It gets none if the request is blocked by a message that is known.
        """
        parts = request.subject.parts
        question = _question(request, self._secret)
        known: list[tuple[Sequence[int], RemoteAnswer]] = []
        unknown: dict[tuple[int, ...], bytes] = {}
        for message in _messages(parts):
            key = _digest(question, [parts[at] for at in message])
            entry = self._entries.get(key)
            if entry is None:
                unknown[message] = key
            else:
                known.append((message, entry.answer))
        if not unknown or any(answer.verdict == "block" for _, answer in known):
            request.note(RemoteEvent.CACHE_HIT)
            return _joined(known)
        asked = [at for message in unknown for at in message]
        subject = msgspec.structs.replace(
            request.subject, parts=tuple([parts[at] for at in asked]), runs=()
        )
        rest = replace(request, subject=subject)

        async def ask_and_divide() -> RemoteAnswer:
            answer = await ask(rest)
            for message, own in _divided(answer, list(unknown)):
                self._keep(unknown[message], own, keep_seconds)
            return answer

        answer = await self.answer(rest, ask_and_divide, keep_seconds=keep_seconds)
        return _joined([*known, (asked, answer)])

    def _keep(self, key: bytes, answer: RemoteAnswer, seconds: float) -> None:
        entry = _Entry(answer, self._clock() + seconds)
        if entry.size_bytes <= self._max_entry_bytes:
            self._entries[key] = entry


def _messages(parts: Sequence[TextPart]) -> list[tuple[int, ...]]:
    """Return the parts of each message, by index: neighbours of one role, which are read as one.

    A request without texts counts as one message: the guardrail's server receives it too.
    """
    runs = groupby(range(len(parts)), key=lambda at: parts[at].role)
    return [tuple(run) for _, run in runs] or [()]


_STRICTEST_FIRST: Final[tuple[RemoteVerdict, ...]] = ("block", "redact", "flag", "pass")


def _joined(answers: Sequence[tuple[Sequence[int], RemoteAnswer]]) -> RemoteAnswer:
    """Return the answers for some parts each as one for all: the strictest, with its findings.

    Findings of others would be redacted, although their server has only flagged them.
    """
    verdicts = {one.verdict for _, one in answers}
    verdict: RemoteVerdict = next(one for one in _STRICTEST_FIRST if one in verdicts)
    findings = [
        msgspec.structs.replace(found, part=parts[found.part])
        for parts, one in answers
        if one.verdict == verdict
        for found in one.findings
    ]
    scores = [one.score for _, one in answers if one.score is not None]
    findings.sort(key=attrgetter("part"))
    return RemoteAnswer(verdict, tuple(findings), max(scores, default=None))


def _divided(
    answer: RemoteAnswer, messages: Sequence[tuple[int, ...]]
) -> Iterator[tuple[tuple[int, ...], RemoteAnswer]]:
    """Yield the messages to which an answer for all of them assigns one of their own.

    A verdict without findings names no message, and a block says nothing about the others.
    """
    if len(messages) == 1:
        yield messages[0], answer
        return
    first = 0
    for message in messages:
        end = first + len(message)
        own = [one for one in answer.findings if first <= one.part < end]
        if own:
            moved = tuple(msgspec.structs.replace(one, part=one.part - first) for one in own)
            yield message, replace(answer, findings=moved)
        elif answer.verdict == "pass":
            yield message, answer
        elif answer.findings and answer.verdict != "block":
            yield message, RemoteAnswer("pass")
        first = end


def request_digest(request: RemoteRequest, *, secret: bytes) -> bytes:
    """Return a digest that two requests share exactly if their answers must be equal.

    It covers the organization, the guardrail, the side, and every text with its role: the time of
    a request shows nothing of the texts of other organizations. Webhooks and gRPC servers receive
    key and model, and may answer by them: for these both are part of the digest.
    """
    return _digest(_question(request, secret), request.subject.parts)


def _question(request: RemoteRequest, secret: bytes) -> hashlib.blake2b:
    """Return the digest of all but the texts."""
    digest = hashlib.blake2b(key=secret, digest_size=32)
    about = request.about
    is_named = isinstance(request.guardrail.settings, WebhookSettings | GrpcSettings)
    _add(digest, _guardrail_digest(request.guardrail))
    _add(digest, request.stage.value.encode())
    _add(digest, about.organization_id.encode())
    _add(digest, repr((about.key_id, about.model) if is_named else ()).encode())
    return digest


def _digest(question: hashlib.blake2b, parts: Iterable[TextPart]) -> bytes:
    digest = question.copy()
    for part in parts:
        _add(digest, part.role.encode())
        _add(digest, part.content)
    return digest.digest()


def _add(digest: hashlib.blake2b, field: bytes) -> None:
    """Add a field with its length before it, so that no two lists of fields read the same."""
    digest.update(len(field).to_bytes(8, "big"))
    digest.update(field)


@lru_cache(maxsize=1_024)
def _guardrail_digest(guardrail: Guardrail) -> bytes:
    kind = guardrail.settings.guardrail_type
    return hashlib.blake2b(repr((kind, astuple(guardrail))).encode(), digest_size=32).digest()
