"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

ProtocolConfiguration = pool.message_class("envoy.service.ext_proc.v3.ProtocolConfiguration")
ProcessingRequest = pool.message_class("envoy.service.ext_proc.v3.ProcessingRequest")
ProcessingResponse = pool.message_class("envoy.service.ext_proc.v3.ProcessingResponse")
HttpHeaders = pool.message_class("envoy.service.ext_proc.v3.HttpHeaders")
HttpBody = pool.message_class("envoy.service.ext_proc.v3.HttpBody")
HttpTrailers = pool.message_class("envoy.service.ext_proc.v3.HttpTrailers")
HeadersResponse = pool.message_class("envoy.service.ext_proc.v3.HeadersResponse")
BodyResponse = pool.message_class("envoy.service.ext_proc.v3.BodyResponse")
TrailersResponse = pool.message_class("envoy.service.ext_proc.v3.TrailersResponse")
StreamedImmediateResponse = pool.message_class("envoy.service.ext_proc.v3.StreamedImmediateResponse")
CommonResponse = pool.message_class("envoy.service.ext_proc.v3.CommonResponse")
ImmediateResponse = pool.message_class("envoy.service.ext_proc.v3.ImmediateResponse")
GrpcStatus = pool.message_class("envoy.service.ext_proc.v3.GrpcStatus")
HeaderMutation = pool.message_class("envoy.service.ext_proc.v3.HeaderMutation")
StreamedBodyResponse = pool.message_class("envoy.service.ext_proc.v3.StreamedBodyResponse")
BodyMutation = pool.message_class("envoy.service.ext_proc.v3.BodyMutation")
