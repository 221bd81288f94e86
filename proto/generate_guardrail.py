"""Write the messages of proto/egret/guardrail/v1 as a Python module and stub.

Not what protoc writes: that is tied to a version of protobuf, and registers in the default pool,
where another package may have an `egret/guardrail/v1/guardrail.proto` of its own.

Usage: python proto/generate_guardrail.py [FOLDER]   (or: make proto, which writes our own folder)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "sidecar" / "_generated"
NAME = "egret/guardrail/v1/guardrail"
PROGRAMS = Path(sys.executable).parent

MODULE = '''"""Made by proto/generate_guardrail.py; do not edit."""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

_FILES = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__package__).joinpath("guardrail.binpb").read_bytes()
).file
_POOL = descriptor_pool.DescriptorPool()
for _file in _FILES:
    _POOL.Add(_file)

'''


def built() -> descriptor_pb2.FileDescriptorSet:
    """Return the file, read by buf, without comments."""
    done = subprocess.run(  # noqa: S603 - a program of our own venv
        [
            str(PROGRAMS / "buf"),
            *("build", "--as-file-descriptor-set", "--exclude-source-info", "-o", "-"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return descriptor_pb2.FileDescriptorSet.FromString(done.stdout)


def module(file: descriptor_pb2.FileDescriptorProto) -> str:
    """Return a module that has the file's messages and enums."""
    lines = [
        f"{one.name} = message_factory.GetMessageClass(\n"
        f'    _POOL.FindMessageTypeByName("{file.package}.{one.name}")\n)'
        for one in file.message_type
    ]
    for one in file.enum_type:
        lines.append(
            f"{one.name} = enum_type_wrapper.EnumTypeWrapper(\n"
            f'    _POOL.FindEnumTypeByName("{file.package}.{one.name}")\n)'
        )
        lines += [f'{value.name} = {one.name}.Value("{value.name}")' for value in one.value]
    return MODULE + "\n".join(lines) + "\n"


def stub(files: descriptor_pb2.FileDescriptorSet) -> str:
    """Return the module's type stub, made by protoc-gen-mypy."""
    request = plugin_pb2.CodeGeneratorRequest(
        file_to_generate=[f"{NAME}.proto"], proto_file=files.file
    )
    done = subprocess.run(  # noqa: S603 - a program of our own venv
        [str(PROGRAMS / "protoc-gen-mypy")],
        input=request.SerializeToString(),
        stdout=subprocess.PIPE,
        check=True,
    )
    (file,) = plugin_pb2.CodeGeneratorResponse.FromString(done.stdout).file
    return file.content


def main(out: Path) -> None:
    """Write the generated files to *out*."""
    files = built()
    (file,) = files.file
    base = out / NAME
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_name("guardrail.binpb").write_bytes(files.SerializeToString(deterministic=True))
    base.with_name("guardrail_pb2.py").write_text(module(file))
    base.with_name("guardrail_pb2.pyi").write_text(stub(files))
    print(f"{file.package}: {len(file.message_type)} messages")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
