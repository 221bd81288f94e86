"""Parses policy YAML into policies, and reports faults with line and column."""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import override

from sidecar.domain.policy import Policy, StreamMode
from sidecar.domain.validation import plain_fault
from sidecar.guardrails.json_schema.complexity import schema_faults
from sidecar.guardrails.registry import judges_pieces
from sidecar.policy.documents import (
    GUARDRAIL_DOCUMENTS,
    DeniedPatternsDocument,
    JsonSchemaDocument,
    PatternDocument,
    PolicyModel,
    ProviderDocument,
)
from sidecar.policy.fields import (
    SYNTAX_ONLY,
    TRUSTED,
    ExceptionDocument,
    UnknownNameError,
)
from sidecar.policy.remote_documents import BreakerDocument
from sidecar.policy.yaml_positions import Path, YamlDocument, YamlError, read_yaml

_LISTS_OF_MAPPINGS: Final = frozenset({"guardrails", "exceptions", "patterns"})
_DURATIONS: Final = frozenset({"timeout", "hedge_after", "open_for", "cache"})
_PLAIN_ITEM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/*?-]{0,39}")
"""A value that is the same within the brackets of a list."""


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
    """A text that holds no valid policies; `faults` has all that were found, in text order."""

    def __init__(self, faults: Iterable[PolicyFault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.line, fault.column)))
        super().__init__("\n".join(str(fault) for fault in self.faults))


@dataclass(frozen=True, slots=True)
class FaultWords:
    """Words for the faults of one kind of document: known fields, and forms of values, by path."""

    fields_at: Callable[[YamlDocument, Path], Iterable[str]]
    form: Callable[[Path], str]


def model_faults(
    document: YamlDocument, error: ValidationError, *, vocabulary: FaultWords | None = None
) -> list[PolicyFault]:
    """Turn a model's errors into faults: their place in the text, in our words.

    The words are those of a policy if no *vocabulary* is given.
    """
    details = error.errors(include_url=False, include_input=False)
    locations = [detail["loc"] for detail in details]
    return [
        _model_fault(document, detail, vocabulary or _POLICY_WORDS)
        for detail in details
        # A list whose items are wrong counts as too short; the items' own faults say it all.
        if detail["type"] != "too_short"
        or not any(detail["loc"] == loc[: len(detail["loc"])] != loc for loc in locations)
    ]


def _model_fault(
    document: YamlDocument, detail: ErrorDetails, vocabulary: FaultWords
) -> PolicyFault:
    path: Path = ()
    for step in detail["loc"]:  # pydantic's own steps (a union's tag) name no node
        if (*path, step) in document.values:
            path = (*path, step)
    at_key, hint = False, None
    match detail["type"]:
        case "missing":
            problem = f"`{detail['loc'][-1]}` is required"
        case "extra_forbidden" | "unexpected_keyword_argument":
            at_key, problem = True, f"unknown field `{path[-1]}`"
            hint = nearest(str(path[-1]), vocabulary.fields_at(document, path[:-1]))
        case "union_tag_invalid" | "union_tag_not_found":
            given = _value_at(document.value, (*path, "type"))
            if isinstance(given, str):
                path, problem = (*path, "type"), f"unknown type `{given[:80]}`"
                hint = nearest(given, GUARDRAIL_DOCUMENTS)
            else:
                problem, hint = "`type` is required", f"one of {', '.join(GUARDRAIL_DOCUMENTS)}"
        case "value_error":
            problem, cause = plain_fault(detail), detail["ctx"]["error"]
            if isinstance(cause, UnknownNameError):
                hint = nearest(cause.value, cause.known)
        case _:
            given = _value_at(document.value, path)
            problem, hint = _value_fault(detail, path, given, vocabulary.form)
    return fault(document, path, problem, hint=hint, at_key=at_key)


def _value_fault(
    detail: ErrorDetails, path: Path, given: object, form: Callable[[Path], str]
) -> tuple[str, str | None]:
    """Return the problem of the value *given* at *path*, and the form that is meant."""
    problem, hint = plain_fault(detail), None
    match detail["type"]:
        case "string_type":
            hint = "put it in quotes"
        case "model_type" | "model_attributes_type" | "dict_type" | "dataclass_type":
            hint = form(path)
        case "tuple_type" if path[-1] in _LISTS_OF_MAPPINGS:
            hint = f"write [{form((*path, 0)).removeprefix('write ')}]"
        case "tuple_type" if isinstance(given, str) and _PLAIN_ITEM.fullmatch(given):
            hint = f"write [{given}]"
        case "tuple_type":
            hint = "write each item in a line of its own after a dash"
        case "less_than_equal" if path[-1] in _DURATIONS:
            problem = f"{problem} seconds"
            if isinstance(given, int):
                hint = f"a number is in seconds; for milliseconds write {given}ms"
        case "string_pattern_mismatch":
            problem, hint = "is not a name that is accepted here", form(path)
        case _:
            pass
    return problem, hint


_BLOCKS: Final = {
    "aliases": "write {gpt-best: gpt-5-mini}; names have letters, digits and . _ : / @ + ~ -",
    "provider": "write {credential: NAME, region: NAME, order: [NAME]};"
    " names have letters, digits and . _ -",
}


_FILE: Final = "an absolute path on the worker's machine"
_FORMS: Final = {
    "ca_file": _FILE,
    "cert_file": _FILE,
    "key_file": _FILE,
    "language": "two lower case letters such as en",
    "entities": "upper snake case such as PERSON, at most 40",
    "categories": "lower case such as self-harm/intent, at most 63",
}
"""Of the names that a field of a guardrail holds."""


def _form(path: Path) -> str:
    """Return the form of a name, or of a mapping, at *path*."""
    match path:
        case (*_, "patterns", int()):
            form = "write {name: PROJECT_CODE, regex: 'PRJ-[0-9]+'}"
        case (*_, "exceptions", int()):
            form = "write {team: ORGANIZATION/TEAM, until: 2027-01-31, reason: …}"
        case ("guardrails", int()):
            form = "write {name: …, type: …}"
        case (
            *_,
            ("headers" | "thresholds" | "breaker" | "usage" | "schema" | "provider" | "aliases"),
        ):
            form = "write {field: value}"
        case (("aliases" | "provider") as block, *_):
            form = _BLOCKS[block]
        case ("name",):
            form = "lower case letters, digits, dots, dashes and underscores, at most 63"
        case (*_, "exceptions", int(), "key"):
            form = "a key's public id, 12 letters and digits"
        case (*_, "exceptions", int(), "team"):
            form = "ORGANIZATION/TEAM"
        case (*_, "patterns", int(), "name"):
            form = "upper snake case such as PROJECT_CODE, at most 40"
        case (*_, "name"):
            form = "a lower case letter, then such, digits, underscores and dashes, at most 63"
        case _:
            field = next((name for name in reversed(path) if isinstance(name, str)), "")
            form = _FORMS.get(field, "it must not be blank")
    return form


def _fields_at(document: YamlDocument, path: Path) -> Iterable[str]:
    match path:
        case ():
            return PolicyModel.model_fields
        case ("guardrails", int()):
            kind = _value_at(document.value, (*path, "type"))
            model = GUARDRAIL_DOCUMENTS.get(str(kind))
            fields = model.model_fields if model else {}
            return (field.alias or name for name, field in fields.items())
        case (*_, "exceptions", int()):
            return ExceptionDocument.model_fields
        case ("provider",):
            return ProviderDocument.model_fields
        case (*_, "breaker"):
            return BreakerDocument.model_fields
        case _:
            return PatternDocument.model_fields


def nearest(given: str, known: Iterable[str]) -> str:
    """Suggest the nearest name, whatever its case, or list a short set."""
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), by_lower, n=1)
    if near:
        return f"did you mean `{by_lower[near[0]]}`?"
    if len(names) > 60:  # noqa: PLR2004 - no longer readable
        return "`egret policy schema` has all names"
    return f"one of {', '.join(names)}"


_POLICY_WORDS: Final = FaultWords(_fields_at, _form)


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
    words = ""
    for step in path:
        words += f"[{step}]" if isinstance(step, int) else f".{step}" if words else str(step)
    return PolicyFault(line, column, words, problem, hint)


DEFAULT_POLICY_NAME: Final = "default"

Expressions = Literal["check", "syntax", "trust"]
"""How regular expressions are checked: compiled now by both engines, which takes milliseconds or,
for some, minutes; parsed by the fast engine, and left to `compilation`; or not at all, since
they were checked when they were applied."""

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
            one = parse_document(document, version=version, expressions=expressions)
        except PolicyDocumentError as error:
            faults += error.faults
            continue
        if any(one.policy.name == other.policy.name for other in parsed):
            faults.append(fault(document, ("name",), "a policy of this name is above"))
        parsed.append(one)
    if faults:
        raise PolicyDocumentError(faults)
    return tuple(parsed)


def parse_document(
    document: YamlDocument, *, version: int = 1, expressions: Expressions = "check"
) -> PolicyDocument:
    """Read the policy of one YAML document.

    Raises:
        PolicyDocumentError: with every fault of it.
    """
    if not isinstance(document.value, dict):
        raise PolicyDocumentError([fault(document, (), "a policy is a mapping, with a name")])
    try:
        model = PolicyModel.model_validate(document.value, context=_CONTEXTS[expressions])
    except ValidationError as error:
        raise PolicyDocumentError(model_faults(document, error)) from None
    if faults := [*_further_faults(document, model, check_schemas=expressions != "trust")]:
        raise PolicyDocumentError(faults)
    placed: list[PlacedExpression] = []
    for index, guardrail in enumerate(model.guardrails):
        if isinstance(guardrail, DeniedPatternsDocument):
            for number, pattern in enumerate(guardrail.patterns):
                path = ("guardrails", index, "patterns", number, "regex")
                at = fault(document, path, "")
                placed.append(PlacedExpression(pattern.regex, at.line, at.column, at.path))
    return PolicyDocument(model.to_policy(version=version), document.text, tuple(placed))


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


def _further_faults(
    document: YamlDocument, model: PolicyModel, *, check_schemas: bool
) -> Iterable[PolicyFault]:
    """Return faults that take more than one field: names, unsupported streams, schemas."""
    seen: set[str] = set()
    for index, guardrail in enumerate(model.guardrails):
        path = ("guardrails", index)
        if guardrail.name in seen:
            problem = "a guardrail of this name is above"
            yield fault(document, (*path, "name"), problem, hint="rename one")
        seen.add(guardrail.name)
        is_held = guardrail.streams in {None, StreamMode.BUFFER}
        if not is_held and not judges_pieces(guardrail.settings()):
            problem = f"{guardrail.type} needs the whole of an answer"
            yield fault(document, (*path, "streams"), problem, hint="use buffer")
        if check_schemas and isinstance(guardrail, JsonSchemaDocument):
            for one in schema_faults(guardrail.answer_schema, max_depth=guardrail.max_depth):
                at = (*path, "schema", *one.place)
                yield fault(document, at, one.problem, hint=one.hint, at_key=one.at_key)
