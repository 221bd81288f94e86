"""Rules on the clusters of LLM providers: who is at the other end, and with whose key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from egret_tools.envoy_lint.config import (
    CREDENTIALS,
    Cluster,
    EnvoyConfig,
    filters_after,
    tls_of,
)
from egret_tools.envoy_lint.routing import routes_of, targets
from egret_tools.envoy_lint.rule import (
    ConfigRule,
    Hit,
    Look,
    Severity,
    in_each,
    is_signer,
    off,
    on,
    regex_matches,
)
from egret_tools.envoy_lint.source import Node

_INLINE: Final = ("inline_string", "inline_bytes")
_REDACTED: Final = ("[redacted]", "W3JlZGFjdGVkXQ==")
_LIMITS_OF_PROVIDERS: Final = {"x-ratelimit-", "anthropic-ratelimit-"}
_PINNED: Final = ("verify_certificate_hash", "verify_certificate_spki")
_TRUSTED: Final = (
    *("trusted_ca", "system_root_certs", "ca_certificate_provider_instance"),
    *("custom_validator_config", *_PINNED),
)
"""Fields of a validation context by which Envoy checks a certificate."""
_FOREIGN: Final = ("egret-lint", "www.egret-lint", "api.egret-lint")
_TOPS: Final = ("com", "net", "org", "io", "ai", "dev")
_OLD_TLS: Final = {"TLSv1_0", "TLSv1_1"}


def _remote(
    broken: Callable[[Cluster], Node | None],
    *,
    besides: Callable[[EnvoyConfig], Iterator[Cluster]],
) -> Look:
    """Look at providers that are not on this machine, and at the clusters *besides*."""

    def remote(config: EnvoyConfig) -> Iterator[Cluster]:
        named = {cluster.name: cluster for cluster in (*config.providers(), *besides(config))}
        return (cluster for cluster in named.values() if not cluster.is_local)

    return in_each(remote, broken, about=lambda cluster: f"cluster {cluster.name}")


def _receiving(config: EnvoyConfig) -> Iterator[Cluster]:
    """Yield the clusters that get requests beside providers: copies of them, and Egret's."""
    yield from (*config.mirrors(), *config.workers())


def _no_tls(cluster: Cluster) -> Node | None:
    if not cluster.tls.exists:
        return cluster.node.at("transport_socket")
    matches = (one.at("transport_socket") for one in cluster.node.at("transport_socket_matches"))
    return next((one for one in matches if not tls_of(one).exists), None)


def _in_the_clear(config: EnvoyConfig) -> Iterator[Hit]:
    """Look at all clusters of a patch, too: one that switches TLS off has no route beside it."""
    yield from _remote(_no_tls, besides=EnvoyConfig.mirrors)(config)
    for cluster in () if config.whole else config.clusters:
        socket = cluster.node.at("transport_socket")
        kind = socket.at("typed_config").type_name or socket.at("name").text
        is_plain = kind.endswith((".RawBuffer", ".raw_buffer"))
        if is_plain and not cluster.is_local and cluster.name not in config.egret:
            yield Hit(socket, f"cluster {cluster.name}".rstrip())


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
        if any(context.at(name).value for name in _TRUSTED) and not is_trusting:
            return None
    return cluster.tls.at("common_tls_context", "validation_context")


def _trusting(config: EnvoyConfig) -> Iterator[Hit]:
    """Look at all clusters of a patch, of which no route tells that they are a provider's."""
    yield from _remote(_unverified, besides=_receiving)(config)
    for cluster in () if config.whole else config.clusters:
        for context in _contexts(cluster):
            place = context.at("trust_chain_verification")
            if place.text == "ACCEPT_UNTRUSTED":
                yield Hit(place, f"cluster {cluster.name}".rstrip())


def _any_name(cluster: Cluster) -> Node | None:
    common = cluster.tls.at("common_tls_context")
    # A secret alone may have names as well; in a combined one they stand beside it.
    if not cluster.tls.exists or common.at("validation_context_sds_secret_config").exists:
        return None
    names = ("match_typed_subject_alt_names", "match_subject_alt_names", *_PINNED)
    for context in _contexts(cluster):
        for one in context.at("match_typed_subject_alt_names"):
            if one.at("san_type").text == "DNS" and _takes_foreign(one.at("matcher")):
                return one
        if any(True for name in names for _ in context.at(name)):
            return None
    is_automatic = (
        cluster.tls.at("auto_sni_san_validation").is_true
        or cluster.http_options.at("upstream_http_protocol_options", "auto_san_validation").is_true
    )
    return None if is_automatic else cluster.tls.at("common_tls_context", "validation_context")


