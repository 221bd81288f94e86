"""Parts of an Envoy configuration in other documents: patches of gateways, xDS resources."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from egret_tools.envoy_lint.schema import BOOTSTRAP, HCM, Spot, is_known, spot_at
from egret_tools.envoy_lint.source import (
    JsonValue,
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

_HTTP_FILTER: Final = f"{LISTENER}/filter_chains/0/filters/0/typed_config/http_filters/0"
_PATCHED: Final = {
    "LISTENER": LISTENER,
    "FILTER_CHAIN": f"{LISTENER}/filter_chains/0",
    "LISTENER_FILTER": f"{LISTENER}/listener_filters/0",
    "NETWORK_FILTER": f"{LISTENER}/filter_chains/0/filters/0",
    "HTTP_FILTER": _HTTP_FILTER,
    "ROUTE_CONFIGURATION": ROUTES,
    "VIRTUAL_HOST": f"{ROUTES}/virtual_hosts/0",
    "HTTP_ROUTE": f"{ROUTES}/virtual_hosts/0/routes/0",
    "CLUSTER": CLUSTER,
    "EXTENSION_CONFIG": _HTTP_FILTER,
    "BOOTSTRAP": BOOTSTRAP,
}
"""Places by `applyTo` of Istio's EnvoyFilter (networking/v1alpha3)."""

_TYPES: Final = "type.googleapis.com/"
_SDS: Final = "envoy.extensions.transport_sockets.tls.v3.Secret"
_PLAIN: Final = {
    "": (
        "ConfigMap", "Endpoints", "LimitRange", "Namespace", "PersistentVolume",
        "PersistentVolumeClaim", "Pod", "PodTemplate", "ReplicationController", "ResourceQuota",
        "Secret", "Service", "ServiceAccount",
    ),
    "admissionregistration.k8s.io": (
        "MutatingWebhookConfiguration", "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration",
    ),
    "apps": ("DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"),
    "autoscaling": ("HorizontalPodAutoscaler",),
    "batch": ("CronJob", "Job"),
    "cert-manager.io": ("Certificate", "ClusterIssuer", "Issuer"),
    "discovery.k8s.io": ("EndpointSlice",),
    "external-secrets.io": ("ClusterSecretStore", "ExternalSecret", "SecretStore"),
    "keda.sh": ("ScaledObject", "TriggerAuthentication"),
    "monitoring.coreos.com": ("PodMonitor", "PrometheusRule", "ServiceMonitor"),
    # Not Ingress: some controllers make routes of Envoy from it.
    "networking.k8s.io": ("NetworkPolicy",),
    "policy": ("PodDisruptionBudget",),
    "rbac.authorization.k8s.io": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "scheduling.k8s.io": ("PriorityClass",),
    "storage.k8s.io": ("StorageClass",),
}  # fmt: skip
"""Kinds by group of which no gateway makes a configuration of Envoy; one may be a text in them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A message within a document, and its place in a whole listener, cluster or the like.

    A merged one has only the fields that it changes.
    """

    node: Node
    whole: str
    spot: Spot
    is_merged: bool = False

    def root(self, value: JsonValue) -> Node:
        """Return the whole with nothing in it but this part, of which *value* is the content.

        Its paths begin with that of the part, so that no two parts share one.
        """
        start, steps, source = self.node.path, self.spot.steps, self.node.source
        if not steps:
            return Node(value, source, start)
        for step, above in zip(reversed(steps), (*reversed(steps[:-1]), ""), strict=False):
            # Of extensions, only an HTTP connection manager holds parts of its own.
            manager = {"@type": f"type.googleapis.com/{HCM}"} if above == "typed_config" else {}
            value = [value] if isinstance(step, int) else {**manager, step: value}

        marks, names = {start: self.node.mark}, dict[Path, Mark]()
        pending = [self.node]
        while pending:
            one = pending.pop()
            path = (*self.path, *one.path[len(start) :])
            marks[path] = one.mark
            if one.path in source.names:
                names[path] = source.names[one.path]
            pending += [*one, *(held for _, held in one.entries())]
        return Node(value, replace(source, marks=marks, names=names), start)

    @property
    def path(self) -> Path:
        """Return where the part is within its whole."""
        return (*self.node.path, *self.spot.steps)

    def has(self, node: Node) -> bool:
        """Return whether a node of the whole is of this part, rather than something it lacks."""
        is_within = node.path[: len(self.path)] == self.path
        return is_within and (node.is_written or not self.is_merged)


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
            yield Part(one, one.type_name, Spot(one.type_name, ()))
        else:
            yield Unread(one, one.type_name or "a resource without `@type`")


