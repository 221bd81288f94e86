"""Rules on the clusters of LLM providers: who is at the other end, and with whose key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from egret_tools.envoy_lint.config import Cluster, EnvoyConfig, routes_of, targets
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Look, Severity, in_each, off, on
from egret_tools.envoy_lint.source import Node

_SIGNERS: Final = ("CredentialInjector", "AwsRequestSigning", "GcpAuthnFilterConfig")
_LIMITS_OF_PROVIDERS: Final = {"x-ratelimit-", "anthropic-ratelimit-"}
_OLD_TLS: Final = {"TLSv1_0", "TLSv1_1"}


def _remote(broken: Callable[[Cluster], Node | None], *, with_mirrors: bool = True) -> Look:
    """Look at providers that are not on this machine, and at clusters that get copies."""

    def remote(config: EnvoyConfig) -> Iterator[Cluster]:
        mirrors = config.mirrors() if with_mirrors else ()
        named = {cluster.name: cluster for cluster in (*config.providers(), *mirrors)}
        return (cluster for cluster in named.values() if not cluster.is_local)

    return in_each(remote, broken, about=lambda cluster: f"cluster {cluster.name}")


def _no_tls(cluster: Cluster) -> Node | None:
    return None if cluster.tls.exists else cluster.node.at("transport_socket")


def _contexts(cluster: Cluster) -> tuple[Node, ...]:
    common = cluster.tls.at("common_tls_context")
    combined = common.at("combined_validation_context", "default_validation_context")
    return common.at("validation_context"), combined


def _by_sds(cluster: Cluster) -> bool:
    common = cluster.tls.at("common_tls_context")
    secret = common.at("validation_context_sds_secret_config")
    combined = common.at("combined_validation_context", "validation_context_sds_secret_config")
    return secret.exists or combined.exists


def _unverified(cluster: Cluster) -> Node | None:
    if not cluster.tls.exists or _by_sds(cluster):
        return None
    for context in _contexts(cluster):
        is_trusting = context.at("trust_chain_verification").text == "ACCEPT_UNTRUSTED"
        has_authority = context.at("trusted_ca").exists or context.at("system_root_certs").exists
        if has_authority and not is_trusting:
            return None
    return cluster.tls.at("common_tls_context", "validation_context")


def _any_name(cluster: Cluster) -> Node | None:
    if not cluster.tls.exists or _by_sds(cluster):
        return None
    names = ("match_typed_subject_alt_names", "match_subject_alt_names",
             "verify_certificate_hash", "verify_certificate_spki")  # fmt: skip
    for context in _contexts(cluster):
        if any(True for name in names for _ in context.at(name)):
            return None
    is_automatic = (
        cluster.tls.at("auto_sni_san_validation").is_true
        or cluster.http_options.at("upstream_http_protocol_options", "auto_san_validation").is_true
    )
    return None if is_automatic else cluster.tls.at("common_tls_context", "validation_context")


def _no_sni(cluster: Cluster) -> Node | None:
    if not cluster.tls.exists:
        return None
    options = cluster.http_options.at("upstream_http_protocol_options")
    is_automatic = options.at("auto_sni").is_true or cluster.tls.at("auto_host_sni").is_true
    addresses = [one.address.at("socket_address", "address").text for one in cluster.endpoints()]
    is_numeric = bool(addresses) and all(not any(c.isalpha() for c in one) for one in addresses)
    if is_automatic or is_numeric or cluster.tls.at("sni").text:
        return None
    return cluster.tls.at("sni")


def _old_tls(config: EnvoyConfig) -> Iterator[Hit]:
    places = [
        (one.tls.at("common_tls_context"), f"cluster {one.name}") for one in config.providers()
    ]
    for listener in config.listeners:
        typed = listener.chain.at("transport_socket", "typed_config")
        places.append(
            (typed.at("common_tls_context"), f"listener {listener.node.at('name').text}")
        )
    for common, about in places:
        version = common.at("tls_params", "tls_minimum_protocol_version")
        if version.text in _OLD_TLS:
            yield Hit(version, about, replacement="TLSv1_2")


def _no_credential(cluster: Cluster) -> Node | None:
    for one in cluster.http_filters():
        if one.type_name.endswith(_SIGNERS):
            return None
    return cluster.http_options.at("http_filters")


def _any_host(config: EnvoyConfig) -> Iterator[Hit]:
    """Look for routes on which the client's Host is the address that gets a credential."""
    open_ = {
        one.name
        for one in config.clusters
        if one.is_forward_proxy
        and any(each.type_name.endswith(_SIGNERS) for each in one.http_filters())
    }
    for host in config.virtual_hosts():
        names_any = any("*" in domain.text for domain in host.at("domains"))
        for route in routes_of(host) if names_any else ():
            literal = route.at("route", "host_rewrite_literal")
            for name in () if literal.text else open_.intersection(targets(route.at("route"))):
                yield Hit(literal, f"cluster {name}")