def _takes_foreign(matcher: Node) -> bool:
    """Return whether a matcher of names takes one of a domain that anyone can register."""
    suffix = matcher.at("suffix").text
    if suffix:
        return not suffix.startswith(".") or suffix[1:] in _TOPS
    regex = matcher.at("safe_regex", "regex")
    is_wide = any(regex_matches(regex, f"{name}.{top}") for name in _FOREIGN for top in _TOPS)
    return bool(is_wide or matcher.at("prefix").text or matcher.at("contains").text)


def _expired(cluster: Cluster) -> Node | None:
    expired = (one.at("allow_expired_certificate") for one in _contexts(cluster))
    return next((one for one in expired if one.is_true), None)


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
        (one.tls.at("common_tls_context"), f"cluster {one.name}")
        for one in (*config.providers(), *config.workers())
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


def _no_credential(config: EnvoyConfig) -> Iterator[Hit]:
    if any(_added_to_all(config)):
        return
    for cluster in config.providers():
        filters = list(config.upstream_filters(cluster))
        names = (name for one in filters for name, _ in _written(one))
        is_added = any(map(is_signer, filters)) or not set(CREDENTIALS).isdisjoint(names)
        if not cluster.is_local and not is_added:
            yield Hit(cluster.http_options.at("http_filters"), f"cluster {cluster.name}")


def _added_to_all(config: EnvoyConfig) -> Iterator[Node]:
    """Yield the places, other than filters of clusters, that add a credential to requests."""
    removed = {
        name.text.lower()
        for one in config.override_holders()
        for name in one.at("request_headers_to_remove")
    }
    for one in filters_after(config):
        typed = one.at("typed_config")
        header = typed.at("credential", "typed_config", "header").text.lower() or "authorization"
        names = {name for name, _ in _written(typed)} | ({header} if is_signer(typed) else set())
        if not (names & set(CREDENTIALS)) <= removed:
            yield one
    for holder in config.override_holders():
        for one in holder.at("request_headers_to_add"):
            if one.at("header", "key").text.lower() in CREDENTIALS:
                yield one


def _written(settings: Node) -> Iterator[tuple[str, Node]]:
    """Yield the request headers that a filter for header mutations writes, with values."""
    for one in settings.at("mutations", "request_mutations"):
        header = one.at("append", "header")
        yield header.at("key").text.lower(), header.at("value")


