"""Write the table of names in Envoy's configuration that came after its oldest version given.

Each message, field and enum value of the last binary is dated by the first binary that has it.
Fields of a message that came in the same version are left out.

Usage: python proto/date_envoy_names.py 1.36=PATH 1.37=PATH … 1.40=PATH
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from extract_envoy_config import OUT, Limits, all_files
from google.protobuf import descriptor_pb2

TABLE = OUT.with_name("new_in_envoy.tsv")
LEFT_OUT = ("envoy.admin.", "envoy.data.", "xds.")
"""Nothing that a configuration holds."""


def names_in(binary: bytes) -> set[str]:
    """Return the full names; an enum's value as `Enum:VALUE`."""
    found: set[str] = set()
    for file in all_files(binary, Limits(binary)).values():
        for enum in file.enum_type:
            found |= _values(f"{file.package}.{enum.name}", enum)
        for message in file.message_type:
            found.update(_names(f"{file.package}.{message.name}", message))
    return {name for name in found if not name.startswith(LEFT_OUT)}


def _names(scope: str, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    yield scope
    for field in message.field:
        yield f"{scope}.{field.name}"
    for enum in message.enum_type:
        yield from _values(f"{scope}.{enum.name}", enum)
    for nested in message.nested_type:
        yield from _names(f"{scope}.{nested.name}", nested)


def _values(scope: str, enum: descriptor_pb2.EnumDescriptorProto) -> set[str]:
    return {f"{scope}:{value.name}" for value in enum.value}


def dated(binaries: dict[str, Path]) -> dict[str, str]:
    """Return the names of the last binary that the first one lacks, with their versions."""
    by_version = {version: names_in(path.read_bytes()) for version, path in binaries.items()}
    first, *_, last = by_version
    since = {
        name: next(version for version, names in by_version.items() if name in names)
        for name in by_version[last] - by_version[first]
    }
    return {name: version for name, version in since.items() if not _is_implied(name, since)}


def _is_implied(name: str, since: dict[str, str]) -> bool:
    """Return whether a message around *name* came in the same version."""
    parts = name.replace(":", ".").split(".")
    outer = (".".join(parts[:end]) for end in range(3, len(parts)))
    return any(since.get(one) == since[name] for one in outer)


if __name__ == "__main__":
    pairs = (argument.partition("=") for argument in sys.argv[1:])
    rows = sorted(dated({version: Path(path) for version, _, path in pairs}).items())
    TABLE.write_text("".join(f"{name}\t{version}\n" for name, version in rows))
    print(f"{len(rows)} names in {TABLE.name}")
