"""What we know of Envoy's messages, held against the descriptors of the installed Envoy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar._generated.envoy.extensions.filters.http.ext_proc.v3 import (
    processing_mode_pb2 as modes,
)
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar._generated.pool import POOL
from sidecar.extproc.codec import decode
from sidecar.extproc.phases import BodyMode
from sidecar.server.options import PROCESS_METHOD, SERVICE_NAME

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "sidecar" / "_generated"
OUR_OWN = {Path("__init__.py"), Path("pool.py")}
"""Files of the generated folder that are written by hand."""

REQUEST_KINDS = {
    "request_headers",
    "request_body",
    "request_trailers",
    "response_headers",
    "response_body",
    "response_trailers",
}


def kinds(message: str, oneof: str) -> set[str]:
    """Return the names of the fields of a oneof of an ext_proc message."""
    descriptor = POOL.FindMessageTypeByName(f"envoy.service.ext_proc.v3.{message}")
    return {field.name for field in descriptor.oneofs_by_name[oneof].fields}


def test_envoy_sends_the_kinds_of_message_we_know_and_no_others() -> None:
    """A kind that a new Envoy adds must be thought about before it is met."""
    assert kinds("ProcessingRequest", "request") == REQUEST_KINDS


def test_envoy_takes_the_kinds_of_answer_we_know_and_no_others() -> None:
    """`streamed_immediate_response` is known and not used."""
    assert kinds("ProcessingResponse", "response") == REQUEST_KINDS | {
        "immediate_response",
        "streamed_immediate_response",
    }


def test_a_body_is_changed_in_the_ways_we_know() -> None:
    """`body` for BUFFERED, `streamed_response` for FULL_DUPLEX_STREAMED."""
    assert kinds("BodyMutation", "mutation") == {"body", "clear_body", "streamed_response"}


@pytest.mark.parametrize("kind", sorted(REQUEST_KINDS))
def test_every_kind_of_message_is_decoded(kind: str) -> None:
    """Even an empty one becomes exactly one event."""
    message = ext.ProcessingRequest()
    getattr(message, kind).SetInParent()
    assert decode(message.SerializeToString()).kind == kind


def test_every_body_mode_has_a_name_here() -> None:
    """The exchange decides per mode whether it can be a gate."""
    assert set(modes.ProcessingMode.BodySendMode.keys()) == {mode.value for mode in BodyMode}


def test_the_service_and_its_method_are_called_as_we_serve_them() -> None:
    """A misspelt path would be UNIMPLEMENTED at the first request."""
    service = POOL.FindServiceByName(SERVICE_NAME)
    assert [f"/{service.full_name}/{method.name}" for method in service.methods] == [
        PROCESS_METHOD
    ]


@pytest.mark.parametrize(
    ("message", "field", "number"),
    [
        ("ProcessingRequest", "protocol_config", 11),
        ("ProcessingRequest", "observability_mode", 10),
        ("ProcessingResponse", "dynamic_metadata", 8),
        ("ProcessingResponse", "mode_override", 9),
        ("ProcessingResponse", "immediate_response", 7),
        ("ProcessingResponse", "streamed_immediate_response", 11),
        ("ImmediateResponse", "status", 1),
        ("ImmediateResponse", "details", 5),
    ],
)
def test_the_fields_that_decide_have_their_numbers(message: str, field: str, number: int) -> None:
    """Older descriptors use number 11 of the response for something else."""
    descriptor = POOL.FindMessageTypeByName(f"envoy.service.ext_proc.v3.{message}")
    assert descriptor.fields_by_name[field].number == number


def generated(folder: Path) -> dict[Path, bytes]:
    """Return what is in *folder*, by path within it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {
        path.relative_to(folder): path.read_bytes()
        for path in files
        if not path.is_relative_to(folder / "egret")  # our own protocol's, made by another script
    }


def test_the_generated_files_are_those_of_the_installed_envoy(tmp_path: Path) -> None:
    """Nobody edited them, and a new Envoy asks for `make proto`."""
    done = subprocess.run(
        [sys.executable, ROOT / "proto" / "extract_envoy.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    committed = generated(GENERATED)
    assert committed.keys() - generated(tmp_path).keys() == OUR_OWN
    assert generated(tmp_path) == {
        path: content for path, content in committed.items() if path not in OUR_OWN
    }


ROUND_TRIP = """
from sidecar.extproc.codec import REQUEST_TRAILERS_ANSWER, decode
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
message = ext.ProcessingRequest(request_trailers=ext.HttpTrailers()).SerializeToString()
print(decode(message).kind.value, REQUEST_TRAILERS_ANSWER.hex())
"""
ROUND_TRIPPED = "request_trailers 2a00\n"


@pytest.mark.parametrize(
    "other",
    [
        'raise ImportError("another package owns this name")',
        "",
    ],
    ids=["broken", "empty"],
)
def test_another_package_called_envoy_does_no_harm(tmp_path: Path, other: str) -> None:
    """Two distributions bring a top-level `envoy`; whichever wins, ours is not asked for."""
    (tmp_path / "envoy").mkdir()
    (tmp_path / "envoy" / "__init__.py").write_text(other)
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n{ROUND_TRIP}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == (ROUND_TRIPPED, 0), done.stderr


def test_the_same_file_in_the_default_pool_does_no_harm() -> None:
    """A library may load its own idea of Envoy's files into the pool of the process."""
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from google.protobuf import descriptor_pb2, descriptor_pool
for name in (
    "envoy/config/core/v3/base.proto",
    "envoy/service/ext_proc/v3/external_processor.proto",
):
    file = descriptor_pb2.FileDescriptorProto(name=name, package=f"another{{len(name)}}")
    file.message_type.add(name="HeaderMap")
    descriptor_pool.Default().Add(file)
{ROUND_TRIP}"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == (ROUND_TRIPPED, 0), done.stderr


def imported(source: str) -> set[str]:
    """Return the top-level names that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name.split(".")[0] for alias in node.names}
            case ast.ImportFrom(module=str(module), level=0):
                names.add(module.split(".")[0])
            case _:
                pass
    return names


def test_no_module_of_ours_imports_the_top_level_envoy() -> None:
    """It would be whichever package was installed last; stubs count, as editors follow them."""
    modules = [*(ROOT / "sidecar").rglob("*.py"), *(ROOT / "sidecar").rglob("*.pyi")]
    offenders = [
        str(path.relative_to(ROOT))
        for path in modules
        if imported(path.read_text()) & {"envoy", "xds"}
    ]
    assert len(modules) > len(OUR_OWN)
    assert offenders == []


def test_there_is_no_python_in_the_folder_of_envoys_configuration() -> None:
    """A module there would shadow an installed `envoy` for whoever works in this folder."""
    assert [path.name for path in (ROOT / "envoy").rglob("*.py*")] == []
