"""Fakes of the database and the shared cache, on a virtual clock: a test decides every step."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from typing_extensions import override

from sidecar.domain.principal import KeyRecord
from sidecar.keys.ports import (
    Fence,
    KeyReading,
    KeyStoreUnavailableError,
    KeyUnreadableError,
    SharedRecord,
)
from sidecar.keys.shared_cache import KeyChanges
from tests.support.keys import record_of

_Result = TypeVar("_Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock that moves when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    @override
    def time(self) -> float:
        """Return the virtual time."""
        return self.now

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Call *function* in the loop and nothing else."""

        async def calling() -> _Result:
            return function()

        return self.run_until_complete(calling())

    def settle(self) -> None:
        """Let every task run until it waits."""

        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.run_until_complete(turns())


class Temper(enum.Enum):
    """How a server treats whoever asks."""

    PROMPT = "answers at once"
    SLOW = "answers when told to"
    REFUSING = "refuses at once"
    SILENT = "takes the question and says nothing"


@dataclass(eq=False)
class Question:
    """Something asked of a server: the answer was fixed when it was asked."""

    answer: Any
    future: asyncio.Future[Any]
    asked_at: float


def version_of(record: KeyRecord) -> int:
    """Return the version that `record_at` wrote into a record."""
    return int.from_bytes(record.secret_sha256, "big")


def record_at(key_id: str, version: int) -> KeyRecord:
    """Return a record that can be told from earlier ones."""
    return record_of(key_id, digest=version.to_bytes(4, "big"))


@dataclass
class Server:
    """Answers questions as its temper has it."""

    temper: Temper = Temper.PROMPT
    questions: list[Question] = field(default_factory=list)

    async def ask(self, answer: Any) -> Any:
        """Fix the answer now, give it when the temper says so."""
        if self.temper is Temper.PROMPT:
            await asyncio.sleep(0)
            return answer
        if self.temper is Temper.REFUSING:
            raise KeyStoreUnavailableError("refused")
        loop = asyncio.get_running_loop()
        question = Question(answer, loop.create_future(), loop.time())
        self.questions.append(question)
        try:
            return await question.future
        finally:
            if question in self.questions:
                self.questions.remove(question)

    def answer(self, question: Question, *, is_lost: bool = False) -> None:
        """Answer a question of before, or fail it."""
        self.questions.remove(question)
        if question.future.done():
            return
        if is_lost:
            question.future.set_exception(KeyStoreUnavailableError("lost"))
        else:
            question.future.set_result(question.answer)

    def end_budgets(self, *, asked_before: float) -> None:
        """Fail what has waited for as long as anyone waits."""
        for question in list(self.questions):
            if question.asked_at < asked_before:
                self.answer(question, is_lost=True)

    def become(self, temper: Temper) -> None:
        """Change temper; one that refuses has lost what it was asked before."""
        self.temper = temper
        if temper is Temper.REFUSING:
            self.answer_all(is_lost=True)

    def answer_all(self, *, is_lost: bool = False) -> None:
        """Answer everything that was asked, or fail it."""
        for question in list(self.questions):
            self.answer(question, is_lost=is_lost)


