"""Judges the structure of an answer in the bytes that leave, parsed as a program parses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sidecar.apis.response_structure import AnswerForm, AnswerPiece, AnswerStructure, framer_of
from sidecar.apis.response_text import DONE, load_event
from sidecar.domain.finding import Failed, GuardrailResult
from sidecar.guardrails.cooperative import SLICE_BYTES, Cooperative
from sidecar.guardrails.json_schema.check import SchemaGuardrail, check_structure

UNKNOWN_SHAPE: Final = "unknown_shape"
"""Error type of an answer in a form that is not known to hold a model's words."""


def judge_structure(
    body: bytes,
    form: AnswerForm,
    structured: Iterable[SchemaGuardrail],
    *,
    clock: Callable[[], float],
) -> Cooperative[tuple[GuardrailResult, ...]]:
    """Return one result a guardrail."""
    read = yield from _read(body, form)
    return (yield from check_structure(structured, read, clock=clock))


def _read(body: bytes, form: AnswerForm) -> Cooperative[Sequence[AnswerPiece] | Failed]:
    structure = AnswerStructure()
    framer = framer_of(form)
    if framer is not None:
        for start in range(0, len(body), SLICE_BYTES):
            for frame in framer.feed(body[start : start + SLICE_BYTES]):
                _take(structure, frame.payload)
            yield
        for frame in framer.finish():
            _take(structure, frame.payload)
    elif form is AnswerForm.JSON:
        _take(structure, body)
        yield
    if not structure.is_known or structure.is_overfull:
        return Failed(UNKNOWN_SHAPE)
    return structure.pieces()


def _take(structure: AnswerStructure, payload: bytes | None) -> None:
    if payload is None or payload.strip() in {b"", DONE}:
        return
    try:
        document: Any = load_event(payload)
    except (ValueError, RecursionError):
        return  # an answer without JSON is unscanned, and the policy decides on it
    structure.take(document)
