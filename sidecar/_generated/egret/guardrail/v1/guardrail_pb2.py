"""Made by proto/generate_guardrail.py; do not edit."""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

_FILES = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__package__).joinpath("guardrail.binpb").read_bytes()
).file
_POOL = descriptor_pool.DescriptorPool()
for _file in _FILES:
    _POOL.Add(_file)

CheckRequest = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName("egret.guardrail.v1.CheckRequest")
)
Text = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName("egret.guardrail.v1.Text")
)
CheckResponse = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName("egret.guardrail.v1.CheckResponse")
)
Finding = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName("egret.guardrail.v1.Finding")
)
Stage = enum_type_wrapper.EnumTypeWrapper(
    _POOL.FindEnumTypeByName("egret.guardrail.v1.Stage")
)
STAGE_UNSPECIFIED = Stage.Value("STAGE_UNSPECIFIED")
STAGE_INPUT = Stage.Value("STAGE_INPUT")
STAGE_OUTPUT = Stage.Value("STAGE_OUTPUT")
Verdict = enum_type_wrapper.EnumTypeWrapper(
    _POOL.FindEnumTypeByName("egret.guardrail.v1.Verdict")
)
VERDICT_UNSPECIFIED = Verdict.Value("VERDICT_UNSPECIFIED")
VERDICT_PASS = Verdict.Value("VERDICT_PASS")
VERDICT_FLAG = Verdict.Value("VERDICT_FLAG")
VERDICT_REDACT = Verdict.Value("VERDICT_REDACT")
VERDICT_BLOCK = Verdict.Value("VERDICT_BLOCK")
