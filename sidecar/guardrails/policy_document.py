"""Policies as people write them: YAML in, policies or every fault with its place out."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from pydantic import ValidationError

from sidecar.domain.policy import Policy, StreamMode
from sidecar.guardrails.documents.fields import SYNTAX_ONLY, TRUSTED
from sidecar.guardrails.documents.local import DeniedPatternsDocument
from sidecar.guardrails.documents.policy import PolicyModel
from sidecar.guardrails.documents.structured import JsonSchemaDocument
from sidecar.guardrails.json_schema.schema_check import schema_faults
from sidecar.guardrails.policy_faults import PolicyDocumentError, PolicyFault, described, fault
from sidecar.guardrails.rules.catalogue import judges_pieces
from sidecar.guardrails.yaml_nodes import YamlDocument, YamlError, read_yaml

__all__ = [
    "DEFAULT_POLICY_NAME",
    "PlacedExpression",
    "PolicyDocument",
    "PolicyDocumentError",
    "PolicyFault",
    "default_policy",
    "default_policy_text",
    "parse_documents",
    "parse_policies",
]

DEFAULT_POLICY_NAME: Final = "default"

Expressions = Literal["check", "syntax", "trust"]
"""What is done about regular expressions: compiled now by both engines, which takes milliseconds
or, for some, minutes; read by the fast one, and left to `expression_check`; or nothing, since
that was done when they were applied."""

_CONTEXTS: Final = {"check": None, "syntax": SYNTAX_ONLY, "trust": TRUSTED}


@dataclass(frozen=True, slots=True)
class PlacedExpression:
    """An author's regular expression, and where it stands."""

    regex: str
    line: int
    column: int
    path: str


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A policy and the text it was read from, comments included; headers may hold credentials."""

    policy: Policy
    text: str = field(repr=False)
    expressions: tuple[PlacedExpression, ...] = field(default=(), repr=False, compare=False)


def parse_documents(
    text: str, *, version: int = 1, expressions: Expressions = "check"
) -> tuple[PolicyDocument, ...]:
    """Read one policy a YAML document. Each one's text, parsed alone, gives the same policy.

    Raises:
        PolicyDocumentError: with every fault of every document.
    """
    try:
        documents = read_yaml(text.removeprefix("\ufeff"))
    except YamlError as error:
        line, column = error.mark
        raise PolicyDocumentError([PolicyFault(line, column, "", error.problem)]) from None
    if not documents:
        raise PolicyDocumentError([PolicyFault(1, 1, "", "no policy in here")])
    faults: list[PolicyFault] = []
    parsed: list[PolicyDocument] = []
    for document in documents:
        try:
            model = _model(document, expressions=expressions)
        except PolicyDocumentError as error:
            faults.extend(error.faults)
            continue
        if any(model.name == other.policy.name for other in parsed):
            faults.append(fault(document, ("name",), "a policy of this name is above"))
        policy, placed = model.to_policy(version=version), tuple(_expressions(document, model))
        parsed.append(PolicyDocument(policy=policy, text=document.text, expressions=placed))
    if faults:
        raise PolicyDocumentError(faults)
    return tuple(parsed)


def parse_policies(
    text: str, *, version: int = 1, expressions: Expressions = "check"
) -> tuple[Policy, ...]:
    """Read the policies of *text*, as `parse_documents` does."""
    documents = parse_documents(text, version=version, expressions=expressions)
    return tuple(document.policy for document in documents)


def default_policy_text() -> str:
    """Return the document of the policy that holds where nothing else is bound."""
    package = importlib.resources.files("sidecar.guardrails")
    return package.joinpath("default_policy.yaml").read_text(encoding="utf-8")


@cache
def default_policy() -> Policy:
    """Return the policy that holds where nothing else is bound."""
    return parse_policies(default_policy_text(), version=0, expressions="trust")[0]


def _model(document: YamlDocument, *, expressions: Expressions) -> PolicyModel:
    if not isinstance(document.value, dict):
        raise PolicyDocumentError([fault(document, (), "a policy is a mapping, with a name")])
    try:
        model = PolicyModel.model_validate(document.value, context=_CONTEXTS[expressions])
    except ValidationError as error:
        raise PolicyDocumentError(described(document, error)) from None
    faults = [*_repeated_names(document, model), *_unsupported(document, model)]
    if expressions != "trust":
        faults += _schemas(document, model)
    if faults:
        raise PolicyDocumentError(faults)
    return model


def _expressions(document: YamlDocument, model: PolicyModel) -> Iterable[PlacedExpression]:
    for index, guardrail in enumerate(model.guardrails):
        if not isinstance(guardrail, DeniedPatternsDocument):
            continue
        for number, pattern in enumerate(guardrail.patterns):
            at = fault(document, ("guardrails", index, "patterns", number, "regex"), "")
            yield PlacedExpression(pattern.regex, at.line, at.column, at.path)


def _repeated_names(document: YamlDocument, model: PolicyModel) -> Iterable[PolicyFault]:
    seen: set[str] = set()
    for index, guardrail in enumerate(model.guardrails):
        if guardrail.name in seen:
            path = ("guardrails", index, "name")
            yield fault(document, path, "a guardrail of this name is above", mend="rename one")
        seen.add(guardrail.name)


def _schemas(document: YamlDocument, model: PolicyModel) -> Iterable[PolicyFault]:
    for index, guardrail in enumerate(model.guardrails):
        if isinstance(guardrail, JsonSchemaDocument):
            path = ("guardrails", index, "schema")
            for one in schema_faults(guardrail.answer_schema, max_depth=guardrail.max_depth):
                at = (*path, *one.place)
                yield fault(document, at, one.problem, mend=one.mend, at_key=one.at_key)


def _unsupported(document: YamlDocument, model: PolicyModel) -> Iterable[PolicyFault]:
    """Refuse what a type cannot do: it must not look done."""
    for index, guardrail in enumerate(model.guardrails):
        path = ("guardrails", index)
        holds = guardrail.streams in {None, StreamMode.BUFFER}
        if not holds and not judges_pieces(guardrail.settings()):
            problem = f"{guardrail.type} needs the whole of an answer"
            yield fault(document, (*path, "streams"), problem, mend="use buffer")
