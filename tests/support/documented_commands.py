"""Commands that pages name: in blocks and, if they begin with a program of ours, inline."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *ROOT.glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
)

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SHELLS = frozenset({"", "bash", "sh", "console"})
_HEREDOC = re.compile(r"<<'END'.*?\n *END\n", re.DOTALL)
_WRITTEN = re.compile(r"^( *)cat > (\S+) <<'END'\n(.*?)^ *END\n", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:[A-Z_]+=\S* )*(?:egret|make|python|docker|curl) [^`\n]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
_SEPARATORS = frozenset({"|", ";", "&", "&&", "||"})
_REDIRECTIONS = frozenset({"<", ">", ">>"})

_PICTURE = frozenset({"()", "─▶"})
"""Words of a function, or of a picture of which a line begins with a command."""


def block_lines(page: Path) -> Iterator[str]:
    """Yield the lines of a page's blocks, without comments and without here-documents."""
    for _, language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in _SHELLS:
            continue
        text = _HEREDOC.sub("\n", block)
        for line in text.replace("\\\n", " ").splitlines():
            yield re.sub(r"\s#\s.*", "", line.strip())


def here_documents(page: Path) -> dict[str, str]:
    """Return the files that a page has its reader write by `cat > FILE <<'END'`, by name."""
    return {
        name: re.sub(rf"^{indent}", "", document, flags=re.MULTILINE)
        for indent, name, document in _WRITTEN.findall(page.read_text(encoding="utf-8"))
    }


def inline_commands(page: Path) -> Iterator[str]:
    """Yield the commands within a page's sentences."""
    yield from _INLINE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command of a pipeline or list, without variables and redirections.

    A line that is no command, such as a row of a picture, yields words that no program matches.
    """
    line = re.sub(r"\d>", ">", line.removeprefix("$ "))
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:  # a quotation mark in prose
        return
    command: list[str] = []
    is_target = False
    for word in [*words, ";"]:
        if word in _SEPARATORS:
            if command:
                yield tuple(command)
            command = []
        elif word in _REDIRECTIONS:
            is_target = True
        elif is_target:
            is_target = False
        elif command or not _ASSIGNMENT.fullmatch(word):
            command.append(word)


def documented(page: Path) -> Iterator[tuple[str, ...]]:
    """Yield every simple command of a page."""
    for line in (*block_lines(page), *inline_commands(page)):
        yield from simple_commands(line)


def of_egret(command: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the arguments of `egret`, if the command runs it, here or in a container."""
    match command:
        case ("docker", "compose", "exec", "egret", *words):
            command = tuple(words)
        case ("docker", "run", *words):
            image = next((place for place, word in enumerate(words) if "egret:" in word), None)
            return None if image is None else tuple(words[image + 1 :])
        case _:
            pass
    is_ours = len(command) > 1 and command[0] == "egret" and _PICTURE.isdisjoint(command[1:])
    return command[1:] if is_ours else None
