"""Configuration read by Envoy's own messages: every field known, names and defaults settled."""

from __future__ import annotations

import difflib
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from egret_tools.envoy_lint.limits import broken_limits
from egret_tools.envoy_lint.scalars import (
    WELL_KNOWN,
    ScalarError,
    quoted,
    read_scalar,
    read_well_known,
)
from egret_tools.envoy_lint.source import JsonValue, Path

BOOTSTRAP: Final = "envoy.config.bootstrap.v3.Bootstrap"
CONFIG_DUMP: Final = "envoy.admin.v3.ConfigDump"
FILTER: Final = "envoy.config.listener.v3.Filter"
HTTP_FILTER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
HCM: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

_PREFIX: Final = "type.googleapis.com/"
_OPAQUE: Final = f"{_PREFIX}google.protobuf.Struct"
ANY: Final = "google.protobuf.Any"
_TYPED_STRUCTS: Final = frozenset({"xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"})
_NAMED: Final = frozenset({
    HTTP_FILTER, FILTER, "envoy.config.accesslog.v3.AccessLog",
    "envoy.config.core.v3.TransportSocket", "envoy.config.listener.v3.ListenerFilter",
})  # fmt: skip
"""Messages of an extension, which Envoy finds by the type of its settings alone."""
_TYPED: Final = frozenset({"typed_config", "config_discovery"})
_NEAR: Final = 0.8
"""Similarity (difflib) from which an unknown field is read as a misspelt one."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A place that Envoy does not accept.

    `at_name`: the name is at fault, not the value. `left_out`: the value is not in what is read.
    """

    text: str
    place: Path
    at_name: bool = False
    left_out: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """A message as plain values: field names as in the .proto files, enums by name.

    `unknown` has the places of extensions whose type Envoy 1.40 does not have; they are kept as
    they are and no rule looks into them. Values with `problems` are left out. `recent` has the
    places of names that Envoy 1.36 lacks, with the first minor version that has them.
    """

    value: JsonValue
    unknown: tuple[tuple[Path, str], ...] = ()
    problems: tuple[Problem, ...] = ()
    recent: tuple[tuple[Path, str], ...] = ()


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """Return all of Envoy's configuration messages; takes some hundred milliseconds, once."""
    packed = resources.files(__package__).joinpath("envoy_config.binpb.xz").read_bytes()
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(lzma.decompress(packed)).file:
        made.Add(file)
    return made


def settle(value: JsonValue, message: str, *, is_part: bool = False) -> Settled:
    """Read *value* as *message*; a part of one may lack fields that Envoy requires."""
    descriptor = pool().FindMessageTypeByName(message)
    reading = _Reading(is_part=is_part)
    known: Any = reading.message(value, descriptor, ())
    target: Any = message_factory.GetMessageClass(descriptor)()
    try:
        json_format.ParseDict(known or {}, target, descriptor_pool=pool())
    except (json_format.ParseError, ValueError, TypeError):
        reading.problems.append(Problem(f"not readable as {message}", ()))
        target.Clear()
    plain = json_format.MessageToDict(
        target,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=pool(),
    )
    recent = tuple(reading.recent)
    return Settled(plain, tuple(reading.unknown), tuple(reading.problems), recent)


@cache
def _since() -> dict[str, str]:
    """Return the first minor version of messages, fields and enum values that 1.36 lacks.

    Of a message that is new itself its fields are left out. By the descriptors in Envoy 1.36.4,
    1.37.0, 1.38.3, 1.39.3 and 1.40.0.
    """
    table = resources.files(__package__).joinpath("new_in_envoy.tsv").read_text()
    return dict(line.split("\t") for line in table.splitlines())


def is_known(type_name: str) -> bool:
    """Return whether Envoy 1.40 has a message of this name."""
    try:
        pool().FindMessageTypeByName(type_name)
    except KeyError:
        return False
    return True


def has_field_of(value: dict[str, JsonValue], message: str) -> bool:
    """Return whether any key of *value* is a field of *message*."""
    return not _fields(pool().FindMessageTypeByName(message)).keys().isdisjoint(value)


