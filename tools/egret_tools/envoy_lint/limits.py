"""Limits that Envoy's messages put on values (`validate.rules` of protoc-gen-validate)."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from egret_tools.envoy_lint.source import JsonValue

Limit = Mapping[str, Any]

_HEADER_NAME: Final = {
    True: re.compile(r":?[0-9a-zA-Z!#$%&'*+\-.^_|~`]+"),
    False: re.compile(r"[^\x00\n\r]*"),
}
_HEADER_VALUE: Final = {
    True: re.compile(r"[^\x00-\x08\x0A-\x1F\x7F]*"),
    False: re.compile(r"[^\x00\n\r]*"),
}
_NUMBERS: Final = frozenset({"float", "double", "int32", "int64", "uint32", "uint64"})


@cache
def _all() -> Mapping[str, Limit]:
    packed = resources.files(__package__).joinpath("envoy_limits.json.xz").read_bytes()
    limits: dict[str, Limit] = json.loads(lzma.decompress(packed))
    return limits


@cache
def _of(descriptor: Descriptor) -> tuple[tuple[FieldDescriptor, Limit], ...]:
    named = ((one, _all().get(f"{descriptor.full_name}.{one.name}")) for one in descriptor.fields)
    return tuple((one, limit) for one, limit in named if limit is not None)


def broken_limits(
    descriptor: Descriptor,
    known: Mapping[str, JsonValue],
    bad: Collection[str],
    *,
    missing_too: bool,
) -> Iterator[tuple[str, str]]:
    """Yield each problem with the field that it is about.

    *bad* names fields that have another problem already.
    """
    for one, limit in _of(descriptor):
        if one.name in bad:
            continue
        if one.name in known:
            value = known[one.name]
        elif not missing_too or one.containing_oneof is not None:
            continue
        else:
            value = _default(one)
        yield from ((f"`{one.name}` {problem}", one.name) for problem in _broken(value, limit))
    for oneof in descriptor.oneofs if missing_too else ():
        if f"{descriptor.full_name}.{oneof.name}" in _all():
            names = [one.name for one in oneof.fields]
            if not any(name in known or name in bad for name in names):
                choices = " or ".join(f"`{name}`" for name in names)
                yield f"{choices} is missing", oneof.name


def _default(one: FieldDescriptor) -> JsonValue:
    if one.is_repeated:
        return []
    if one.message_type is not None:
        return None
    if one.enum_type is not None:
        return str(one.enum_type.values[0].name)
    default: JsonValue = one.default_value if not isinstance(one.default_value, bytes) else ""
    return default


def _broken(value: JsonValue, limit: Limit) -> Iterator[str]:
    """Yield how *value* breaks a limit; None is a message that is missing."""
    if value is None:
        kinds = [kind for kind in limit.values() if isinstance(kind, dict)]
        if any(kind.get("required") for kind in kinds):
            yield "is missing"
        return
    for kind, rules in limit.items():
        if kind in _NUMBERS:
            yield from _number(float(str(value)), rules)
        elif kind == "duration":
            yield from _number(float(str(value).removesuffix("s")), rules, unit="s")
        elif kind in {"string", "bytes"} and isinstance(value, str):
            yield from _text(value, rules)
        elif kind in {"repeated", "map"} and isinstance(value, (list, dict)):
            yield from _many(value, rules)
        elif kind == "enum" and rules.get("defined_only") and isinstance(value, int):
            yield f"is {value}, which is none of its values"
        elif kind == "bool" and value is not rules.get("const", value):
            yield f"must be {str(rules['const']).lower()}"


def _number(number: float, rules: Limit, unit: str = "") -> Iterator[str]:
    if rules.get("ignore_empty") and not number:
        return
    bounds = (
        ("gt", "more than", number.__gt__),
        ("gte", "at least", number.__ge__),
        ("lt", "less than", number.__lt__),
        ("lte", "at most", number.__le__),
    )
    for name, words, holds in bounds:
        if name in rules and not holds(float(str(rules[name]).removesuffix("s"))):
            yield f"is {number:g}{unit}, and must be {words} {rules[name]}"


def _text(text: str, rules: Limit) -> Iterator[str]:
    if rules.get("ignore_empty") and not text:
        return
    least, most = int(rules.get("min_len", 0)), int(rules.get("max_len", len(text)))
    if len(text) < least:
        yield "is missing" if not text else f"has less than {least} characters"
    elif len(text) > most or len(text.encode()) > int(rules.get("max_bytes", len(text.encode()))):
        yield "is too long"
    elif not _has_form(text, rules):
        yield f"is `{text}`, which Envoy does not accept there"


def _has_form(text: str, rules: Limit) -> bool:
    is_strict = bool(rules.get("strict", True))
    match rules.get("well_known_regex"):
        case "HTTP_HEADER_NAME" if not _HEADER_NAME[is_strict].fullmatch(text):
            return False
        case "HTTP_HEADER_VALUE" if not _HEADER_VALUE[is_strict].fullmatch(text):
            return False
        case _:
            pass
    if "in" in rules and text not in rules["in"]:
        return False
    starts = text.startswith(rules.get("prefix", "")) and text.endswith(rules.get("suffix", ""))
    return starts and ("pattern" not in rules or bool(re.search(rules["pattern"], text)))


def _many(value: list[JsonValue] | dict[str, JsonValue], rules: Limit) -> Iterator[str]:
    least = int(rules.get("min_items", rules.get("min_pairs", 0)))
    if len(value) < least:
        yield "is missing" if not value else f"has {len(value)} entries, and needs {least}"
    if len(value) > int(rules.get("max_items", rules.get("max_pairs", len(value)))):
        yield f"has {len(value)} entries, more than Envoy accepts"
    items: Iterable[JsonValue] = value.values() if isinstance(value, dict) else value
    for item in items:
        yield from _broken(item, rules.get("items", rules.get("values", {})))
    for key in value if isinstance(value, dict) else ():
        yield from _broken(key, rules.get("keys", {}))
