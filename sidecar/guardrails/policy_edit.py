"""Changes one field of a policy's text, and leaves the author's spelling and comments alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sidecar.domain.policy import Mode, Policy
from sidecar.guardrails.policy_document import (
    PolicyDocument,
    PolicyDocumentError,
    parse_documents,
)
from sidecar.guardrails.yaml_nodes import Path, YamlDocument, read_yaml


class NoSuchGuardrailError(Exception):
    """The policy has no guardrail of this name."""


class NotEditableError(Exception):
    """The text is written in a way that leaves no place for the change."""


def with_mode(document: PolicyDocument, guardrail: str, *, mode: Mode) -> PolicyDocument:
    """Return *document* with a guardrail in *mode*.

    What comes of an edit is read again and compared with what was meant: a text that an edit
    would change in any other way is not changed.

    Raises:
        NoSuchGuardrailError: there is none of this name.
        NotEditableError: no edit that was tried says what is meant.
    """
    meant = _with_mode(document.policy, guardrail, mode)
    index = [one.name for one in document.policy.guardrails].index(guardrail)
    tree = read_yaml(document.text)[0]
    for text in _edits(document.text, tree, ("guardrails", index), f"mode: {mode.value}"):
        try:
            edited = parse_documents(text, version=meant.version, expressions="syntax")
        except PolicyDocumentError:
            continue
        if [one.policy for one in edited] == [meant]:
            return edited[0]
    raise NotEditableError


def _with_mode(policy: Policy, guardrail: str, mode: Mode) -> Policy:
    if all(one.name != guardrail for one in policy.guardrails):
        raise NoSuchGuardrailError(guardrail)
    changed = (
        replace(one, mode=mode) if one.name == guardrail else one for one in policy.guardrails
    )
    return replace(policy, guardrails=tuple(changed))


def _edits(text: str, tree: YamlDocument, guardrail: Path, field: str) -> Iterable[str]:
    """Return texts that may be what is meant: the value replaced, or a field put before `type`."""
    value = tree.values.get((*guardrail, "mode"))
    if value is not None:
        before, after = _split(text, value)
        for quoted in (f"{quote}{mode.value}{quote}" for mode in Mode for quote in ("", "'", '"')):
            if after.startswith(quoted):
                yield before + field.removeprefix("mode: ") + after[len(quoted) :]
        return
    at = tree.keys[(*guardrail, "type")]
    before, after = _split(text, at)
    yield f"{before}{field}\n{' ' * (at[1] - 1)}{after}"
    yield f"{before}{field}, {after}"


def _split(text: str, at: tuple[int, int]) -> tuple[str, str]:
    line, column = at
    lines = text.splitlines(keepends=True)
    index = sum(len(one) for one in lines[: line - 1]) + column - 1
    return text[:index], text[index:]
