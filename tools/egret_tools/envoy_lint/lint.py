"""From the text of a configuration to its findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeGuard

from egret_tools.envoy_lint.config import (
    DEFAULT_CLUSTER,
    EXT_PROC,
    Cluster,
    EnvoyConfig,
    EnvoyVersion,
    listeners_of,
    of_bootstrap,
    of_config_dump,
    tcp_listeners_of,
)
from egret_tools.envoy_lint.parts import (
    CLUSTER,
    LISTENER,
    ROUTES,
    Part,
    Unread,
    discovered,
    embedded_bootstraps,
    embedded_templates,
    is_without_envoy,
    parts_of_filter,
    parts_of_policy,
    unread_resource,
)
from egret_tools.envoy_lint.rule import Finding, Hit
from egret_tools.envoy_lint.rules import (
    BARE_SUPPRESSION,
    CONFIG_RULES,
    IDLE_SUPPRESSION,
    NOT_CHECKED,
    RESOURCE_RULES,
    SCHEMA,
    TOO_NEW,
    UNKNOWN_EXTENSION,
)
from egret_tools.envoy_lint.rules.edge import NO_FILTER, lacks_egret
from egret_tools.envoy_lint.rules.gateways import READ
from egret_tools.envoy_lint.rules.versions import OUTDATED
from egret_tools.envoy_lint.schema import (
    BOOTSTRAP,
    CONFIG_DUMP,
    Problem,
    Settled,
    has_field_of,
    settle,
)
from egret_tools.envoy_lint.scope import scoped
from egret_tools.envoy_lint.source import (
    JsonValue,
    Mark,
    Node,
    Path,
    Source,
    Suppression,
    read_source,
    template_mark,
)
from egret_tools.envoy_lint.startup import refusals


@dataclass(frozen=True, slots=True)
class Linted:
    """Findings of one file, by place.

    `suppressed` are those that comments silence, `unchecked` the parts that no rule reads.
    `assumed` names the clusters that are taken for Egret's because ext_proc filters call them,
    `without_envoy` counts the Kubernetes resources that hold no Envoy configuration.
    """

    findings: tuple[Finding, ...]
    suppressed: tuple[Finding, ...] = ()
    unchecked: tuple[Finding, ...] = ()
    assumed: tuple[str, ...] = ()
    without_envoy: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """Facts beside the text: the name of Egret's cluster, and the version of Envoy.

    Without a name it is `egret`, or else the clusters that ext_proc filters call.
    """

    cluster: str | None = None
    envoy: EnvoyVersion | None = None


NOTHING_MORE: Final = Known()


def lint(name: str, text: str, *, known: Known = NOTHING_MORE) -> Linted:
    """Look for everything that is wrong in *text*.

    Raises:
        SourceError: neither YAML nor JSON.
    """
    sources = read_source(name, text)
    # Nothing between two `---` is no document to complain about, unless there is no other.
    sources = tuple(one for one in sources if one.value is not None) or sources[:1]
    whole = Source(name, None, text, {})
    pass_ = _Pass(known)
    found = [finding for source in sources or (whole,) for finding in pass_.document(source)]
    suppressions = sources[0].suppressions if sources else ()
    return replace(
        _silenced(found, suppressions, whole),
        assumed=tuple(sorted(pass_.assumed)),
        without_envoy=pass_.without_envoy,
    )


@dataclass
class _Pass:
    """One pass over the documents of a file."""

    known: Known
    assumed: set[str] = field(default_factory=set)
    without_envoy: int = 0

    def document(self, source: Source) -> Iterator[Finding]:
        """Yield the findings of one document, by its form."""
        value = source.value
        if _is_map(value) and isinstance(value.get("kind"), str) and "apiVersion" in value:
            yield from self._resource(Node(value, source))
            return
        found = list(self._configuration(source, value))
        template = template_mark(source.text)
        if template is not None and any(one.rule is SCHEMA for one in found):
            # One finding, instead of one for each value that is not there yet.
            yield _template(source, template)
        else:
            yield from found

    def _configuration(self, source: Source, value: JsonValue) -> Iterator[Finding]:
        if not _is_map(value):
            yield _not_a_config(source)
        elif "configs" in value:
            yield from self._envoy(source, CONFIG_DUMP)
        elif has_field_of(value, BOOTSTRAP):
            yield from self._envoy(source, BOOTSTRAP)
        elif isinstance(value.get("resources"), list):
            yield from self._parts(discovered(Node(value, source)))
        else:
            yield _not_a_config(source)

    def _envoy(self, source: Source, message: str, *, is_part: bool = False) -> Iterator[Finding]:
        settled = settle(source.value, message, is_part=is_part)
        if message == CONFIG_DUMP:
            settled = _as_running(settled, source)
        yield from _of_schema(settled, Node(None, source))
        for mark in source.merges:
            place = Node(None, replace(source, marks={(): mark}))
            yield Finding(SCHEMA, Hit(place, "Envoy's YAML does not merge `<<`"))
        root = Node(settled.value, source)
        config = of_config_dump(root) if message == CONFIG_DUMP else of_bootstrap(root)
        if message == BOOTSTRAP and not is_part:
            yield from (Finding(SCHEMA, hit) for hit in refusals(config))
            yield from map(_unread, _from_a_control_plane(config))
        config = replace(config, whole=not is_part, envoy=self.known.envoy or config.envoy)
        left_out = [one.place for one in settled.problems if one.left_out]
        config = self._with_workers(config)
        found = list(self._rules(config, left_out))
        yield from found
        yield from _too_new(settled, config.envoy, Node(None, source), found)

    def _with_workers(self, config: EnvoyConfig) -> EnvoyConfig:
        """Name the clusters of Egret's workers: as told, by their usual name, or as called."""
        if self.known.cluster is not None:
            return replace(config, egret=frozenset({self.known.cluster}))
        asked = config.asked_clusters()
        has_default = any(one.name == DEFAULT_CLUSTER for one in config.clusters)
        if has_default or DEFAULT_CLUSTER in asked or not asked:
            return config
        self.assumed |= asked
        return replace(config, egret=asked)

    def _rules(self, config: EnvoyConfig, left_out: list[Path]) -> Iterator[Finding]:
        """Apply all rules; a value that was left out is reported already."""
        if config.whole:
            config = scoped(config)
        for rule in (NO_FILTER,) if lacks_egret(config) else CONFIG_RULES:
            for hit in rule.look(config):
                if not any(hit.node.path[: len(path)] == path for path in left_out):
                    yield Finding(rule, hit)

    def _resource(self, resource: Node) -> Iterator[Finding]:
        kind = resource.at("kind").text
        for rule in RESOURCE_RULES:
            if kind in rule.kinds:
                yield from (Finding(rule, hit) for hit in rule.look(resource))
        match kind:
            case "EnvoyFilter":
                yield from self._parts(parts_of_filter(resource))
            case "EnvoyPatchPolicy":
                yield from self._parts(parts_of_policy(resource))
            case "ConfigMap":
                yield from self._embedded(resource, "data", is_part=False)
            case "EnvoyProxy":
                yield from self._embedded(resource, "spec", "bootstrap", is_part=True)
            case "List":
                for one in resource.at("items"):
                    yield from self._resource(one)
            case _ if kind not in READ:
                yield from self._unread_unless_plain(resource)
            case _:
                pass

    def _unread_unless_plain(self, resource: Node) -> Iterator[Finding]:
        if is_without_envoy(resource):
            self.without_envoy += 1
        else:
            yield _unread(unread_resource(resource))

    def _embedded(self, resource: Node, *steps: str, is_part: bool) -> Iterator[Finding]:
        """Judge the static configurations that a resource holds as text."""
        files = list(embedded_bootstraps(resource, *steps))
        for one in files:
            yield from self._envoy(one, BOOTSTRAP, is_part=is_part)
        templates = list(embedded_templates(resource, *steps))
        yield from (_template(resource.source, mark) for mark in templates)
        if not files and not templates:
            yield from self._unread_unless_plain(resource)

    def _parts(self, parts: Iterable[Part | Unread]) -> Iterator[Finding]:
        """Judge patches, or resources of xDS, as parts of one configuration."""
        config = EnvoyConfig(whole=False, envoy=self.known.envoy)
        left_out: list[Path] = []
        read: list[tuple[Settled, Part]] = []
        for part in parts:
            if isinstance(part, Unread):
                yield _unread(part)
                continue
            value = part.node.value
            if _is_map(value) and part.spot.message == part.whole:
                value = {name: one for name, one in value.items() if name != "@type"}
            settled = settle(value, part.spot.message, is_part=part.is_merged)
            yield from _of_schema(settled, part.node)
            read.append((settled, part))
            left_out += [(*part.path, *one.place) for one in settled.problems if one.left_out]
            config = _with(config, part.root(settled.value), part.whole)
        # A mesh names the cluster after the service, in a form of its own.
        asked = config.asked_clusters()
        if asked:
            config = replace(config, egret=asked)
        elif self.known.cluster is not None:
            config = replace(config, egret=frozenset({self.known.cluster}))
        starts = {part.node.path: part for _, part in read}
        found = [one for one in self._rules(config, left_out) if _is_of(starts, one.hit.node)]
        yield from found
        for settled, part in read:
            yield from _too_new(settled, config.envoy, part.node, found)


