"""How a schema is compiled: nothing is fetched, formats are checked, patterns take linear time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import jsonschema_rs

MAX_PATTERN_BYTES: Final = 10_000
"""Of one compiled expression. What does not fit is refused; of what does, the worst takes 0.3 µs
a character (`[ab]*a[ab]{50}`), a usual one a hundredth of that."""


def compile_schema(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Compile a schema of draft 2020-12.

    Raises:
        jsonschema_rs.ValidationError: it cannot be compiled; the path says where.
    """
    return jsonschema_rs.Draft202012Validator(
        json.dumps(schema),
        offline=True,
        validate_formats=True,
        ignore_unknown_formats=False,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
    )
