"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

Pipe = pool.message_class("envoy.config.core.v3.Pipe")
EnvoyInternalAddress = pool.message_class("envoy.config.core.v3.EnvoyInternalAddress")
SocketAddress = pool.message_class("envoy.config.core.v3.SocketAddress")
TcpKeepalive = pool.message_class("envoy.config.core.v3.TcpKeepalive")
ExtraSourceAddress = pool.message_class("envoy.config.core.v3.ExtraSourceAddress")
BindConfig = pool.message_class("envoy.config.core.v3.BindConfig")
Address = pool.message_class("envoy.config.core.v3.Address")
CidrRange = pool.message_class("envoy.config.core.v3.CidrRange")
