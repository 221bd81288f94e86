"""Conversations as clients send them: each turn's request repeats all messages before it.

Generated: the same for the same seed, and without a text in common with other seeds, but for the
system prompt and the tools of an agent, which its users share.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, cycle, islice
from typing import Final

import orjson

from egret_tools.benign_text import benign_text, numbers

MODEL: Final = "gpt-4o-mini"
EVEN_MESSAGES: Final = 40
"""Messages in the first request of an even conversation."""

Message = Mapping[str, object]


class Shape(enum.Enum):
    """How a conversation grows from turn to turn."""

    CHAT = "chat"
    """Short questions, and answers in Markdown."""
    ADDRESSES = "chat with addresses"
    """The same; each question has an e-mail address, which the default policy redacts."""
    AGENT = "coding agent"
    """A long system prompt, tools and a task; then calls of tools and their results: code."""
    CLOCK = "agent with a clock"
    """The same; the system prompt ends with the time, so that it differs in each turn."""
    RETRIEVAL = "retrieval"
    """Questions, each below the documents that were found for it."""
    WINDOW = "last messages only"
    """Long questions and answers; each request has the last of them, as many as the first."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request of an API client, and the messages that each later turn adds to it.

    If it *has_clock*, the system prompt ends with the turn's time; with a *window*, a request has
    only so many messages, the last ones, behind the system prompt.
    """

    frame: Message
    opening: tuple[Message, ...]
    later: tuple[tuple[Message, ...], ...] = ()
    has_clock: bool = False
    window: int | None = None

    @property
    def turns(self) -> int:
        """Number of requests."""
        return 1 + len(self.later)

    def body(self, turn: int) -> bytes:
        """Return the request of *turn*, which counts from 1."""
        system, *messages = self.opening
        messages += [message for added in self.later[: turn - 1] for message in added]
        if self.has_clock:
            time = f"{turn // 60:02}:{turn % 60:02}"
            system = {**system, "content": f"{system['content']} The time is {time}."}
        if self.window is not None:
            messages = messages[-self.window :]
        return orjson.dumps({**self.frame, "messages": [system, *messages]})

    def edited(self) -> Conversation:
        """Return it with the first character of every message replaced."""
        return replace(
            self,
            opening=tuple(map(_edited, self.opening)),
            later=tuple(tuple(map(_edited, messages)) for messages in self.later),
        )

    def with_new_prompt(self) -> Conversation:
        """Return it with a changed system prompt, such as one with the time of day."""
        return replace(self, opening=(_edited(self.opening[0]), *self.opening[1:]))

    def without_oldest(self, count: int) -> Conversation:
        """Return it without the first *count* messages behind the system prompt."""
        return replace(self, opening=(self.opening[0], *self.opening[1 + count :]))


def _edited(message: Message) -> Message:
    text = str(message["content"])
    return {**message, "content": ("Y" if text.startswith("X") else "X") + text[1:]}


def even_conversation(
    size_bytes: int,
    *,
    seed: int,
    turns: int = 1,
    messages: int = EVEN_MESSAGES,
    model: str = MODEL,
) -> Conversation:
    """Return one whose first request has *size_bytes*, in *messages* of the same length.

    Each later turn adds an answer and a question of that length.

    Raises:
        ValueError: *size_bytes* has no room for so many messages.
    """
    frame: Message = {"model": model, "max_tokens": 16}
    roles = ["system", *islice(cycle(("user", "assistant")), messages - 1)]
    empty = Conversation(frame, tuple({"role": role, "content": ""} for role in roles))
    length, rest = divmod(size_bytes - len(empty.body(1)), messages)
    if length < 1:
        raise ValueError(f"{size_bytes} bytes have no room for {messages} messages")
    seeds = _seeds(seed)
    opening = [
        _text_message(role, benign_text(length + (rest if role == "system" else 0), seed=one))
        for role, one in zip(roles, seeds, strict=False)
    ]
    later = [
        tuple(
            _text_message(role, benign_text(length, seed=next(seeds)))
            for role in ("assistant", "user")
        )
        for _ in range(turns - 1)
    ]
    return Conversation(frame, tuple(opening), tuple(later))


def conversation(shape: Shape, *, seed: int, turns: int) -> Conversation:
    """Return one of *shape*."""
    seeds = _seeds(seed)
    match shape:
        case Shape.CHAT | Shape.ADDRESSES:
            return _chat(seeds, turns, has_addresses=shape is Shape.ADDRESSES)
        case Shape.AGENT | Shape.CLOCK:
            return _agent(seeds, turns, has_clock=shape is Shape.CLOCK)
        case Shape.RETRIEVAL:
            return _retrieval(seeds, turns)
        case Shape.WINDOW:
            even = even_conversation(64 * 1024, seed=seed, turns=turns)
            return replace(even, window=EVEN_MESSAGES - 1)


def _seeds(seed: int) -> Iterator[int]:
    """Return one for each text of a conversation."""
    return count(seed * 1_000_003 + 1)


def _text_message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _between(low: int, high: int, seed: int) -> int:
    return low + next(numbers(seed)) % (high - low)


def _chat(seeds: Iterator[int], turns: int, *, has_addresses: bool) -> Conversation:
    def question() -> Message:
        one = next(seeds)
        text = benign_text(_between(80, 500, one), seed=one)
        return _text_message(
            "user", f"{text} Write to user{one}@example.com." if has_addresses else text
        )

    def answer() -> Message:
        one = next(seeds)
        text = benign_text(_between(600, 2_000, one), seed=one)
        return _text_message("assistant", "**In short**\n\n- " + text.replace(". ", ".\n- "))

    system = _text_message("system", benign_text(600, seed=next(seeds)))
    later = tuple((answer(), question()) for _ in range(turns - 1))
    return Conversation({"model": MODEL, "temperature": 0.7}, (system, question()), later)


_SHARED_SEED: Final = 7
_AGENT_PROMPT_BYTES: Final = 8_000
_TOOLS: Final = (
    "read_file", "write_file", "edit_file", "list_files", "search", "run_tests", "run_command",
    "git_diff", "git_log", "fetch_page", "make_plan", "finish",
)  # fmt: skip
_CODE_LINES: Final = (
    "def {0}_{1}({2}, {3}):\n",
    '    """{4} the {5}.\n\n    Raises:\n        ValueError: no {6}.\n    """\n',
    "    if {7} is None or not {8}.{9}:\n",
    '        raise ValueError(f"{10} has no {11!r}")\n',
    '    for {12} in {13}["{14}"]:\n',
    "        {15}.append({16}({17}=7))  # {18}\n",
    "    return {19}.{20}\n\n\n",
)
_CODE_WORDS: Final = 21


def _code(size: int, seed: int) -> str:
    """Return about *size* bytes of Python."""
    words = [
        word for word in benign_text(size, seed=seed).replace(".", "").split() if word.isalpha()
    ]
    template = "".join(_CODE_LINES)
    pieces = range(0, len(words) - _CODE_WORDS, _CODE_WORDS)
    code = "".join(template.format(*words[start : start + _CODE_WORDS]) for start in pieces)
    return code[:size]


def _tool(name: str, seed: int) -> Message:
    properties = {
        key: {"type": "string", "description": benign_text(90, seed=seed + number)}
        for number, key in enumerate(("path", "pattern", "reason"))
    }
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": benign_text(300, seed=seed),
            "parameters": {"type": "object", "properties": properties, "required": ["path"]},
        },
    }


def _agent(seeds: Iterator[int], turns: int, *, has_clock: bool) -> Conversation:
    def step() -> tuple[Message, ...]:
        one = next(seeds)
        call_id = f"call_{one:016x}"
        arguments = orjson.dumps(
            {"path": f"src/module_{one}.py", "reason": benign_text(60, seed=one)}
        )
        function = {"name": _TOOLS[one % len(_TOOLS)], "arguments": arguments.decode()}
        call = {"id": call_id, "type": "function", "function": function}
        said = benign_text(_between(60, 300, one), seed=next(seeds))
        code = _code(_between(2_000, 9_000, one), next(seeds))
        return (
            {"role": "assistant", "content": said, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": code},
        )

    shared = _seeds(_SHARED_SEED)
    frame: Message = {
        "model": MODEL,
        "tools": [_tool(name, 100 * next(shared)) for name in _TOOLS],
        "tool_choice": "auto",
    }
    system = _text_message("system", benign_text(_AGENT_PROMPT_BYTES, seed=next(shared)))
    task = _text_message("user", benign_text(900, seed=next(seeds)))
    steps = tuple(step() for _ in range(turns - 1))
    return Conversation(frame, (system, task), steps, has_clock=has_clock)


DOCUMENTS: Final = 4
"""Documents of a question."""


def _retrieval(seeds: Iterator[int], turns: int) -> Conversation:
    def question() -> Message:
        documents = "\n\n".join(_document(one) for one in islice(seeds, DOCUMENTS))
        return _text_message("user", f"{documents}\n\n{benign_text(200, seed=next(seeds))}")

    def answer() -> Message:
        one = next(seeds)
        return _text_message("assistant", benign_text(_between(300, 1_200, one), seed=one))

    system = _text_message("system", benign_text(1_500, seed=next(seeds)))
    later = tuple((answer(), question()) for _ in range(turns - 1))
    return Conversation({"model": MODEL, "temperature": 0}, (system, question()), later)


def _document(seed: int) -> str:
    """Return a few kilobytes with paragraphs and characters beyond ASCII."""
    text = benign_text(_between(2_000, 6_000, seed), seed=seed)
    text = text.replace("(see page 12)", "(“Übersicht”, § 12)").replace(". T", ".\n\nT")
    return f'<document id="{seed}">\n{text}\n</document>'
