"""The keywords of JSON Schema draft 2020-12, by what they do with the schemas in them.

A keyword that is not here is refused where a policy is applied: one that nobody checks would look
as if it were. https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

from typing import Final

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

SAME_VALUE: Final = frozenset({"not", "if", "then", "else", "propertyNames"})
"""Hold one schema for the value itself; names of properties are part of it here."""
SAME_VALUE_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf"})
SAME_VALUE_MAPS: Final = frozenset({"dependentSchemas"})

CHILD: Final = frozenset(
    {"additionalProperties", "unevaluatedProperties", "items", "contains", "unevaluatedItems"}
)
"""Hold one schema for what is in the value."""
CHILD_LISTS: Final = frozenset({"prefixItems"})
CHILD_MAPS: Final = frozenset({"properties", "patternProperties"})

ASSERTIONS: Final = frozenset(
    """
    type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength
    minLength pattern maxItems minItems uniqueItems maxContains minContains maxProperties
    minProperties required dependentRequired format
    """.split()  # noqa: SIM905 - a list would be one word a line
)
NOTES: Final = frozenset(
    {
        "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples",
        "$comment", "$schema",
    }
)  # fmt: skip

ONE: Final = SAME_VALUE | CHILD
LISTS: Final = SAME_VALUE_LISTS | CHILD_LISTS
MAPS: Final = SAME_VALUE_MAPS | CHILD_MAPS | {"$defs"}
KNOWN: Final = ONE | LISTS | MAPS | ASSERTIONS | NOTES | {"$ref"}

MENDS: Final = {
    "$id": "leave it out: references stay within the schema",
    "$anchor": "refer by path, `#/$defs/NAME`",
    "$dynamicRef": "write `$ref`",
    "$dynamicAnchor": "refer by path, `#/$defs/NAME`",
    "definitions": "write `$defs`, and `#/$defs/NAME` in references",
    "dependencies": "write `dependentRequired` or `dependentSchemas`",
    "additionalItems": "write `prefixItems` and `items`",
    "nullable": 'write `type: [..., "null"]`',
    "discriminator": "leave it out: a `const` in each branch says the same",
    "example": "write `examples`",
    "contentEncoding": "leave it out: it is never checked",
    "contentMediaType": "leave it out: it is never checked",
    "contentSchema": "leave it out: it is never checked",
}
"""What to write for keywords of other drafts, of OpenAPI, and for those that check nothing."""

FORMATS: Final = frozenset(
    {
        "date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri",
        "uri-reference", "uuid", "json-pointer",
    }
)  # fmt: skip
"""Those that are checked. `regex` is left out: the answer would choose what is compiled."""