@dataclass(frozen=True, slots=True)
class Spot:
    """A message within another: its type, and the steps to it by Envoy's own names.

    Each index of a list is 0. `is_list`: a list of such messages is there. `is_map`: a map.
    """

    message: str
    steps: Path
    is_list: bool = False
    is_map: bool = False


def spot_at(message: str, steps: Path) -> Spot | None:
    """Return the message at *steps* below *message*; None for a scalar, or within an extension.

    A network filter is taken for an HTTP connection manager.
    """
    spot = Spot(message, ())
    for step in steps:
        if spot.is_list or spot.is_map:
            spot = Spot(spot.message, (*spot.steps, 0 if spot.is_list else step))
            continue
        if spot.message == ANY:
            if spot.steps[-3::2] != ("filters", "typed_config"):
                return None
            spot = Spot(HCM, spot.steps)
        found = _fields(pool().FindMessageTypeByName(spot.message)).get(str(step))
        if found is None or found.message_type is None:
            return None
        steps_to, is_map = (*spot.steps, found.name), found.message_type.GetOptions().map_entry
        held = found.message_type.fields_by_name["value"] if is_map else found
        if held.message_type is None:
            return None
        is_list = found.is_repeated and not is_map
        spot = Spot(held.message_type.full_name, steps_to, is_list, is_map)
    return spot


@cache
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    """Return the fields of a message by both of their names."""
    named = {one.camelcase_name: one for one in descriptor.fields}
    return named | {one.name: one for one in descriptor.fields}


