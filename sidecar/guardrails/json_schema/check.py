"""The `json_schema` guardrail: validates structured answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from sidecar.apis.response_structure import AnswerPiece
from sidecar.domain.cooperative import Cooperative
from sidecar.domain.finding import Failure, FailureKind, Finding, GuardrailResult, Results, Verdict
from sidecar.domain.guardrail_settings import JsonSchemaSettings
from sidecar.domain.policy import Action, Guardrail, Stage
from sidecar.domain.subject import Malformed
from sidecar.guardrails.json_schema.complexity import MAX_COMPLEXITY, Complexity, complexity_of
from sidecar.guardrails.json_schema.schema import compile_schema, pointer_to
from sidecar.guardrails.json_schema.violations import Violation, ViolationLocator
from sidecar.jsontext.strict import TOO_DEEP, is_shallow, parse

MAX_VALUES: Final = 20_000
"""Values of one text; commas and brackets within strings count as some."""
MAX_WORK: Final = 1_000_000
"""Values times the keywords that may apply to each; an answer of ordinary shape has a tenth."""

MAX_PATTERN_WORK: Final = 262_144
"""Bytes of one text times the regular expressions that may apply to each string: 0.4 ms of usual
ones, 0.25 s of the worst that an author can write, on a text made for it."""
MAX_FRACTION_WORK: Final = 1_000
"""Values times the fractions that each may have to be a multiple of."""

UNKNOWN_SHAPE: Final = Failure(FailureKind.ERROR, "unknown_shape")
"""Of an answer in a form that is not known to hold a model's words."""

_SEPARATORS: Final = (b",", b"{", b"[")
_UNKNOWN_COMPLEXITY: Final = Complexity(MAX_COMPLEXITY, MAX_COMPLEXITY, MAX_COMPLEXITY)
"""Of a schema that was applied by another version of Egret, and that this one would refuse."""


class JsonSchemaCheck:
    """The check of one guardrail. Keeps nothing of the texts it judges."""

    def __init__(self, settings: JsonSchemaSettings) -> None:
        """Compile the schema.

        Raises:
            jsonschema_rs.ValidationError: it was never checked.
        """
        schema = json.loads(settings.schema)
        self._settings = settings
        self._validator = compile_schema(schema)
        self._locator = ViolationLocator(schema)
        found = complexity_of(schema, max_depth=settings.max_depth)
        self._complexity = found if isinstance(found, Complexity) else _UNKNOWN_COMPLEXITY

    def judge(
        self, guardrail: str, pieces: Sequence[AnswerPiece]
    ) -> Cooperative[tuple[Finding, ...]]:
        """Return a finding for each text that does not match: its first violation."""
        settings, tools = self._settings, self._settings.tools
        findings: list[Finding] = []
        for index, piece in enumerate(pieces):
            is_meant = tools is None or piece.tool is None or piece.tool in tools
            if piece.of is not settings.of or not is_meant:
                continue
            # Bounds hold before anything is parsed, so that judging takes milliseconds.
            values = 1 + sum(map(piece.text.count, _SEPARATORS))
            violation: Violation | None = None
            if (
                len(piece.text) > settings.max_bytes
                or values > MAX_VALUES
                or values * self._complexity.keywords > MAX_WORK
                or values * self._complexity.fractions > MAX_FRACTION_WORK
                or len(piece.text) * self._complexity.patterns > MAX_PATTERN_WORK
            ):
                violation = Violation("JSON_TOO_LARGE", ())
            elif isinstance(document := parse(piece.text), Malformed):
                is_deep = document is TOO_DEEP
                violation = Violation("JSON_TOO_DEEP" if is_deep else "INVALID_JSON", ())
            else:
                yield
                if not is_shallow(document, levels=settings.max_depth):
                    violation = Violation("JSON_TOO_DEEP", ())
                elif not self._validator.is_valid(document):
                    yield
                    violation = yield from self._locator.locate(document)
            if violation is not None:
                place = piece.place + pointer_to(violation.path)
                end = len(piece.text)
                findings.append(Finding(guardrail, violation.type, index, 0, end, place=place))
            yield
        return tuple(findings)


@lru_cache(maxsize=256)
def json_schema_check(settings: JsonSchemaSettings) -> JsonSchemaCheck:
    """Return the same check for equal settings: it holds a compiled schema."""
    return JsonSchemaCheck(settings)


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
    checks: Iterable[SchemaGuardrail],
    read: Sequence[AnswerPiece] | None,
    *,
    clock: Callable[[], float],
) -> Cooperative[Results]:
    """Return one result a guardrail; `on_error` decides for None, an answer of unknown shape."""
    results: list[GuardrailResult] = []
    for one in checks:
        guardrail, began = one.guardrail, clock()
        findings: tuple[Finding, ...] = ()
        failure = UNKNOWN_SHAPE if read is None else None
        if read is not None:
            try:
                findings = yield from one.check.judge(guardrail.name, read)
            except Exception as error:  # noqa: BLE001 - any failure has the verdict of `on_error`
                failure = Failure.of(error)
        if failure is not None:
            verdict = failure.verdict(guardrail)
        elif findings:
            verdict = Verdict.FLAG if guardrail.action is Action.FLAG else Verdict.BLOCK
        else:
            verdict = Verdict.PASS
        results.append(
            GuardrailResult(
                guardrail, verdict, findings, began, clock() - began, failure,
                stage=Stage.OUTPUT,
            )
        )  # fmt: skip
    return tuple(results)