@dataclass
class Database(Server):
    """The port `KeySource`: versions of keys, transaction ids, snapshots and notifications."""

    keys: dict[str, int] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    timeline: int = 1
    next_transaction: int = 1
    horizon: int = 1
    running: set[int] = field(default_factory=set)
    last_change: int | None = None
    sessions: list[deque[tuple[str, dict[str, int]]]] = field(default_factory=list)

    async def read(self, key_id: str) -> KeyReading:
        """Read now, answer later: the widest window in which a change can slip in."""
        version = self.keys.get(key_id)
        record = None if version is None else record_at(key_id, version)
        reading: KeyReading = await self.ask(KeyReading(record, self.horizon, self.settled))
        if key_id in self.unreadable:
            raise KeyUnreadableError("written by a newer Egret")
        return reading

    async def fence(self) -> Fence:
        """Allocate now, answer later."""
        transaction = self.begin()
        self.end(transaction)
        fence: Fence = await self.ask(Fence(self.timeline, transaction, self.last_change))
        return fence

    def begin(self) -> int:
        """Allocate a transaction id."""
        self.next_transaction += 1
        self.running.add(self.next_transaction - 1)
        return self.next_transaction - 1

    @property
    def settled(self) -> int:
        """Below it, everything has ended."""
        return min(self.running, default=self.horizon)

    def end(self, transaction: int) -> None:
        """End a transaction: new snapshots see it."""
        self.running.discard(transaction)
        self.horizon = max(self.horizon, transaction + 1)

    def commit(self, transaction: int, scope: str, versions: dict[str, int]) -> None:
        """Make a change visible and notify everyone who listens."""
        self.keys.update(versions)
        self.last_change = max(self.last_change or 0, transaction)
        self.end(transaction)
        for session in self.sessions:
            session.append((scope, versions))

    def fail_over(self, *, lost_transactions: int) -> None:
        """Go on elsewhere, on a new timeline, handing out ids anew that were handed out before."""
        self.timeline += 1
        self.next_transaction = max(1, self.next_transaction - lost_transactions)
        self.horizon = min(self.horizon, self.next_transaction)
        self.running.clear()
        if self.last_change is not None:
            self.last_change = min(self.last_change, self.next_transaction - 1)
        self.sessions.clear()


@dataclass
class Shared(Server):
    """The port `SharedKeys`: holds whatever was ever written, in whatever order it arrives."""

    values: dict[str, SharedRecord] = field(default_factory=dict)
    history: list[tuple[str, SharedRecord]] = field(default_factory=list)
    late: list[tuple[str, SharedRecord | None]] = field(default_factory=list)

    async def get(self, key_id: str) -> SharedRecord | None:
        """Return what is there, or nothing."""
        try:
            shared: SharedRecord | None = await self.ask(self.values.get(key_id))
        except KeyStoreUnavailableError:
            return None
        return shared

    async def put(self, key_id: str, shared: SharedRecord) -> None:
        """Write at once, or later, or never."""
        self.history.append((key_id, shared))
        self._write(key_id, shared)

    async def discard(self, key_id: str) -> None:
        """Delete at once, or later, or never."""
        self._write(key_id, None)

    def _write(self, key_id: str, shared: SharedRecord | None) -> None:
        if self.temper is Temper.PROMPT:
            self.apply(key_id, shared)
        else:
            self.late.append((key_id, shared))

    def apply(self, key_id: str, shared: SharedRecord | None) -> None:
        """Let a write arrive."""
        if shared is None:
            self.values.pop(key_id, None)
        else:
            self.values[key_id] = shared


@dataclass
class Listening:
    """A worker's session for notifications: what was sent and not yet heard."""

    database: Database
    changes: KeyChanges
    session: deque[tuple[str, dict[str, int]]] | None = None
    is_noticed: bool = True

    def connect(self) -> None:
        """Listen, then say so."""
        self.disconnect()
        self.notice()
        self.session = deque()
        self.database.sessions.append(self.session)
        self.changes.listening_began("listen")

    def disconnect(self) -> None:
        """Lose the connection and all that is on its way, without knowing it."""
        if self.session is not None:
            self.database.sessions = [s for s in self.database.sessions if s is not self.session]
            self.session = None
            self.is_noticed = False

    def notice(self) -> None:
        """Learn of the loss."""
        if not self.is_noticed:
            self.is_noticed = True
            self.changes.listening_ended("listen")

    def hear(self) -> dict[str, int]:
        """Take the next notification and return the versions it tells of."""
        assert self.session is not None
        scope, versions = self.session.popleft()
        if ":" in scope or scope == "*":
            self.changes.scope_changed(scope)
        else:
            self.changes.key_changed(scope)
        return versions