def _is_of(parts: Mapping[Path, Part], node: Node) -> bool:
    """Return whether a node is of one of *parts*, by their places, and not of what they lack."""
    above = (node.path[:length] for length in range(len(node.path) + 1))
    return any(parts[path].has(node) for path in above if path in parts)


def _as_running(dump: Settled, source: Source) -> Settled:
    """Put filters that a control plane sends apart into their lists; leave endpoints unjudged.

    Envoy writes endpoints with a weight of 0 into its dump, which it would not take itself.
    """
    configs = list(Node(dump.value, source).at("configs"))
    sent = {
        one.at("name").text: one.at("typed_config").value
        for each in configs
        for one in (held.at("ecds_filter") for held in each.at("ecds_filters"))
    }
    pending: list[JsonValue] = [dump.value]
    while pending:
        match pending.pop():
            case dict() as fields if fields.get("config_discovery") and fields.get("name") in sent:
                fields["typed_config"] = sent[str(fields["name"])]
            case dict() as fields:
                pending += fields.values()
            case list() as items:
                pending += items
            case _:
                pass
    endpoints = {one.path for one in configs if one.type_name.endswith(".EndpointsConfigDump")}
    problems = tuple(one for one in dump.problems if one.place[:2] not in endpoints)
    return replace(dump, problems=problems)


