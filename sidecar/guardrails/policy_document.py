"""Policies as people write them: YAML in, policies or every fault with its place out."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from pydantic import ValidationError

from sidecar.domain.policy import Policy, Stage
from sidecar.guardrails.documents.fields import TRUSTED
from sidecar.guardrails.documents.policy import PolicyModel
from sidecar.guardrails.policy_faults import PolicyDocumentError, PolicyFault, described, fault
from sidecar.guardrails.yaml_nodes import YamlDocument, YamlError, read_yaml

__all__ = [
    "DEFAULT_POLICY_NAME",
    "PolicyDocument",
    "PolicyDocumentError",
    "PolicyFault",
    "default_policy",
    "default_policy_text",
    "parse_documents",
    "parse_policies",
]

DEFAULT_POLICY_NAME: Final = "default"

SUPPORTED_TYPES: Final = frozenset(
    {
        "secrets", "pii", "denied_patterns", "denied_terms", "max_input", "webhook", "grpc",
        "moderation", "presidio", "llm_judge",
    }
)  # fmt: skip

UNSUPPORTED_FIELDS: Final = frozenset({"restore"})

Expressions = Literal["check", "trust"]
"""Whether regular expressions are compiled now (some ms each), or were when it was applied."""


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A policy and the text it was read from, comments included; headers may hold credentials."""

    policy: Policy
    text: str = field(repr=False)


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
            policy = _policy(document, version=version, expressions=expressions)
        except PolicyDocumentError as error:
            faults.extend(error.faults)
            continue
        if any(policy.name == other.policy.name for other in parsed):
            faults.append(fault(document, ("name",), "a policy of this name is above"))
        parsed.append(PolicyDocument(policy=policy, text=document.text))
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


def _policy(document: YamlDocument, *, version: int, expressions: Expressions) -> Policy:
    context = TRUSTED if expressions == "trust" else None
    if not isinstance(document.value, dict):
        raise PolicyDocumentError([fault(document, (), "a policy is a mapping, with a name")])
    try:
        model = PolicyModel.model_validate(document.value, context=context)
    except ValidationError as error:
        raise PolicyDocumentError(described(document, error)) from None
    faults = [*_repeated_names(document, model), *_unsupported(document, model)]
    if faults:
        raise PolicyDocumentError(faults)
    return model.to_policy(version=version)


def _repeated_names(document: YamlDocument, model: PolicyModel) -> Iterable[PolicyFault]:
    seen: set[str] = set()
    for index, guardrail in enumerate(model.guardrails):
        if guardrail.name in seen:
            path = ("guardrails", index, "name")
            yield fault(document, path, "a guardrail of this name is above", mend="rename one")
        seen.add(guardrail.name)


def _unsupported(document: YamlDocument, model: PolicyModel) -> Iterable[PolicyFault]:
    """Refuse what documents can say and this version cannot do: it must not look done."""
    for index, guardrail in enumerate(model.guardrails):
        path = ("guardrails", index)
        if guardrail.type not in SUPPORTED_TYPES:
            problem = f"type `{guardrail.type}` is not supported yet"
            yield fault(document, (*path, "type"), problem)
        if guardrail.stage is not Stage.INPUT:
            problem = f"stage `{guardrail.stage.value}` is not supported yet for {guardrail.type}"
            yield fault(document, (*path, "stage"), problem, mend="use input")
        fields = type(guardrail).model_fields
        for field_name in sorted(UNSUPPORTED_FIELDS & guardrail.model_fields_set):
            if getattr(guardrail, field_name) == fields[field_name].default:
                continue
            problem = f"`{field_name}` is not supported yet"
            yield fault(document, (*path, field_name), problem, at_key=True)
