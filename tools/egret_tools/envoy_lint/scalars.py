"""Reads single values as Envoy's JSON parser does: numbers, enums, durations, wrappers."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from egret_tools.envoy_lint.source import JsonValue


class ScalarError(ValueError):
    """A value that the field does not take; the message says why."""


_PACKAGE: Final = "google.protobuf."
_WRAPPERS: Final = {
    f"{_PACKAGE}BoolValue": FieldDescriptor.CPPTYPE_BOOL,
    f"{_PACKAGE}StringValue": FieldDescriptor.CPPTYPE_STRING,
    f"{_PACKAGE}Int32Value": FieldDescriptor.CPPTYPE_INT32,
    f"{_PACKAGE}Int64Value": FieldDescriptor.CPPTYPE_INT64,
    f"{_PACKAGE}UInt32Value": FieldDescriptor.CPPTYPE_UINT32,
    f"{_PACKAGE}UInt64Value": FieldDescriptor.CPPTYPE_UINT64,
    f"{_PACKAGE}FloatValue": FieldDescriptor.CPPTYPE_FLOAT,
    f"{_PACKAGE}DoubleValue": FieldDescriptor.CPPTYPE_DOUBLE,
}
_AS_WRITTEN: Final = frozenset({f"{_PACKAGE}Value", f"{_PACKAGE}BytesValue"})
_MAPPINGS: Final = frozenset({f"{_PACKAGE}Struct", f"{_PACKAGE}Empty"})
_TEXTS: Final = {
    f"{_PACKAGE}Duration": (
        re.compile(r"\d{1,12}(?:\.\d{1,9})?s"),
        "a duration: seconds with an `s`, such as 10s or 0.25s",
    ),
    f"{_PACKAGE}Timestamp": (
        re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"),
        "a time, such as 2026-01-31T00:00:00Z",
    ),
    f"{_PACKAGE}FieldMask": (re.compile(r"[\w.,]*"), "a list of fields"),
}
WELL_KNOWN: Final = frozenset({
    *_WRAPPERS, *_AS_WRITTEN, *_MAPPINGS, *_TEXTS, f"{_PACKAGE}ListValue",
})  # fmt: skip
"""Messages with a form of their own in JSON (protobuf's ProtoJSON)."""

_PLAIN: Final = {
    **dict.fromkeys(_WRAPPERS, frozenset({"value"})),
    f"{_PACKAGE}Duration": frozenset({"seconds", "nanos"}),
}
_BOUNDS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_SHOWN_NAMES: Final = 8


def read_well_known(value: JsonValue, name: str) -> JsonValue:
    """Return *value* as one of protobuf's own messages.

    Raises:
        ScalarError: it is none.
    """
    if isinstance(value, dict) and name in _PLAIN and value.keys() <= _PLAIN[name]:
        value = _of_fields(value)
    if name in _WRAPPERS:
        return _read(value, _WRAPPERS[name])
    if name in _AS_WRITTEN:
        return value
    if name in _MAPPINGS:
        if not isinstance(value, dict):
            raise ScalarError(f"`{value}` stands where Envoy has a mapping")
        return value
    if name in _TEXTS:
        form, words = _TEXTS[name]
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ScalarError(f"{quoted(value)} is not {words}")
        return value
    if not isinstance(value, list):
        raise ScalarError(f"{quoted(value)} stands where Envoy has a list")
    return value


def _of_fields(value: dict[str, JsonValue]) -> JsonValue:
    """Read a wrapper or a duration that is written field by field, which Envoy takes as well."""
    if "value" in value:
        return value["value"]
    nanos = value.get("nanos", 0)
    fraction = f".{nanos:09d}" if isinstance(nanos, int) and nanos else ""
    return f"{value.get('seconds', 0)}{fraction}s"


def read_scalar(value: JsonValue, field: FieldDescriptor) -> JsonValue:
    """Return *value* as the field's type, an enum by its name.

    Raises:
        ScalarError: it is not of that type.
    """
    if field.enum_type is not None:
        return _enum(value, field.enum_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(value)
    return _read(value, field.cpp_type)


def _read(value: JsonValue, kind: int) -> JsonValue:
    if isinstance(value, (dict, list)):
        raise ScalarError(f"{quoted(value)} stands where Envoy has a single value")
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _string(value)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _bool(value)
    if kind in _BOUNDS:
        return _integer(value, *_BOUNDS[kind])
    return _float(value)


def _bool(value: JsonValue) -> bool:
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ScalarError(f"{quoted(value)} is neither true nor false")
    return value


def _string(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(value)  # Envoy's YAML has no floats: it reads them as text
    raise ScalarError(f"{quoted(value)} is not text: put it in quotes")


def _integer(value: JsonValue, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ScalarError(f"{quoted(value)} is not a number")
    if isinstance(value, str) and "_" in value:
        raise ScalarError(f"{quoted(value)} is not a number")
    try:
        number = float(value) if isinstance(value, str) and not _is_digits(value) else value
        read = int(number)
    except (ValueError, OverflowError):
        raise ScalarError(f"{quoted(value)} is not a number") from None
    if isinstance(number, float) and read != number:
        raise ScalarError(f"{quoted(value)} is not a whole number")
    if not least <= read <= most:
        raise ScalarError(f"{quoted(value)} is not between {least} and {most}")
    return read


def _is_digits(text: str) -> bool:
    return text.removeprefix("-").isdigit()


def _float(value: JsonValue) -> JsonValue:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ScalarError(f"{quoted(value)} is not a number")
    try:
        float(value)
    except ValueError:
        raise ScalarError(f"{quoted(value)} is not a number") from None
    return value


def _enum(value: JsonValue, enum: EnumDescriptor) -> JsonValue:
    """Read a name in any case: Envoy's parser has `case_insensitive_enum_parsing` on."""
    if isinstance(value, str) and _is_digits(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        known = enum.values_by_number.get(value)
        return value if known is None else str(known.name)
    if isinstance(value, str):
        for name in enum.values_by_name:
            if name.lower() == value.lower():
                return str(name)
    names = list(enum.values_by_name)
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    raise ScalarError(f"{quoted(value)} is none of {shown}")


def _bytes(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ScalarError(f"{quoted(value)} is not text in base64")
    try:
        base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        try:
            base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            raise ScalarError(f"{quoted(value)} is not base64") from None
    return value


def quoted(value: JsonValue) -> str:
    """Return a scalar in backquotes, and the kind of anything else."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
