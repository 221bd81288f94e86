"""Plain sentences for the faults that pydantic finds, in documents, settings and options."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the domain needs no pydantic
    from pydantic_core import ErrorDetails

_TYPES: Final = {
    "extra_forbidden": "is not a known field",
    "missing": "is required",
    **dict.fromkeys(("tuple_type", "list_type", "set_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "dataclass_type", "mapping_type"), "must be a mapping"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "must be a mapping"),
    "string_type": "must be text",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "decimal_parsing"), "must be a number"),
}
"""Sentences by pydantic's type of fault; its own name Python's types."""

_PYTHON: Final = (
    (re.compile(r"^(Value error|Assertion failed), "), ""),
    (re.compile(r"^\w+ should "), "must "),
    (re.compile(r"greater than or equal to"), "at least"),
    (re.compile(r"less than or equal to"), "at most"),
)
_QUOTED: Final = re.compile(r"'([^']*)'")


def plain_fault(detail: ErrorDetails) -> str:
    """Return a fault in plain words, to stand after the name of its field."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in {"enum", "literal_error"}:
        return f"must be one of {', '.join(_QUOTED.findall(context['expected']))}"
    if kind in {"too_short", "too_long"}:
        # A secret is a value to pydantic, not a text.
        unit = "character" if context["field_type"] == "Value" else "item"
        side, count = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
        return f"must have at {side} {context[count]} {unit}{'s' * (context[count] != 1)}"
    words = detail["msg"]
    for pattern, plain in _PYTHON:
        words = pattern.sub(plain, words)
    return words
