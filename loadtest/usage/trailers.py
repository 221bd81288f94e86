"""Envoy whose AI filter sends its counts to ext_proc in trailers, as docs/usage.md has it."""

from __future__ import annotations

from typing import Any, Final

from sidecar.domain.usage import USAGE_NAMESPACE

AI_FILTER: Final = "envoy.filters.http.ai_protocol_manager"
EXT_PROC: Final = "envoy.filters.http.ext_proc"


def counted_by_envoy(config: dict[str, Any]) -> None:
    """Move the AI filter of our configuration from the listener to each provider's cluster.

    Trailers that a filter of the listener's chain adds never reach ext_proc. The access log to
    Egret goes.
    """
    resources = config["static_resources"]
    for manager in (
        network["typed_config"]
        for listener in resources["listeners"]
        for chain in listener["filter_chains"]
        for network in chain["filters"]
    ):
        named = {one["name"]: one for one in manager["http_filters"]}
        counting = named[AI_FILTER]
        manager["http_filters"].remove(counting)
        manager["access_log"] = [
            one for one in manager.get("access_log", ()) if "open_telemetry" not in one["name"]
        ]
        found = counting["typed_config"]["response_handling"]["token_usage"]
        found["usage_signal"] = "SYNTHESIZE_TRAILERS"
        metadata = named[EXT_PROC]["typed_config"]["metadata_options"]
        metadata["forwarding_namespaces"] = {"typed": [USAGE_NAMESPACE]}
        for cluster in resources["clusters"]:
            for options in cluster.get("typed_extension_protocol_options", {}).values():
                if "http_filters" in options:
                    options["http_filters"].insert(0, counting)
