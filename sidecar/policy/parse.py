"""Parses policy YAML into policies, and reports faults with line and column."""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

from pydantic import ValidationError
from typing_extensions import override

from sidecar.domain.policy import Policy, StreamMode
from sidecar.guardrails.json_schema.complexity import schema_faults
from sidecar.guardrails.registry import judges_pieces
from sidecar.policy.documents import (
    GUARDRAIL_DOCUMENTS,
    DeniedPatternsDocument,
    JsonSchemaDocument,
    PatternDocument,
    PolicyModel,
)
from sidecar.policy.fields import (
    SYNTAX_ONLY,
    TRUSTED,
    ExceptionDocument,
    GuardrailFields,
    UnknownNameError,
)
from sidecar.policy.remote_documents import BreakerDocument
from sidecar.policy.yaml_positions import Path, YamlDocument, YamlError, read_yaml

_QUOTED: Final = re.compile(r"'([^']*)'")


@dataclass(frozen=True, slots=True)
class PolicyFault:
    """One thing that is wrong. `line` and `column` count from 1 in the whole text.

    `path` reads like `guardrails[0].timeout`; `hint` says how to correct it, if that is known.
    """

    line: int
    column: int
    path: str
    problem: str
    hint: str | None = None

    @override
    def __str__(self) -> str:
        place = f"line {self.line}, column {self.column}"
        words = (
            f"{place}: {self.path}: {self.problem}" if self.path else f"{place}: {self.problem}"
        )
        return f"{words} ({self.hint})" if self.hint else words


class PolicyDocumentError(Exception):
    """A text that holds no valid policies; `faults` has all that could be told, in text order."""

    def __init__(self, faults: Iterable[PolicyFault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.line, fault.column)))
        super().__init__("\n".join(str(fault) for fault in self.faults))


def described(document: YamlDocument, error: ValidationError) -> list[PolicyFault]:
    """Turn a model's errors into faults: their place in the text, in our words."""
    details = error.errors(include_url=False, include_input=False)
    return [_described(document, detail) for detail in details if not _follows(detail, details)]


def _follows(detail: Any, details: Iterable[Any]) -> bool:
    """Tell whether a list is too short only because its items are wrong."""
    loc = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in details
    )


def _described(document: YamlDocument, detail: Any) -> PolicyFault:
    path = _node_path(document, detail["loc"])
    at_key, hint = False, None
    match detail["type"]:
        case "missing":
            problem = f"`{detail['loc'][-1]}` is required"
        case "extra_forbidden":
            at_key, problem = True, f"unknown field `{path[-1]}`"
            hint = _nearest(str(path[-1]), _fields_at(document, path[:-1]))
        case "union_tag_invalid" | "union_tag_not_found":
            path, problem, hint = _wrong_type(document, path)
        case "value_error":
            problem, hint = str(detail["ctx"]["error"]), _nearest_known(detail["ctx"]["error"])
        case "enum":
            problem = f"must be one of {', '.join(_QUOTED.findall(detail['ctx']['expected']))}"
        case "string_type":
            problem, hint = "must be text", "put it in quotes"
        case "string_pattern_mismatch":
            problem, hint = "is not a name that is accepted here", _form(path)
        case _:
            words = str(detail["msg"])
            problem = words[:1].lower() + words[1:]
    return fault(document, path, problem, hint=hint, at_key=at_key)


def _nearest_known(error: ValueError) -> str | None:
    return _nearest(error.value, error.known) if isinstance(error, UnknownNameError) else None


def _wrong_type(document: YamlDocument, path: Path) -> tuple[Path, str, str]:
    given = _value_at(document.value, (*path, "type"))
    known = tuple(GUARDRAIL_DOCUMENTS)
    if not isinstance(given, str):
        return path, "`type` is required", f"one of {', '.join(known)}"
    return (*path, "type"), f"unknown type `{given[:80]}`", _nearest(given, known)


def _form(path: Path) -> str:
    """Say what a name must look like at *path*."""
    match path:
        case ("name",):
            return "lower case letters, digits, dots and dashes, at most 63"
        case (*_, "exceptions", int(), "key"):
            return "a key's public id, 12 letters and digits"
        case (*_, "exceptions", int(), "team"):
            return "ORGANIZATION/TEAM"
        case (*_, "patterns", int(), "name"):
            return "upper snake case such as PROJECT_CODE, at most 40"
        case (*_, "name"):
            return "lower case letters, digits, underscores and dashes, at most 63"
        case _:
            return "it must not be blank"


def _fields_at(document: YamlDocument, path: Path) -> Iterable[str]:
    match path:
        case ():
            return PolicyModel.model_fields
        case ("guardrails", int()):
            kind = _value_at(document.value, (*path, "type"))
            model = GUARDRAIL_DOCUMENTS.get(str(kind))
            return _written(model) if model else ()
        case (*_, "exceptions", int()):
            return ExceptionDocument.model_fields
        case (*_, "breaker"):
            return BreakerDocument.model_fields
        case _:
            return PatternDocument.model_fields


def _written(model: type[GuardrailFields]) -> Iterable[str]:
    return (field.alias or name for name, field in model.model_fields.items())


def _nearest(given: str, known: Iterable[str]) -> str:
    """Suggest the nearest name, whatever its case, or list a short set."""
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), by_lower, n=1)
    if near:
        return f"did you mean `{by_lower[near[0]]}`?"
    return f"one of {', '.join(names)}" if len(names) <= 60 else "see docs/guardrails.md"  # noqa: PLR2004 - still readable


def _node_path(document: YamlDocument, loc: tuple[str | int, ...]) -> Path:
    """Drop pydantic's own steps (a union's tag) that name no node; keep the last as it is."""
    path: Path = ()
    for step in loc:
        if (*path, step) in document.values:
            path = (*path, step)
    return path


def _value_at(value: object, path: Path) -> object:
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            value = value[step]
        else:
            return None
    return value


def fault(
    document: YamlDocument,
    path: Path,
    problem: str,
    *,
    hint: str | None = None,
    at_key: bool = False,
) -> PolicyFault:
    """Return a fault of the node at *path*, or of its key."""
    mark = document.keys.get(path) if at_key else None
    line, column = mark or document.values[path]
    return PolicyFault(line, column, _words(path), problem, hint)


def _words(path: Path) -> str:
    words = ""
    for step in path:
        words += f"[{step}]" if isinstance(step, int) else f".{step}" if words else str(step)
    return words


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
    package = importlib.resources.files("sidecar.policy")
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
            yield fault(document, path, "a guardrail of this name is above", hint="rename one")
        seen.add(guardrail.name)


def _schemas(document: YamlDocument, model: PolicyModel) -> Iterable[PolicyFault]:
    for index, guardrail in enumerate(model.guardrails):
        if isinstance(guardrail, JsonSchemaDocument):
            path = ("guardrails", index, "schema")
            for one in schema_faults(guardrail.answer_schema, max_depth=guardrail.max_depth):
                at = (*path, *one.place)
                yield fault(document, at, one.problem, hint=one.hint, at_key=one.at_key)


def _unsupported(document: YamlDocument, model: PolicyModel) -> Iterable[PolicyFault]:
    """Refuse what a type cannot do: it must not look done."""
    for index, guardrail in enumerate(model.guardrails):
        path = ("guardrails", index)
        holds = guardrail.streams in {None, StreamMode.BUFFER}
        if not holds and not judges_pieces(guardrail.settings()):
            problem = f"{guardrail.type} needs the whole of an answer"
            yield fault(document, (*path, "streams"), problem, hint="use buffer")