_DISCOVERED: Final = {
    "lds_config": "listeners",
    "cds_config": "clusters",
    "rds": "routes",
    "scoped_routes": "routes",
    "vhds": "virtual hosts",
    "config_discovery": "the settings of a filter",
}
"""Fields of a static configuration for parts that another file or a control plane has."""


def _from_a_control_plane(config: EnvoyConfig) -> Iterator[Unread]:
    """Yield the parts that a static configuration does not have itself."""
    hcms = [listener.hcm for listener in config.listeners]
    filters = [one for hcm in hcms for one in hcm.at("http_filters")]
    roots = () if config.bootstrap is None else (config.bootstrap.at("dynamic_resources"),)
    for holder in (*roots, *hcms, *filters, *config.route_configs):
        for field_, words in _DISCOVERED.items():
            if (place := holder.at(field_)).exists:
                yield Unread(place, f"{words} that are discovered")


def _is_map(value: JsonValue) -> TypeGuard[dict[str, JsonValue]]:
    return isinstance(value, dict)


def _not_a_config(source: Source) -> Finding:
    about = "neither an Envoy configuration, nor a config dump, nor a gateway's resource"
    hint = "name a file that is one of these"
    return Finding(SCHEMA, Hit(Node(None, source), about, risk=NOT_CHECKED.risk, hint=hint))


def _template(source: Source, mark: Mark) -> Finding:
    place = Node(None, replace(source, marks={(): mark}))
    about, hint = "this looks like a template", "render it first, then check the result"
    return Finding(SCHEMA, Hit(place, about, risk=NOT_CHECKED.risk, hint=hint))


def _unread(unread: Unread) -> Finding:
    return Finding(NOT_CHECKED, Hit(unread.node, unread.about))


def _of_schema(settled: Settled, root: Node) -> Iterator[Finding]:
    for problem in settled.problems:
        yield Finding(SCHEMA, Hit(_place(problem, root), problem.text))
    for path, type_name in settled.unknown:
        place = Node(None, root.source, (*root.path, *path))
        yield Finding(UNKNOWN_EXTENSION, Hit(place, type_name))


def _too_new(
    settled: Settled, envoy: EnvoyVersion | None, root: Node, found: Iterable[Finding]
) -> Iterator[Finding]:
    """Yield the names that *envoy* lacks, except where a rule names a replacement for them."""
    replaced = [one.hit.node.path for one in found if one.rule.id == OUTDATED]
    for path, since in settled.recent:
        whole = (*root.path, *path)
        if envoy is None or envoy >= EnvoyVersion.of(since):
            continue
        if not any(whole[: len(place)] == place for place in replaced):
            marked = Node(None, replace(root.source, marks=root.source.names), whole)
            place = marked if whole in root.source.names else Node(None, root.source, whole)
            yield Finding(TOO_NEW, Hit(place, f"`{whole[-1]}` needs Envoy {since}"))


def _place(problem: Problem, root: Node) -> Node:
    source, path = root.source, (*root.path, *problem.place)
    marks = source.names if problem.at_name and path in source.names else source.marks
    return Node(None, replace(source, marks=marks), path)


def _with(config: EnvoyConfig, node: Node, message: str) -> EnvoyConfig:
    """Add a part; ext_proc filters count wherever they stand in it."""
    if message == BOOTSTRAP:
        held = of_bootstrap(node)
        return replace(
            config,
            bootstrap=node,
            listeners=(*config.listeners, *held.listeners),
            tcp_listeners=(*config.tcp_listeners, *held.tcp_listeners),
            clusters=(*config.clusters, *held.clusters),
            route_configs=(*config.route_configs, *held.route_configs),
        )
    if message == CLUSTER:
        return replace(config, clusters=(*config.clusters, Cluster(node)))
    if message == ROUTES:
        return replace(config, route_configs=(*config.route_configs, node))
    if message == LISTENER:
        return replace(
            config,
            listeners=(*config.listeners, *listeners_of(node)),
            tcp_listeners=(*config.tcp_listeners, *tcp_listeners_of(node)),
        )
    return replace(config, loose_filters=(*config.loose_filters, *_ext_procs(node)))


def _ext_procs(node: Node) -> Iterator[Node]:
    if node.type_name == EXT_PROC:
        yield node
    for _, one in node.entries():
        yield from _ext_procs(one)
    for one in node:
        yield from _ext_procs(one)


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
    return Linted(
        tuple(one for one in ordered if one.rule is not NOT_CHECKED),
        tuple(silenced),
        tuple(one for one in ordered if one.rule is NOT_CHECKED),
    )


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