def _foreign_limits(config: EnvoyConfig) -> Iterator[Hit]:
    """Where Envoy writes Egret's headers, it has to take the provider's own of their kind away."""
    for cluster in config.providers():
        for one in cluster.http_filters():
            mutations = one.at("mutations", "response_mutations")
            values = [each.at("append", "header", "value").text for each in mutations]
            removed = {
                each.at("remove_on_match", "key_matcher", "prefix").text for each in mutations
            }
            if any("(egret:" in value for value in values) and not removed >= _LIMITS_OF_PROVIDERS:
                yield Hit(mutations, f"cluster {cluster.name}")


def _injectors(config: EnvoyConfig) -> Iterator[Node]:
    filters = [one for cluster in config.providers() for one in cluster.http_filters()]
    for listener in config.listeners:
        filters += [one.at("typed_config") for one in listener.hcm.at("http_filters")]
    for one in filters:
        if one.type_name.endswith("CredentialInjector"):
            yield one


def _inline_secret(config: EnvoyConfig) -> Iterator[Hit]:
    if config.bootstrap is None:
        return
    for one in config.bootstrap.at("static_resources", "secrets"):
        for name in ("inline_string", "inline_bytes"):
            place = one.at("generic_secret", "secret", name)
            if place.text:
                yield Hit(place, f"secret {one.at('name').text}")


def _key_in_headers(config: EnvoyConfig) -> Iterator[Hit]:
    """A provider's key written into a route is in every config dump."""
    holders = [*config.route_configs, *config.virtual_hosts(), *config.routes()]
    for holder in holders:
        for one in holder.at("request_headers_to_add"):
            name = one.at("header", "key").text.lower()
            value = one.at("header", "value")
            if name in {"authorization", "x-api-key", "api-key"} and "%" not in value.text:
                yield Hit(value, name)


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR301", "provider-no-tls", _E,
         "prompts and the provider's key leave this machine in the clear",
         "a transport_socket with UpstreamTlsContext", _remote(_no_tls)),
    ConfigRule("EGR302", "provider-unverified", _E,
         "without a CA Envoy accepts any certificate: an attacker on the way can read everything",
         "common_tls_context.validation_context.trusted_ca", _remote(_unverified)),
    ConfigRule("EGR303", "provider-any-name", _E,
         "a valid certificate of any other host is accepted",
         "match_typed_subject_alt_names, or auto_sni_san_validation: true", _remote(_any_name)),
    ConfigRule("EGR304", "provider-no-sni", _W,
         "a provider behind a shared address answers with another host's certificate, or not at "
         "all",
         "sni, or auto_sni: true", _remote(_no_sni)),
    ConfigRule("EGR305", "old-tls", _E,
         "TLS before 1.2 can be broken",
         "tls_minimum_protocol_version: TLSv1_2", _old_tls),
    ConfigRule("EGR306", "provider-no-credential", _W,
         "Egret removes the client's credential and the provider's is not added: 401",
         "credential_injector, or a request signer, among the cluster's http_filters",
         _remote(_no_credential, with_mirrors=False)),
    ConfigRule("EGR307", "credential-not-overwritten", _E,
         "if a request has a credential already, it goes to the provider instead of yours",
         "overwrite: true", in_each(_injectors, off("overwrite"), "true")),
    ConfigRule("EGR308", "credential-optional", _W,
         "while the secret is missing, requests go out without a credential instead of failing",
         "allow_request_without_credential: false",
         in_each(_injectors, on("allow_request_without_credential"), "false")),
    ConfigRule("EGR309", "secret-inline", _E,
         "a secret is in the configuration: in version control, backups and config dumps",
         "an SDS file: path_config_source with watched_directory", _inline_secret),
    ConfigRule("EGR310", "key-in-route", _E,
         "a provider's key is in a route, and every config dump shows it",
         "credential_injector with an SDS file", _key_in_headers),
    ConfigRule("EGR311", "provider-limits-shown", _N,
         "clients see the rest of the account they all share, beside or instead of the rest of "
         "their own limits",
         "remove_on_match: {key_matcher: {prefix: …}} for x-ratelimit- and anthropic-ratelimit-, "
         "see docs/envoy.md", _foreign_limits),
    ConfigRule("EGR312", "credential-to-any-host", _E,
         "the server is the one that a client's Host names, and receives the provider's "
         "credential",
         "host_rewrite_literal, or a virtual host for the provider's name alone", _any_host),
)  # fmt: skip
