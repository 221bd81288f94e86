"""The limits of a key as dynamic metadata, on which Envoy's own rate limits act."""

from __future__ import annotations

import pytest

from tests.support.more_workers import more_workers
from tests.support.ratelimit_server import ratelimit_server
from tests.support.second_gateway import Adapt, Config, connection_managers
from tests.support.stack import Stack, chat
from tests.support.stack_steps import a_change, command

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

MINUTE = 2
"""Of `envoy.type.v3.RateLimitUnit`."""


def limited_by(port: int) -> Adapt:
    """Ask a server on this port about each key, with the amount that Egret names."""

    def adapt(config: Config) -> None:
        endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
        options = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3"
                ".HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
        config["static_resources"]["clusters"].append(
            {
                "name": "ratelimit",
                "type": "STATIC",
                "connect_timeout": "30s",
                "typed_extension_protocol_options": options,
                "load_assignment": {
                    "cluster_name": "ratelimit",
                    "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
                },
            }
        )
        named = {
            "descriptor_key": "key_id",
            "source": "DYNAMIC",
            "metadata_key": {"key": "egret", "path": [{"key": "key_id"}]},
        }
        amount = {"metadata_key": {"key": "egret", "path": [{"key": "limit_requests"}]}}
        limit = {"actions": [{"metadata": named}], "limit": {"dynamic_metadata": amount}}
        for manager in connection_managers(config):
            names = [one["name"] for one in manager["http_filters"]]
            manager["http_filters"].insert(
                names.index("envoy.filters.http.ext_proc") + 1,
                {
                    "name": "envoy.filters.http.ratelimit",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3"
                        ".RateLimit",
                        "domain": "egret",
                        "failure_mode_deny": True,
                        # By default 20 ms, which a busy machine takes to connect.
                        "timeout": "30s",
                        "rate_limit_service": {
                            "transport_api_version": "V3",
                            "grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit"}},
                        },
                    },
                },
            )
            for host in manager["route_config"]["virtual_hosts"]:
                host["rate_limits"] = [limit]

    return adapt


async def test_envoys_rate_limits_act_on_the_amount_that_egret_names(session_stack: Stack) -> None:
    """Set by `egret limits`, counted by a server that knows nothing of Egret."""
    settings = {
        "EGRET_LIMITS__IN_METADATA": "true",
        "EGRET_VALKEY__URL": session_stack.facts.valkey_url,
    }
    async with (
        ratelimit_server() as server,
        more_workers(
            session_stack, limited_by(server.port), workers=1, settings=settings
        ) as stack,
    ):
        async with a_change(stack):
            key = await stack.new_key("free")
        async with a_change(stack):
            words = ("requests/minute=3", "--burst", "3")
            await command(stack, "limits", "set", "--key", key.key_id, *words)
        answers = [await stack.post(chat("hello"), key=key.reveal()) for _ in range(2)]
        server.counts[key.key_id,] = 3  # as other gateways have counted
        refused = await stack.post(chat("hello"), key=key.reveal())

        assert [one.status for one in answers] == [200, 200]
        assert server.overrides == {(key.key_id,): (3, MINUTE)}
        assert (refused.status, "x-envoy-ratelimited" in refused.headers) == (429, True)