def parts_of_filter(resource: Node) -> Iterator[Part | Unread]:
    """Yield the patches of an EnvoyFilter."""
    for number, one in enumerate(resource.at("spec", "configPatches"), start=1):
        value = one.at("patch", "value")
        kind, operation = one.at("applyTo").text, one.at("patch", "operation").text
        whole, *steps = _PATCHED.get(kind, "").split("/")
        is_read = kind in _PATCHED and value.exists and operation != "REMOVE"
        spot = spot_at(whole, tuple(steps)) if is_read else None
        if spot is not None:
            yield Part(value, whole, spot, is_merged=operation == "MERGE")
        else:
            about = f"{operation} {kind}" if operation == "REMOVE" else kind or "no applyTo"
            yield Unread(one, f"{_name(resource)}, patch {number} ({about})")


def parts_of_policy(resource: Node) -> Iterator[Part | Unread]:
    """Yield the patches of an EnvoyPatchPolicy (Envoy Gateway, api/v1alpha1)."""
    for number, one in enumerate(resource.at("spec", "jsonPatches"), start=1):
        operation = one.at("operation")
        value, pointer = operation.at("value"), operation.at("path").text
        whole = one.at("type").text.rpartition("/")[2]
        spot = spot_at(whole, _steps(pointer)) if is_known(whole) else None
        if operation.at("jsonPath").exists or not value.exists:
            spot = None
        if spot is not None:
            yield from (Part(each, whole, at) for each, at in _each(value, spot))
        elif value.type_name and is_known(value.type_name):
            yield Part(value, value.type_name, Spot(value.type_name, ()))
        else:
            where = pointer or operation.at("jsonPath").text
            where = where if value.exists else f"{operation.at('op').text} {where}"
            yield Unread(one, f"{_name(resource)}, patch {number} ({where})")


def _each(value: Node, spot: Spot) -> Iterator[tuple[Node, Spot]]:
    """Yield the messages in a value: those of a list or a map, or the one that it is."""
    if spot.is_map:
        for name, one in value.entries():
            yield one, Spot(spot.message, (*spot.steps, name))
    elif spot.is_list and isinstance(value.value, list):
        yield from ((one, Spot(spot.message, (*spot.steps, 0))) for one in value)
    else:
        yield value, spot


def _steps(pointer: str) -> Path:
    """Return the steps of a JSON pointer (RFC 6901)."""
    steps = (step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])
    return tuple(step for step in steps if step)


def is_without_envoy(resource: Node) -> bool:
    """Return whether a resource cannot hold a part of an Envoy configuration, not even as text."""
    group = resource.at("apiVersion").text.rpartition("/")[0]
    if resource.at("kind").text not in _PLAIN.get(group, ()):
        return False
    texts = [one.text for one in resource.tree()]
    for field in ("data", "binaryData"):
        for _, one in resource.at(field).entries():
            try:
                decoded = base64.b64decode("".join(one.text.split()), validate=True)
            except ValueError:  # a text as it is
                continue
            texts.append(decoded.decode("utf-8", "replace"))
    marks = (f"{_TYPES}envoy.", *_BOOTSTRAP_KEYS)
    # Files of Envoy's secrets have keys and certificates only.
    parts = [text.replace(f"{_TYPES}{_SDS}", "") for text in texts]
    return not any(mark in text for text in parts for mark in marks)


def _name(resource: Node) -> str:
    return f"{resource.at('kind').text} {resource.at('metadata', 'name').text}".rstrip()


def unread_resource(resource: Node) -> Unread:
    """Return a resource of a kind that is not read."""
    return Unread(resource.at("kind"), _name(resource))
