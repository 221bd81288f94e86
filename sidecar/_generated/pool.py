"""A descriptor pool of our own.

The default pool is one for the whole process: two packages that bring their own idea of a file
such as `envoy/config/core/v3/base.proto` cannot both be imported. Nothing can collide with ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper
from google.protobuf.message import Message


def files() -> Sequence[descriptor_pb2.FileDescriptorProto]:
    """Return the files of the pool, dependencies first."""
    path = resources.files(__package__).joinpath("envoy.binpb")
    return descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file


POOL = descriptor_pool.DescriptorPool()
for _file in files():
    POOL.Add(_file)


def message_class(full_name: str) -> type[Message]:
    """Return the message class called *full_name*."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


def enum(full_name: str) -> enum_type_wrapper.EnumTypeWrapper:
    """Return the enum called *full_name*."""
    return enum_type_wrapper.EnumTypeWrapper(POOL.FindEnumTypeByName(full_name))
