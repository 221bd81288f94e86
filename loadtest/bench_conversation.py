"""Cost of a conversation's next turn beside its first: whole requests, whole workers.

    python -m loadtest.bench_conversation [--against REV] [--rounds 5] [--quick] [--markdown]

Conversations are generated, and each request is sent once, to every side in turn: this checkout,
the same without its table of known messages, with two workers, with bodies that Envoy keeps, with
every local guardrail in place of the built-in policy, and REV if it is named. The first table is
about conversations of 40 messages of equal length; a coding agent, chats and retrieval show the
cost turn by turn; requests that the table can hardly help show its price. Other gateways, if
`make bench-peers` has installed them, receive the same bodies.
Prints tables, draws build/bench/bench-conversation.png and writes
build/bench/bench-conversation.json. Exits 1 when a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import uvloop
from egret_tools.conversations import (
    EVEN_MESSAGES,
    Conversation,
    Shape,
    conversation,
    even_conversation,
)
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from rich.console import Console
from rich.progress import Progress, TaskID

from loadtest.bench_against import check_out, own_python
from loadtest.bench_envoy import port_address
from loadtest.bench_peers import running_provider
from loadtest.bench_stack import TABLE_SETTING, Gateway, Side, StackOptions, running_gateways
from loadtest.conversations.clients import (
    SETTLE_SECONDS,
    Contestant,
    contestant,
    costs,
    peer_contestant,
    table_counts,
)
from loadtest.conversations.figures import (
    EVERY,
    EVERY_KEPT,
    EVERY_SIDES,
    EVERY_WITHOUT,
    FIRST,
    KEPT,
    NEXT,
    NOW,
    REV,
    SIZES,
    SMALL,
    TWO,
    WITHOUT,
    Series,
    cases_grid,
    conversation_figures,
    growth_grid,
    growth_plot,
    peers_grid,
    ratios_grid,
    slug,
    turn_key,
    turns_grid,
)
from loadtest.guardrail_pass import LOCAL_TYPES, policy_of
from loadtest.peers import guarded_portkey, is_installed, litellm, portkey, running_peer
from loadtest.processes import paused, resident_mb
from loadtest.results import DIRECTORY, ROOT, Report, prints_failure, publish, publish_picture
from loadtest.targets import write_targets
from sidecar.settings.process import setting_names

CONVERSATIONS: Final = {"64k": 250, "256k": 100, "1m": 60}
"""How many of each size at a time: some seconds of work for each side. An idle side takes
milliseconds a second, which are a good part of the cost of fewer requests."""
PARTS: Final = 4
"""How often in a round first and next turns follow each other."""
NEXT_TURNS: Final = 3
"""Next turns of each conversation: they are short, and few of them are hard to measure."""
SLICES: Final = 20
"""In how many parts two sides that are compared receive first turns, one after the other: each
takes a part of a second, and a shared machine is slower for some seconds at a time. Next turns
are sent at once: one side's wait for the other would be a good part of their cost."""
PAIRS: Final[Sequence[Sequence[str]]] = ((NOW, WITHOUT), (KEPT, REV))
EVERY_PAIRS: Final[Sequence[Sequence[str]]] = ((EVERY, EVERY_WITHOUT), (EVERY_KEPT,))
"""Sides that are measured together. A machine that is shared is slower for some seconds and then
fast again, so that turns that are far apart are hard to compare."""
PEER_CONVERSATIONS: Final = {"64k": 40, "256k": 12}
"""Fewer: a peer takes ten times as long, and has no table that has to be filled."""
LONG_ROUNDS: Final = 1
"""Rounds in which all turns are measured, and the smallest table is thrashed."""
GROWING: Final = 40
TURNS: Final = 10
CHANGED: Final = 120
TRIMMED: Final = 10
THRASHING: Final = 2_500
"""Conversations of 16 KB: more than a table of 1 MB holds."""
TINY: Final = 60
TINY_MESSAGES: Final = 1_500
EVEN_SIZES: Final = {"16k": 16 * 1024, **SIZES}
MB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes, shapes, rounds, and the share of the conversations that is sent.

    Without shapes, first and next turns are all that is measured.
    """

    sizes: Sequence[str]
    shapes: Sequence[Shape]
    rounds: int
    share: float = 1.0

    def number(self, whole: int) -> int:
        """Return how many conversations are sent of *whole*."""
        return max(4, round(whole * self.share))


@prints_failure
def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    plan = Plan(
        sizes=tuple(options.size or SIZES),
        shapes=() if options.headline else tuple(Shape),
        rounds=1 if options.quick else options.rounds,
        share=0.1 if options.quick else 1.0,
    )
    report = Report("bench-conversation", "conversations", for_page=options.markdown)
    sides = _sides(options.against, report.console)
    series, peers = uvloop.run(_measure(sides, plan, report.console))
    figures = conversation_figures(series)
    grids = [
        turns_grid(figures, plan.sizes),
        ratios_grid(figures, plan.sizes),
    ]
    if plan.shapes:
        grids += [cases_grid(figures), growth_grid(figures, plan.shapes)]
        growth_plot(figures, plan.shapes, path=DIRECTORY / "bench-conversation.png")
    if peers:
        grids.append(peers_grid(figures, peers, PEER_CONVERSATIONS))
    report.write(figures, *grids)
    if options.markdown:
        publish("bench-conversation")
        write_targets()
        if plan.shapes:
            publish_picture("bench-conversation")
    for name, failed in sorted(series.failed.items()):
        report.console.print(f"{name}: {failed} requests failed.")
    return report.exit_code(series.errors)


def _sides(revision: str | None, console: Console) -> list[Side]:
    sides = [Side(NOW, ROOT), Side(TWO, ROOT, workers=2), Side(KEPT, ROOT)]
    if TABLE_SETTING in setting_names():
        sides += [
            Side(WITHOUT, ROOT, settings={TABLE_SETTING: "0"}),
            Side(SMALL, ROOT, settings={TABLE_SETTING: "1"}),
        ]
    else:
        console.print(f"{TABLE_SETTING} is no setting: there is no table to switch off.")
    if revision:
        fastest = {"EGRET_SERVER__ENGINE": "h2corn"}  # by the name that all revisions accept
        checkout = check_out(revision)
        sides.append(Side(REV, checkout, settings=fastest, python=own_python(checkout)))
    return sides


async def _measure(
    sides: Sequence[Side], plan: Plan, console: Console
) -> tuple[Series, dict[str, str]]:
    """Return the costs, and the features of each peer by its name."""
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        console.print("Starting all sides …")
        has_peers = bool(plan.shapes) and is_installed()
        async with _running(sides, run, has_peers=has_peers) as (
            gateways,
            peers,
            features,
        ):
            if not peers:
                console.print("Without other gateways (`make bench-peers` installs them).")
            runner = _Runner(gateways, peers, plan, console)
            await runner.rounds()
            return runner.series, features


@asynccontextmanager
async def _running(
    sides: Sequence[Side], run: RunDirectory, *, has_peers: bool
) -> AsyncIterator[tuple[dict[str, Gateway], list[Contestant], dict[str, str]]]:
    """Start the provider, every side, and the peers if they are wanted."""
    children, place = Children(), run.path / "peers"
    place.mkdir()
    async with AsyncExitStack() as parts:
        provider = await parts.enter_async_context(running_provider(children, place, run))
        every = [policy_of(LOCAL_TYPES, name=_every(size), size=SIZES[size]) for size in SIZES]
        options = StackOptions(
            provider=port_address(provider), buffered=(KEPT,), policies="---\n".join(every)
        )
        found = await parts.enter_async_context(running_gateways(sides, run=run, options=options))
        gateways = {side.name: found[side.name] for side in sides}
        if not has_peers:
            yield gateways, [], {}
            return
        body = place / "body.json"
        body.write_bytes(even_conversation(4_096, seed=0, messages=4).body(1))
        ways = (
            litellm(place, provider_port=provider, is_guarded=True),
            portkey(provider_port=provider),
        )
        lite, port = [
            await parts.enter_async_context(running_peer(children, way, body=body, place=place))
            for way in ways
        ]
        peers = [lite, guarded_portkey(port, provider_port=provider)]
        features = {peer.name: peer.switched_on for peer in peers}
        yield gateways, [peer_contestant(peer) for peer in peers], features


def _every(size: str) -> str:
    """Return the name of the policy with every local guardrail, for bodies of *size*."""
    return f"every-{size}"


class _Runner:
    """Sends new conversations to every side, round after round, and collects the costs."""

    def __init__(
        self,
        gateways: Mapping[str, Gateway],
        peers: Sequence[Contestant],
        plan: Plan,
        console: Console,
    ) -> None:
        self._gateways = gateways
        self._sides = {name: contestant(name, one) for name, one in gateways.items()}
        self._peers = peers
        self._plan = plan
        self._console = console
        self._seed = 1_000
        self._is_backwards = False
        self.series = Series()

    async def rounds(self) -> None:
        """Warm up, then measure all of the plan as often as it says."""
        peers = self._peers
        for sides in (self._named(tuple(self._sides)), peers):
            await self._turns("64k", 8, sides)
        self.series = Series(errors=self.series.errors, failed=self.series.failed)
        with Progress(console=self._console, disable=not self._console.is_terminal) as progress:
            steps = (len(self._plan.sizes) * PARTS + bool(self._plan.shapes)) * self._plan.rounds
            # A step that begins completes the one before.
            task = progress.add_task("", total=steps, completed=-1)
            for number in range(self._plan.rounds):
                await self._round(number, partial(self._show, progress, task, number + 1))
        for name, gateway in self._gateways.items():
            memory = max(map(resident_mb, gateway.processes))
            self.series.add(f"{name}.rss_mb", memory)

    def _show(self, progress: Progress, task: TaskID, number: int, step: str) -> None:
        """Show the *step* that begins; in a log, which has no bar, with the seconds so far."""
        words = f"round {number} of {self._plan.rounds}, {step}"
        progress.update(task, description=words, advance=1)
        if not self._console.is_terminal:
            self._console.print(f"{progress.tasks[0].elapsed or 0:6.0f} s  {words}")

    async def _round(self, number: int, show: Callable[[str], None]) -> None:
        """Measure all of the plan once."""
        for size in self._plan.sizes:
            count = self._plan.number(CONVERSATIONS[size])
            for part in range(PARTS):
                show(f"{size}, part {part + 1} of {PARTS}")
                self._is_backwards = bool((number + part) % 2)
                for pair in PAIRS:
                    await self._turns(size, count, self._named(pair))
                for pair in EVERY_PAIRS:
                    await self._turns(size, count, self._named(pair, every=size))
        if not self._plan.shapes:
            return
        show("other conversations")
        await self._changed()
        await self._tiny()
        if number < LONG_ROUNDS:
            await self._thrashed()
            for shape in self._plan.shapes:
                await self._growing(shape)
        for size in PEER_CONVERSATIONS if self._peers else ():
            count = self._plan.number(PEER_CONVERSATIONS[size])
            await self._turns(size, count, self._peers)

    async def _turns(self, size: str, count: int, sides: Sequence[Contestant]) -> None:
        """Send *count* new conversations to each side, then the next turns of all."""
        first, *later = self._even_turns(size, count, turns=1 + NEXT_TURNS)
        then = [body for turn in later for body in turn]
        has_table = self._sides[NOW] in sides
        # To a side without a table each turn is a first one.
        learned = [one for one in sides if EVERY_SIDES.get(one.name, one.name) != WITHOUT]
        async with self._alone(sides):
            self.series.add_costs(f"{size}.{FIRST}", await costs(sides, first, slices=SLICES))
            async with self._counting(NOW, f"{NOW}.{size}", then) if has_table else nullcontext():
                self.series.add_costs(f"{size}.{NEXT}", await costs(learned, then))

    @asynccontextmanager
    async def _alone(self, sides: Sequence[Contestant]) -> AsyncIterator[None]:
        """Stop all others meanwhile: each idle process wakes some times a second.

        *sides* that were stopped until now first do what has become due.
        """
        urls = {one.url for one in sides}
        others = [one for one in (*self._sides.values(), *self._peers) if one.url not in urls]
        with paused([pid for one in others for pid in one.processes()]):
            await asyncio.sleep(SETTLE_SECONDS)
            yield

    @asynccontextmanager
    async def _counting(self, side: str, key: str, bodies: Iterable[bytes]) -> AsyncIterator[None]:
        """Note the use that *side* makes of its table meanwhile, for which *bodies* are sent."""
        before = await table_counts(self._sides[side])
        yield
        after = await table_counts(self._sides[side])
        if before and after:
            use = after - before
            self.series.add(f"{key}.hit_rate", use.hit_rate)
            self.series.add(f"{key}.known_share", use.known_bytes / sum(map(len, bodies)))
            self.series.add(f"{key}.evictions", use.evictions)
            self.series.add(f"{key}.table_mb", use.size_bytes / MB)

    async def _case(
        self, case: str, side: str, known: Sequence[bytes], bodies: Sequence[bytes]
    ) -> None:
        """Send *bodies*, after those by which *side* could know their messages."""
        if side not in self._sides:
            return
        sides = self._named((side, WITHOUT))
        async with self._alone(sides):
            if known:
                self.series.errors += sum([await one.send(known) for one in sides])
                await asyncio.sleep(SETTLE_SECONDS)
            async with self._counting(side, f"{NOW}.{case}", bodies):
                self.series.add_costs(case, await costs(sides, bodies))

    async def _changed(self) -> None:
        """Send next turns in which messages are other ones, or gone."""
        changes: dict[str, Callable[[Conversation], Conversation]] = {
            "new_prompt": Conversation.with_new_prompt,
            "trimmed": partial(Conversation.without_oldest, count=TRIMMED),
            "edited": Conversation.edited,
        }
        for case, change in changes.items():
            talks = self._even("64k", self._plan.number(CHANGED))
            known = [one.body(1) for one in talks]
            await self._case(case, NOW, known, [change(one).body(2) for one in talks])

    async def _thrashed(self) -> None:
        await self._case("thrashed", SMALL, *self._even_turns("16k", THRASHING, turns=2))

    async def _tiny(self) -> None:
        talks = self._even("64k", self._plan.number(TINY), messages=TINY_MESSAGES)
        await self._case("tiny", NOW, [], [one.body(1) for one in talks])

    async def _growing(self, shape: Shape) -> None:
        """Send every turn of new conversations of *shape*, one turn of all after the other.

        The use of the table is the median of all turns.
        """
        count, sides = self._plan.number(GROWING), self._named((NOW, TWO, WITHOUT, REV))
        talks = [conversation(shape, seed=seed, turns=TURNS) for seed in self._seeds(count)]
        async with self._alone(sides):
            for turn in range(1, TURNS + 1):
                bodies = [one.body(turn) for one in talks]
                async with (
                    self._counting(NOW, f"{NOW}.{slug(shape)}", bodies),
                    self._counting(TWO, f"{TWO}.{slug(shape)}", bodies),
                ):
                    self.series.add_costs(turn_key(shape, turn), await costs(sides, bodies))
        kib = max(len(one.body(TURNS)) for one in talks) / 1024
        self.series.add(f"{slug(shape)}.last_turn_kib", kib)

    def _even_turns(self, size: str, count: int, *, turns: int) -> list[list[bytes]]:
        talks = self._even(size, count, turns=turns)
        return [[one.body(turn) for one in talks] for turn in range(1, turns + 1)]

    def _even(
        self, size: str, count: int, *, turns: int = 2, messages: int = EVEN_MESSAGES
    ) -> list[Conversation]:
        return [
            even_conversation(EVEN_SIZES[size], seed=seed, turns=turns, messages=messages)
            for seed in self._seeds(count)
        ]

    def _seeds(self, count: int) -> range:
        """Return seeds that were not used before: each conversation is new."""
        self._seed += count
        return range(self._seed - count, self._seed)

    def _named(self, names: Sequence[str], *, every: str = "") -> list[Contestant]:
        """Return the sides of *names* that run; every second time they take turns backwards.

        *every* is a size, if a policy has every local guardrail for bodies of it.
        """
        sides = [
            contestant(name, self._gateways[EVERY_SIDES[name]], policy=_every(every))
            if every
            else self._sides[name]
            for name in names
            if EVERY_SIDES.get(name, name) in self._sides
        ]
        return sides[::-1] if self._is_backwards else sides


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_conversation", description=__doc__
    )
    parser.add_argument("--against", metavar="REV", help="a revision, such as a tag or a commit")
    parser.add_argument("--size", choices=tuple(SIZES), action="append", help="all by default")
    parser.add_argument("--rounds", type=int, default=5, help="each figure is a median of these")
    parser.add_argument("--headline", action="store_true", help="first and next turns alone")
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the requests")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
