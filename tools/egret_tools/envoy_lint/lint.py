"""From the text of a configuration to its findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from egret_tools.envoy_lint.config import (
    EXT_PROC,
    HCM,
    Cluster,
    EnvoyConfig,
    EnvoyVersion,
    listeners_of,
    of_bootstrap,
    of_config_dump,
)
from egret_tools.envoy_lint.rule import Finding, Hit
from egret_tools.envoy_lint.rules import (
    BARE_SUPPRESSION,
    CONFIG_RULES,
    ENVOY_FILTER,
    IDLE_SUPPRESSION,
    RESOURCE_RULES,
    SCHEMA,
    UNKNOWN_EXTENSION,
)
from egret_tools.envoy_lint.schema import BOOTSTRAP, CONFIG_DUMP, SchemaError, settle
from egret_tools.envoy_lint.source import JsonValue, Mark, Node, Source, Suppression, read_source

_CLUSTER: Final = "envoy.config.cluster.v3.Cluster"


@dataclass(frozen=True, slots=True)
class Linted:
    """Findings of one file, by place; `suppressed` are those that comments silence."""

    findings: tuple[Finding, ...]
    suppressed: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """Facts beside the text: the name of Egret's cluster, and the version of Envoy."""

    cluster: str = "egret"
    envoy: EnvoyVersion | None = None


NOTHING_MORE: Final = Known()


def lint(name: str, text: str, *, known: Known = NOTHING_MORE) -> Linted:
    """Look for everything that is wrong in *text*.

    Raises:
        SourceError: neither YAML nor JSON.
    """
    sources = read_source(name, text) or (Source(name, None, text, {}),)
    found = [finding for source in sources for finding in _lint_source(source, known)]
    return _silenced(found, sources[0].suppressions, Source(name, None, text, {}))


def _lint_source(source: Source, known: Known) -> Iterator[Finding]:
    value = source.value
    if not isinstance(value, dict):
        yield _not_a_config(source)
    elif isinstance(value.get("kind"), str) and "apiVersion" in value:
        yield from _lint_resource(Node(value, source), known)
    else:
        yield from _lint_envoy(source, value, known)


def _not_a_config(source: Source) -> Finding:
    about = "neither an Envoy configuration, nor a config dump, nor a gateway's resource"
    return Finding(SCHEMA, Hit(Node(None, source), about))


def _lint_envoy(source: Source, value: dict[str, JsonValue], known: Known) -> Iterator[Finding]:
    is_dump = "configs" in value
    try:
        settled = settle(value, CONFIG_DUMP if is_dump else BOOTSTRAP)
    except SchemaError as error:
        yield Finding(SCHEMA, Hit(Node(None, source, error.place), error.problem))
        return
    root = Node(settled.value, source)
    for path, type_name in settled.unknown:
        yield Finding(UNKNOWN_EXTENSION, Hit(Node(None, source, path), type_name))
    read = of_config_dump if is_dump else of_bootstrap
    yield from _apply(_told(read(root, egret=known.cluster), known))


def _told(config: EnvoyConfig, known: Known) -> EnvoyConfig:
    return config if known.envoy is None else replace(config, envoy=known.envoy)


def _lint_resource(resource: Node, known: Known) -> Iterator[Finding]:
    kind = resource.at("kind").text
    for rule in RESOURCE_RULES:
        if rule.kind == kind:
            yield from (Finding(rule, hit) for hit in rule.look(resource))
    if kind == ENVOY_FILTER:
        yield from _lint_patches(resource, known)


def _lint_patches(resource: Node, known: Known) -> Iterator[Finding]:
    """Judge the patches of an EnvoyFilter as parts of a configuration."""
    config = EnvoyConfig(egret=known.cluster, whole=False, envoy=known.envoy)
    for patch in resource.at("spec", "configPatches"):
        value = patch.at("patch", "value")
        if patch.at("applyTo").text == "HTTP_FILTER":
            value = value.at("typed_config")
        message = {
            "CLUSTER": _CLUSTER,
            "LISTENER": "envoy.config.listener.v3.Listener",
        }.get(patch.at("applyTo").text, value.type_name)
        if message not in {_CLUSTER, EXT_PROC, HCM, "envoy.config.listener.v3.Listener"}:
            continue
        try:
            settled = _settled_at(value, message)
        except SchemaError as error:
            place = Node(None, value.source, (*value.path, *error.place))
            yield Finding(SCHEMA, Hit(place, error.problem))
            continue
        config = _with(config, settled, message)
    # A mesh names the cluster after the service, in a form of its own.
    named = [
        one.at("grpc_service", "envoy_grpc", "cluster_name").text for one in config.loose_filters
    ]
    yield from _apply(replace(config, egret=named[0] if named else known.cluster))


def _settled_at(node: Node, message: str) -> Node:
    value = node.value if isinstance(node.value, dict) else {}
    bare = {key: item for key, item in value.items() if key != "@type"}
    return Node(settle(bare, message).value, node.source, node.path)


def _with(config: EnvoyConfig, node: Node, message: str) -> EnvoyConfig:
    if message == EXT_PROC:
        return replace(config, loose_filters=(*config.loose_filters, node))
    if message == _CLUSTER:
        return replace(config, clusters=(*config.clusters, Cluster(node)))
    return replace(config, listeners=(*config.listeners, *listeners_of(node)))


def _apply(config: EnvoyConfig) -> Iterator[Finding]:
    for rule in CONFIG_RULES:
        yield from (Finding(rule, hit) for hit in rule.look(config))


def _silenced(
    found: Iterable[Finding], suppressions: tuple[Suppression, ...], source: Source
) -> Linted:
    findings: dict[tuple[str, int, int, str], Finding] = {}
    silenced: list[Finding] = []
    used: set[tuple[int, str]] = set()
    for one in found:
        mark = one.hit.node.mark
        by = next(
            (s for s in suppressions if s.line == mark.line and one.rule.id in s.rules), None
        )
        if by is not None:
            used.add((by.line, one.rule.id))
            silenced.append(one)
        else:
            findings.setdefault((one.rule.id, mark.line, mark.column, one.hit.about), one)
    extra = list(_on_suppressions(suppressions, used, source))
    ordered = sorted(
        [*findings.values(), *extra], key=lambda one: (one.hit.node.mark.line, one.rule.id)
    )
    return Linted(tuple(ordered), tuple(silenced))


def _on_suppressions(
    suppressions: tuple[Suppression, ...], used: set[tuple[int, str]], source: Source
) -> Iterator[Finding]:
    for one in suppressions:
        place = _line(source, one.line)
        if not one.reason:
            yield Finding(BARE_SUPPRESSION, Hit(place, ", ".join(sorted(one.rules))))
        idle = sorted(rule for rule in one.rules if (one.line, rule) not in used)
        if idle:
            yield Finding(IDLE_SUPPRESSION, Hit(place, ", ".join(idle)))


def _line(source: Source, line: int) -> Node:
    return Node(None, replace(source, marks={(): Mark(line, 1)}))
