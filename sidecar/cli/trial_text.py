"""A judged text on a terminal: what was found stands out, and nothing in it moves the cursor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from rich.text import Text

from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.subject import Subject

_STYLES: Final = {
    Verdict.BLOCK: "bold white on red",
    Verdict.REDACT: "black on yellow",
    Verdict.FLAG: "black on cyan",
}
_PICTURES: Final = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}
"""Control characters as pictures of themselves: a text from a log must not act on the terminal."""


def highlighted(subject: Subject, results: Iterable[GuardrailResult]) -> Iterator[Text]:
    """Return each text with what was found in it, its role before it."""
    findings = [(one, found) for one in results for found in one.findings]
    for index, part in enumerate(subject.parts):
        content = part.content.decode()
        role = f"{part.role.translate(_PICTURES)}: "
        text = Text(role, style="dim")
        text.append(content.translate(_PICTURES), style="not dim")
        for result, found in findings:
            if found.part == index:
                start, end = _characters(part.content, (found.start, found.end))
                style = _STYLES.get(result.verdict, "bold")
                text.stylize(style, len(role) + start, len(role) + end)
        yield text


def spans_of(subject: Subject, result: GuardrailResult) -> list[dict[str, object]]:
    """Return a guardrail's findings by text and characters, without the characters."""
    spans: list[dict[str, object]] = []
    for found in result.findings:
        content = subject.parts[found.part].content
        start, end = _characters(content, (found.start, found.end))
        place = {} if found.place is None else {"place": found.place}
        span = {"type": found.type, "text": found.part, "start": start, "end": end}
        spans.append(span | place)
    return spans


def _characters(content: bytes, span: tuple[int, int]) -> tuple[int, int]:
    start = len(content[: span[0]].decode(errors="ignore"))
    return start, start + len(content[span[0] : span[1]].decode(errors="ignore"))
