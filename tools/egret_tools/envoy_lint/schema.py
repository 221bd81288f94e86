"""Configuration read by Envoy's own messages: every field known, names and defaults settled."""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from egret_tools.envoy_lint.source import JsonValue, Path

BOOTSTRAP: Final = "envoy.config.bootstrap.v3.Bootstrap"
CONFIG_DUMP: Final = "envoy.admin.v3.ConfigDump"

_PREFIX: Final = "type.googleapis.com/"
_OPAQUE: Final = f"{_PREFIX}google.protobuf.Struct"
_AT: Final = re.compile(r' at "([^"]+)"')
_NO_FIELD: Final = re.compile(r'no field named "([^"]+)"')


class SchemaError(ValueError):
    """A value that Envoy's messages do not allow; `place` is the nearest path that is known."""

    def __init__(self, problem: str, place: Path) -> None:
        super().__init__(problem)
        self.problem = problem
        self.place = place


@dataclass(frozen=True, slots=True)
class Settled:
    """A message as plain values: field names as in the .proto files, enums by name.

    `unknown` has the places of extensions whose type Envoy 1.40 does not have; they are kept as
    they are and no rule looks into them.
    """

    value: JsonValue
    unknown: tuple[tuple[Path, str], ...]


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """Return all of Envoy's configuration messages; takes some hundred milliseconds, once."""
    packed = resources.files(__package__).joinpath("envoy_config.binpb.xz").read_bytes()
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(lzma.decompress(packed)).file:
        made.Add(file)
    return made


def settle(value: dict[str, JsonValue], message: str) -> Settled:
    """Read *value* as *message*.

    Raises:
        SchemaError: an unknown field or a value of another type.
    """
    unknown: list[tuple[Path, str]] = []
    known: Any = _opaque_where_unknown(value, (), unknown)
    target: Any = message_factory.GetMessageClass(pool().FindMessageTypeByName(message))()
    try:
        json_format.ParseDict(known, target, descriptor_pool=pool())
    except (json_format.ParseError, ValueError, TypeError) as error:
        raise _described(str(error)) from None
    plain = json_format.MessageToDict(
        target,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=pool(),
    )
    return Settled(plain, tuple(unknown))


def _opaque_where_unknown(
    value: JsonValue, path: Path, unknown: list[tuple[Path, str]]
) -> JsonValue:
    if isinstance(value, list):
        return [
            _opaque_where_unknown(item, (*path, index), unknown)
            for index, item in enumerate(value)
        ]
    if not isinstance(value, dict):
        return value
    type_url = value.get("@type")
    if isinstance(type_url, str) and not _is_known(type_url):
        unknown.append((path, type_url.rpartition("/")[2]))
        rest = {key: item for key, item in value.items() if key != "@type"}
        return {"@type": _OPAQUE, "value": rest}
    return {key: _opaque_where_unknown(item, (*path, key), unknown) for key, item in value.items()}


def _is_known(type_url: str) -> bool:
    try:
        pool().FindMessageTypeByName(type_url.rpartition("/")[2])
    except KeyError:
        return False
    return True


def _described(text: str) -> SchemaError:
    """Turn the library's words into ours, and its path into the steps of a path."""
    at = _AT.findall(text)
    steps: list[str | int] = []
    for step in at[-1].split(".")[1:] if at else ():
        name, _, index = step.partition("[")
        steps.append(name)
        if index.rstrip("]").isdigit():
            steps.append(int(index.rstrip("]")))
    field = _NO_FIELD.search(text)
    if field is not None:
        return SchemaError(f"Envoy 1.40 knows no field `{field[1]}` here", (*steps, field[1]))
    return SchemaError(text.rpartition(": ")[2].rstrip("."), tuple(steps))