@dataclass
class _Reading:
    """One pass over a value; collects all problems, and returns the rest as Envoy's own names."""

    is_part: bool
    problems: list[Problem] = field(default_factory=list)
    unknown: list[tuple[Path, str]] = field(default_factory=list)
    recent: list[tuple[Path, str]] = field(default_factory=list)

    def _date(self, name: str, path: Path) -> None:
        if since := _since().get(name):
            self.recent.append((path, since))

    def message(self, value: JsonValue, descriptor: Descriptor, path: Path) -> JsonValue:
        """Return what is right of *value*; None if it is no such message at all."""
        name = descriptor.full_name
        if name == ANY:
            return self._extension(value, path)
        try:
            if name in WELL_KNOWN:
                return read_well_known(value, name)
        except ScalarError as error:
            self._note(str(error), path)
            return None
        if not isinstance(value, dict):
            self._note(f"{quoted(value)} stands where Envoy has a mapping", path)
            return None
        known: dict[str, JsonValue] = {}
        bad: set[str] = set()
        self._date(name, path)
        for key, one, item in self._entries(value, descriptor, path):
            self._date(one.full_name, (*path, key))
            read = self._field(item, one, (*path, key))
            if read is None:
                bad.add(one.name)
            else:
                known[one.name] = read
        missing_too = not self.is_part
        for problem, about in broken_limits(descriptor, known, bad, missing_too=missing_too):
            place = _place_of(about, value, path)
            self.problems.append(Problem(_without_secrets(problem, place), place))
        if name in _NAMED and not self.is_part and known.keys().isdisjoint(_TYPED) and not bad:
            self._note("has no `typed_config`, so Envoy has no filter or extension for it", path)
        return known

    def _entries(
        self, value: dict[str, JsonValue], descriptor: Descriptor, path: Path
    ) -> Iterator[tuple[str, FieldDescriptor, JsonValue]]:
        taken: dict[str, str] = {}
        for key, item in value.items():
            found = _fields(descriptor).get(key) or self._misspelt(key, value, descriptor, path)
            if found is None or item is None:
                continue
            group = found.containing_oneof.name if found.containing_oneof else found.name
            if group in taken:
                self._note(f"only one of `{taken[group]}` and `{key}` may be set", (*path, key))
                continue
            taken[group] = key
            yield key, found, item

    def _misspelt(
        self, key: str, value: dict[str, JsonValue], descriptor: Descriptor, path: Path
    ) -> FieldDescriptor | None:
        """Report a name that is no field; return the field that was meant, if it is clear."""
        fields = _fields(descriptor)
        near = difflib.get_close_matches(key, fields, n=1, cutoff=_NEAR)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        text = f"Envoy 1.40 knows no field `{key}` here{hint}"
        self.problems.append(Problem(text, (*path, key), at_name=True))
        return fields[near[0]] if near and near[0] not in value else None

    def _field(self, item: JsonValue, one: FieldDescriptor, path: Path) -> JsonValue:
        if one.message_type is not None and one.message_type.GetOptions().map_entry:
            return self._map(item, one.message_type, path)
        if not one.is_repeated:
            return self._single(item, one, path)
        # Envoy takes a single value for a list of one, and null for a message of defaults.
        items = item if isinstance(item, list) else [item]
        read = [
            self._single({} if each is None else each, one, (*path, index))
            for index, each in enumerate(items)
        ]
        if one.message_type is None or one.message_type.full_name in WELL_KNOWN:
            return [each for each in read if each is not None]
        # A message that is left out would move those behind it to other places.
        return [{} if each is None else each for each in read]

    def _map(self, item: JsonValue, entry: Descriptor, path: Path) -> JsonValue:
        if not isinstance(item, dict):
            self._note(f"{quoted(item)} stands where Envoy has a mapping", path)
            return None
        held = entry.fields_by_name["value"]
        pairs = ((key, self._single(each, held, (*path, key))) for key, each in item.items())
        return {key: each for key, each in pairs if each is not None}

    def _single(self, item: JsonValue, one: FieldDescriptor, path: Path) -> JsonValue:
        if one.message_type is not None:
            return self.message(item, one.message_type, path)
        try:
            read = read_scalar(item, one)
        except ScalarError as error:
            self._note(str(error), path)
            return None
        if one.enum_type is not None:
            self._date(f"{one.enum_type.full_name}:{read}", path)
        return read

    def _extension(self, value: JsonValue, path: Path) -> JsonValue:
        type_url = value.get("@type") if isinstance(value, dict) else None
        if not isinstance(value, dict) or (value and not isinstance(type_url, str)):
            self._note("an extension needs its `@type`", path)
            return None
        if not isinstance(type_url, str):
            return value
        rest = {key: item for key, item in value.items() if key != "@type"}
        name = type_url.rpartition("/")[2]
        if not is_known(name):
            self.unknown.append((path, name))
            return {"@type": _OPAQUE, "value": rest}
        if name in _TYPED_STRUCTS:
            return self._typed_struct(rest, path)
        if name in WELL_KNOWN:
            return {"@type": _PREFIX + name, "value": rest.get("value")}
        read = self.message(rest, pool().FindMessageTypeByName(name), path)
        return {"@type": _PREFIX + name, **(read if isinstance(read, dict) else {})}

    def _typed_struct(self, rest: dict[str, JsonValue], path: Path) -> JsonValue:
        """Unwrap a message that is written as a struct, as control planes do (xds/type/v3)."""
        name = str(rest.get("type_url", rest.get("typeUrl", ""))).rpartition("/")[2]
        value = rest.get("value") or {}
        if not is_known(name):
            self.unknown.append((path, name))
            return {"@type": _OPAQUE, "value": value}
        read = self.message(value, pool().FindMessageTypeByName(name), (*path, "value"))
        return {"@type": _PREFIX + name, **(read if isinstance(read, dict) else {})}

    def _note(self, text: str, path: Path) -> None:
        self.problems.append(Problem(_without_secrets(text, path), path, left_out=True))


def _place_of(name: str, value: dict[str, JsonValue], path: Path) -> Path:
    """Return the place of a field as it is written, or of its message if it is missing."""
    written = next((key for key in value if key == name or _snake(key) == name), None)
    return path if written is None else (*path, written)


_SECRET: Final = re.compile(r"inline|secret|password|token|credential|key", re.IGNORECASE)
_SHOWN: Final = re.compile(r"`([^`]*)`")
_SHOWN_CHARACTERS: Final = 60


def _without_secrets(text: str, place: Path) -> str:
    """Leave long values out of a message, and all of those that may be secrets."""
    is_secret = any(_SECRET.search(step) for step in place[-2:] if isinstance(step, str))
    name = place[-1] if place else ""

    def shown(match: re.Match[str]) -> str:
        is_name = match[1] == name or _snake(str(name)) == match[1]
        if (is_secret and not is_name) or len(match[1]) > _SHOWN_CHARACTERS:
            return "the value"
        return match[0]

    return _SHOWN.sub(shown, text)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