def _any_host(config: EnvoyConfig) -> Iterator[Hit]:
    """Look for routes on which the client's Host is the address that gets a credential."""
    open_ = {
        one.name
        for one in config.clusters
        if one.is_forward_proxy and any(map(is_signer, config.upstream_filters(one)))
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
        for one in config.upstream_filters(cluster):
            mutations = one.at("mutations", "response_mutations")
            values = [each.at("append", "header", "value").text for each in mutations]
            removed = {
                each.at("remove_on_match", "key_matcher", "prefix").text for each in mutations
            }
            if any("(egret:" in value for value in values) and not removed >= _LIMITS_OF_PROVIDERS:
                yield Hit(mutations, f"cluster {cluster.name}")


def _injectors(config: EnvoyConfig) -> Iterator[Node]:
    for one in _filters(config):
        if one.type_name.endswith("CredentialInjector"):
            yield one


def _filters(config: EnvoyConfig) -> Iterator[Node]:
    """Yield the settings of the filters of all listeners, and of the clusters of providers."""
    for listener in config.listeners:
        yield from (one.at("typed_config") for one in listener.hcm.at("http_filters"))
    for cluster in config.providers():
        yield from config.upstream_filters(cluster)


def _shared_injector(config: EnvoyConfig) -> Iterator[Hit]:
    if len({one.name for one in config.providers()}) > 1:
        for one in filters_after(config):
            is_injector = one.at("typed_config").type_name.endswith("CredentialInjector")
            if is_injector and not one.at("disabled").is_true:
                yield Hit(one, one.at("name").text)


def _inline_secret(config: EnvoyConfig) -> Iterator[Hit]:
    nodes = [one.node for one in config.listeners] + [one.node for one in config.reached()]
    if config.bootstrap is not None:
        paths = {node.path for node in nodes}
        others = [one.node for one in config.clusters if one.node.path not in paths]
        named, elsewhere = map(_texts, (nodes, [*others, *config.elsewhere]))
        for one in config.bootstrap.at("static_resources", "secrets"):
            if (name := one.at("name").text) not in elsewhere - named:
                yield from (Hit(place, f"secret {name}") for place in _inlined(one))
    for node in nodes:
        for place in _inlined(node):
            # Of an inline secret that a control plane has sent, a config dump shows nothing.
            if place.text not in _REDACTED:
                yield Hit(place, node.at("name").text)


def _texts(nodes: list[Node]) -> set[str]:
    return {one.text for node in nodes for one in node.tree()}


def _inlined(node: Node) -> Iterator[Node]:
    """Yield the texts of secrets within a message, by the names that Envoy has for them."""
    for name, one in node.entries():
        if name in {"secret_access_key", "session_token"} and one.text:
            yield one
        if name in {"secret", "private_key", "password"}:
            yield from (place for kind in _INLINE if (place := one.at(kind)).text)
        yield from _inlined(one)
    for one in node:
        yield from _inlined(one)


def _key_in_headers(config: EnvoyConfig) -> Iterator[Hit]:
    """A provider's key written into a route or a filter is in every config dump."""
    written = [
        (one.at("header", "key").text.lower(), one.at("header", "value"))
        for holder in config.override_holders()
        for one in holder.at("request_headers_to_add")
    ]
    overrides = (
        one
        for holder in config.override_holders()
        for _, one in holder.at("typed_per_filter_config").entries()
    )
    for settings in (*_filters(config), *overrides):
        written += _written(settings)
    for name, value in written:
        if name in CREDENTIALS and value.text and "%" not in value.text:
            yield Hit(value, name)


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR301", "provider-no-tls", _E,
         "prompts and the provider's key leave this machine in the clear",
         "a transport_socket with UpstreamTlsContext",
         _in_the_clear),
    ConfigRule("EGR302", "provider-unverified", _E,
         "without a CA Envoy accepts any certificate: an attacker on the way can read everything",
         "common_tls_context.validation_context.trusted_ca", _trusting),
    ConfigRule("EGR303", "provider-any-name", _E,
         "a valid certificate of any other host is accepted",
         "match_typed_subject_alt_names, or auto_sni_san_validation: true",
         _remote(_any_name, besides=_receiving)),
    ConfigRule("EGR313", "certificates-expired", _W,
         "a certificate that has expired is accepted, also one whose key has leaked since",
         "leave allow_expired_certificate out", _remote(_expired, besides=_receiving)),
    ConfigRule("EGR304", "provider-no-sni", _W,
         "a provider behind a shared address answers with another host's certificate, or not at "
         "all",
         "sni, or auto_sni: true", _remote(_no_sni, besides=EnvoyConfig.mirrors)),
    ConfigRule("EGR305", "old-tls", _E,
         "TLS before 1.2 can be broken",
         "tls_minimum_protocol_version: TLSv1_2", _old_tls),
    ConfigRule("EGR306", "provider-no-credential", _W,
         "Egret removes the client's credential and the provider's is not added: 401",
         "credential_injector, or a request signer, among the cluster's http_filters",
         _no_credential),
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
         "a provider's key is in a route or a filter, and every config dump shows it",
         "credential_injector with an SDS file", _key_in_headers),
    ConfigRule("EGR311", "provider-limits-shown", _N,
         "clients see the rest of the account they all share, beside or instead of the rest of "
         "their own limits",
         "remove_on_match: {key_matcher: {prefix: …}} for x-ratelimit- and anthropic-ratelimit-, "
         "see docs/envoy.md", _foreign_limits),
    ConfigRule("EGR314", "credential-to-every-provider", _E,
         "there are several providers, and each receives this credential: one gets the key of "
         "another",
         "the injector among the http_filters of each provider's cluster", _shared_injector),
    ConfigRule("EGR312", "credential-to-any-host", _E,
         "the server is the one that a client's Host names, and receives the provider's "
         "credential",
         "host_rewrite_literal, or a virtual host for the provider's name alone", _any_host),
)  # fmt: skip
