"""The `json_schema` guardrail: validates structured answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from sidecar.apis.response_structure import AnswerPiece
from sidecar.domain.finding import Failed, Finding, Found, GuardrailResult, Outcome, Verdict
from sidecar.domain.guardrail_settings import JsonSchemaSettings
from sidecar.domain.policy import Action, Guardrail, OnError, Stage
from sidecar.guardrails.cooperative import Cooperative
from sidecar.guardrails.json_schema.complexity import MAX_COMPLEXITY, Complexity, complexity_of
from sidecar.guardrails.json_schema.schema import SchemaPath, compile_schema
from sidecar.guardrails.json_schema.violations import Violation, ViolationLocator
from sidecar.jsontext.strict import TOO_DEEP, JsonDocument, is_shallow, parse

MAX_VALUES: Final = 20_000
"""Values of one text, commas and brackets within strings counted as some."""
MAX_WORK: Final = 1_000_000
"""Values times what the schema may look at of each; an answer of ordinary shape has a tenth."""

MAX_PATTERN_WORK: Final = 262_144
"""Bytes of one text times the regular expressions that may look at each string: 0.4 ms of usual
ones, 0.25 s of the worst that an author can write, on a text made for it."""
MAX_FRACTION_WORK: Final = 1_000
"""Values times the fractions that each may have to be a multiple of."""

_SEPARATORS: Final = (b",", b"{", b"[")

_UNKNOWN_COMPLEXITY: Final = Complexity(MAX_COMPLEXITY, MAX_COMPLEXITY, MAX_COMPLEXITY)
"""Of a schema that was applied by another Egret, and that this one would refuse."""


class JsonSchemaCheck:
    """The check of one guardrail. Keeps nothing of what it judges."""

    def __init__(self, settings: JsonSchemaSettings) -> None:
        """Compile the schema.

        Raises:
            jsonschema_rs.ValidationError: it was never checked.
        """
        schema = json.loads(settings.schema)
        self._settings = settings
        self._validator = compile_schema(schema)
        self._locator = ViolationLocator(schema)
        complexity = complexity_of(schema, max_depth=settings.max_depth)
        self._complexity = (
            complexity if isinstance(complexity, Complexity) else _UNKNOWN_COMPLEXITY
        )

    def judge(self, guardrail: str, pieces: Sequence[AnswerPiece]) -> Cooperative[Found]:
        """Return a finding for each text that does not fit, the first thing that is wrong."""
        findings: list[Finding] = []
        for index, piece in enumerate(pieces):
            if not self._is_meant(piece):
                continue
            violation = yield from self._violation(piece.text)
            if violation is not None:
                end, place = len(piece.text), piece.place + _pointer(violation.path)
                findings.append(Finding(guardrail, violation.type, index, 0, end, place=place))
            yield
        return Found(tuple(findings))

    def _is_meant(self, piece: AnswerPiece) -> bool:
        tools = self._settings.tools
        if piece.of is not self._settings.of:
            return False
        return tools is None or piece.tool is None or piece.tool in tools

    def _is_bounded(self, text: bytes) -> bool:
        """Tell whether judging takes milliseconds, before anything of *text* is read."""
        values = 1 + sum(map(text.count, _SEPARATORS))
        return (
            values <= MAX_VALUES
            and values * self._complexity.keywords <= MAX_WORK
            and values * self._complexity.fractions <= MAX_FRACTION_WORK
            and len(text) * self._complexity.patterns <= MAX_PATTERN_WORK
        )

    def _violation(self, text: bytes) -> Cooperative[Violation | None]:
        if len(text) > self._settings.max_bytes or not self._is_bounded(text):
            return Violation("JSON_TOO_LARGE", ())
        document = parse(text)
        if not isinstance(document, JsonDocument):
            return Violation("JSON_TOO_DEEP" if document is TOO_DEEP else "INVALID_JSON", ())
        yield
        if not is_shallow(document.value, levels=self._settings.max_depth):
            return Violation("JSON_TOO_DEEP", ())
        if self._validator.is_valid(document.value):
            return None
        yield
        return (yield from self._locator.locate(document.value))


@lru_cache(maxsize=256)
def json_schema_check(settings: JsonSchemaSettings) -> JsonSchemaCheck:
    """Return the same check for equal settings: it holds a compiled schema."""
    return JsonSchemaCheck(settings)


def _pointer(path: SchemaPath) -> str:
    """Write a path as RFC 6901 has it."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


@dataclass(frozen=True, slots=True)
class SchemaGuardrail:
    """A guardrail and its check."""

    guardrail: Guardrail
    check: JsonSchemaCheck = field(repr=False, compare=False)


def schema_guardrails(guardrails: Iterable[Guardrail]) -> tuple[SchemaGuardrail, ...]:
    """Return those of *guardrails* that judge structure, ready to run."""
    return tuple(
        SchemaGuardrail(one, json_schema_check(one.settings))
        for one in guardrails
        if isinstance(one.settings, JsonSchemaSettings)
    )


def check_structure(
    structured: Iterable[SchemaGuardrail],
    read: Sequence[AnswerPiece] | Failed,
    *,
    clock: Callable[[], float],
) -> Cooperative[tuple[GuardrailResult, ...]]:
    """Return one result a guardrail. What cannot be read has the direction of `on_error`."""
    results: list[GuardrailResult] = []
    for one in structured:
        began = clock()
        outcome = read if isinstance(read, Failed) else (yield from _judged(one, read))
        results.append(_result(one.guardrail, outcome, (began, clock() - began)))
    return tuple(results)


def _judged(one: SchemaGuardrail, pieces: Sequence[AnswerPiece]) -> Cooperative[Outcome]:
    try:
        return (yield from one.check.judge(one.guardrail.name, pieces))
    except Exception as error:  # noqa: BLE001 - any failure has the direction of `on_error`
        return Failed(type(error).__name__)


def _result(guardrail: Guardrail, outcome: Outcome, span: tuple[float, float]) -> GuardrailResult:
    began, seconds = span
    if isinstance(outcome, Failed):
        opens = guardrail.on_error is OnError.ALLOW
        verdict = Verdict.ERROR_OPEN if opens else Verdict.ERROR_CLOSED
        error = outcome.error_type
        return GuardrailResult(guardrail, verdict, (), began, seconds, error, stage=Stage.OUTPUT)
    found = Verdict.FLAG if guardrail.action is Action.FLAG else Verdict.BLOCK
    verdict = found if outcome.findings else Verdict.PASS
    return GuardrailResult(
        guardrail, verdict, outcome.findings, began, seconds, stage=Stage.OUTPUT
    )
