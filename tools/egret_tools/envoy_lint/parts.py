"""Parts of an Envoy configuration in other documents: patches of gateways, xDS resources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from egret_tools.envoy_lint.schema import (
    BOOTSTRAP,
    FILTER,
    HTTP_FILTER,
    is_known,
    message_at,
)
from egret_tools.envoy_lint.source import (
    Mark,
    Node,
    Path,
    Source,
    embedded,
    embedded_mark,
    template_mark,
)

CLUSTER: Final = "envoy.config.cluster.v3.Cluster"
LISTENER: Final = "envoy.config.listener.v3.Listener"
ROUTES: Final = "envoy.config.route.v3.RouteConfiguration"
_BOOTSTRAP_KEYS: Final = frozenset({
    "static_resources", "staticResources", "dynamic_resources", "dynamicResources",
})  # fmt: skip

_PATCHED: Final = {
    "LISTENER": LISTENER,
    "FILTER_CHAIN": "envoy.config.listener.v3.FilterChain",
    "LISTENER_FILTER": "envoy.config.listener.v3.ListenerFilter",
    "NETWORK_FILTER": FILTER,
    "HTTP_FILTER": HTTP_FILTER,
    "ROUTE_CONFIGURATION": ROUTES,
    "VIRTUAL_HOST": "envoy.config.route.v3.VirtualHost",
    "HTTP_ROUTE": "envoy.config.route.v3.Route",
    "CLUSTER": CLUSTER,
    "EXTENSION_CONFIG": "envoy.config.core.v3.TypedExtensionConfig",
    "BOOTSTRAP": BOOTSTRAP,
}
"""Messages by `applyTo` of Istio's EnvoyFilter (networking/v1alpha3)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A message within a document. A merged one may lack fields that Envoy requires."""

    node: Node
    message: str
    is_merged: bool = False


@dataclass(frozen=True, slots=True)
class Unread:
    """A place that cannot be checked, with the words for it."""

    node: Node
    about: str


def is_bootstrap(source: Source | None) -> bool:
    """Return whether a text within a document is a static configuration."""
    return (
        source is not None
        and isinstance(source.value, dict)
        and not _BOOTSTRAP_KEYS.isdisjoint(source.value)
    )


def embedded_bootstraps(resource: Node, *steps: str) -> Iterator[Source]:
    """Yield the static configurations among the texts of the mapping at *steps*."""
    for _, node in resource.at(*steps).entries():
        inner = embedded(node.source, node.path)
        if inner is not None and is_bootstrap(inner):
            yield inner


def embedded_templates(resource: Node, *steps: str) -> Iterator[Mark]:
    """Yield the first mark of each static configuration that is a template still."""
    for _, node in resource.at(*steps).entries():
        is_envoys = any(key in node.text for key in _BOOTSTRAP_KEYS)
        if is_envoys and embedded(node.source, node.path) is None:
            inner = template_mark(node.text)
            if inner is not None:
                yield embedded_mark(node, inner)


def discovered(root: Node) -> Iterator[Part | Unread]:
    """Yield the resources of a file for Envoy's dynamic configuration (`resources: [...]`)."""
    for one in root.at("resources"):
        if is_known(one.type_name):
            yield Part(one, one.type_name)
        else:
            yield Unread(one, one.type_name or "a resource without `@type`")


def parts_of_filter(resource: Node) -> Iterator[Part | Unread]:
    """Yield the patches of an EnvoyFilter."""
    for number, one in enumerate(resource.at("spec", "configPatches"), start=1):
        value = one.at("patch", "value")
        kind, operation = one.at("applyTo").text, one.at("patch", "operation").text
        if not value.exists:
            continue
        if kind in _PATCHED:
            yield Part(value, _PATCHED[kind], is_merged=operation in {"MERGE", "REPLACE"})
        else:
            yield Unread(one, f"{_name(resource)}, patch {number} ({kind or 'no applyTo'})")


def parts_of_policy(resource: Node) -> Iterator[Part | Unread]:
    """Yield the patches of an EnvoyPatchPolicy (Envoy Gateway, api/v1alpha1)."""
    for number, one in enumerate(resource.at("spec", "jsonPatches"), start=1):
        operation = one.at("operation")
        value = operation.at("value")
        if not value.exists:
            continue
        message = one.at("type").text.rpartition("/")[2]
        pointer = operation.at("path").text
        found = message_at(message, _steps(pointer)) if is_known(message) else None
        if value.type_name and is_known(value.type_name):
            yield Part(value, value.type_name)
        elif found is None or operation.at("jsonPath").exists:
            where = pointer or operation.at("jsonPath").text
            yield Unread(one, f"{_name(resource)}, patch {number} ({where})")
        elif found[1] and isinstance(value.value, list):
            yield from (Part(each, found[0]) for each in value)
        else:
            yield Part(value, found[0], is_merged=not found[1] and bool(_steps(pointer)))


def _steps(pointer: str) -> Path:
    """Return the steps of a JSON pointer (RFC 6901)."""
    steps = (step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])
    return tuple(step for step in steps if step)


def _name(resource: Node) -> str:
    return f"{resource.at('kind').text} {resource.at('metadata', 'name').text}".rstrip()


def unread_resource(resource: Node) -> Unread:
    """Return a resource of a kind that is not read."""
    return Unread(resource.at("kind"), _name(resource))
