"""Renders a policy as canonical text, and edits single settings in it."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sidecar.domain.guardrail_settings import JsonSchemaSettings, RemoteSettings
from sidecar.domain.policy import (
    FULL_ROLLOUT,
    GuardrailSettings,
    Mode,
    Policy,
    UncountedAction,
)
from sidecar.policy.parse import PolicyDocument, PolicyDocumentError, parse_documents
from sidecar.policy.yaml_positions import Path, YamlDocument, read_yaml, write_yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MASK: Final = "***"
"""Stands for a header's value, which may be a credential."""


def render_policy(policy: Policy) -> str:
    """Return the same text for equal policies, fields in a fixed order, defaults written out.

    Fields that restrict nothing are left out: types, routes, models, a roll-out to all,
    exceptions; so is a threshold of volume that is not set.

    The version is not in it, so that two versions with the same meaning have no difference. A
    changed header value does not show either; compare the policies themselves for that.
    """
    document: dict[str, Any] = {"name": policy.name, "unscanned": policy.unscanned.value}
    if policy.allowed_models is not None:
        document["allowed_models"] = list(policy.allowed_models)
    usage = {} if policy.stream_usage is None else {"streams": policy.stream_usage.value}
    if policy.uncounted is not UncountedAction.BLOCK:
        usage["uncounted"] = policy.uncounted.value
    if usage:
        document["usage"] = usage
    if policy.aliases:
        document["aliases"] = dict(policy.aliases)
    if policy.restores_aliases:
        document["restore_aliases"] = True
    if policy.provider is not None:
        document["provider"] = _fields(policy.provider)
    document["guardrails"] = guardrails = []
    for one in policy.guardrails:
        guardrail: dict[str, Any] = {
            "name": one.name,
            "type": one.settings.guardrail_type,
            "stage": one.stage.value,
            "action": one.action.value,
            "mode": one.mode.value,
            "on_error": one.on_error.value,
            "timeout": _duration(one.timeout_seconds),
            "mandatory": one.mandatory,
            "redaction": one.redaction.value,
            "restore": one.restore,
            "streams": one.streams.value,
        }
        if one.warn_on_volume is not None:
            guardrail["warn_on_volume"] = f"{one.warn_on_volume * 100:.12g}%"
        scope = one.scope
        guardrail |= _fields(scope, without=("rollout", "exceptions"))
        if scope.rollout != FULL_ROLLOUT:
            guardrail["rollout"] = f"{scope.rollout / 100:.12g}%"
        if scope.exceptions:
            guardrail["exceptions"] = [
                {given.level.value: given.name, "until": str(given.until), "reason": given.reason}
                for given in scope.exceptions
            ]
        guardrails.append(guardrail | _settings(one.settings))
    return write_yaml(document)


def _settings(settings: GuardrailSettings) -> dict[str, Any]:
    """Return the fields of a guardrail's type: its settings, but for schemas and servers."""
    if isinstance(settings, JsonSchemaSettings):
        return _fields(settings, without=("schema",)) | {"schema": json.loads(settings.schema)}
    if not isinstance(settings, RemoteSettings):
        return _fields(settings)
    resilience = settings.resilience
    masked = {name: MASK for name, _ in settings.endpoint.headers}
    address, question, _ = settings.endpoint.url.partition("?")
    hedge = resilience.hedge_after_seconds
    return {
        "url": f"{address}?{MASK}" if question else address,  # some hold a token there
        **_fields(settings, without=("endpoint", "resilience")),
        **({"headers": masked} if masked else {}),
        **_fields(settings.endpoint, without=("url", "headers")),
        "retries": resilience.retries,
        **({} if hedge is None else {"hedge_after": _duration(hedge)}),
        "cache": _duration(resilience.cache_seconds),
        "scope": resilience.scope.value,
        "max_concurrent": resilience.max_concurrent,
        "breaker": {
            "failures": resilience.breaker_failures,
            "open_for": _duration(resilience.breaker_seconds),
        },
    }


def hides_values(policy: Policy) -> bool:
    """Return whether the text of `render_policy` lacks values."""
    endpoints = (
        one.settings.endpoint
        for one in policy.guardrails
        if isinstance(one.settings, RemoteSettings)
    )
    return any(one.headers or "?" in one.url for one in endpoints)


def masked_places(policy: Policy) -> Iterable[Path]:
    """Yield the fields whose values are masked, as in the text of `render_policy`."""
    for index, one in enumerate(policy.guardrails):
        if isinstance(one.settings, RemoteSettings):
            endpoint = one.settings.endpoint
            if endpoint.url.endswith(f"?{MASK}"):
                yield ("guardrails", index, "url")
            for name, value in endpoint.headers:
                if value == MASK:
                    yield ("guardrails", index, "headers", name)


def _fields(value: DataclassInstance, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields that restrict something, in their order, as YAML writes them."""
    fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return {
        name: _plain(content)
        for name, content in fields.items()
        if name not in without and content is not None and content != ()
    }


def _plain(value: Any) -> Any:
    """Return a value of settings as YAML has it; pairs of text and number are a mapping."""
    match value:
        case enum.Enum():
            return value.value
        case ((str(), float()), *_):
            return dict(value)
        case tuple():
            return [_plain(one) for one in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _fields(value)
        case _:
            return value


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.12g}ms"


class NoSuchGuardrailError(Exception):
    """The policy has no guardrail of this name."""


class NotEditableError(Exception):
    """The text is written in a way that leaves no place for the change."""


def with_mode(document: PolicyDocument, guardrail: str, *, mode: Mode) -> PolicyDocument:
    """Return *document* with a guardrail in *mode*.

    The result of an edit is parsed again and compared with the policy that was meant: a text
    that an edit would change in any other way is not changed.

    Raises:
        NoSuchGuardrailError: there is none of this name.
        NotEditableError: no edit that was tried gives the policy that was meant.
    """
    names = [one.name for one in document.policy.guardrails]
    if guardrail not in names:
        raise NoSuchGuardrailError(guardrail)
    index = names.index(guardrail)
    changed = list(document.policy.guardrails)
    changed[index] = replace(changed[index], mode=mode)
    meant = replace(document.policy, guardrails=tuple(changed))
    tree = read_yaml(document.text)[0]
    for text in _edits(document.text, tree, ("guardrails", index), mode):
        try:
            edited = parse_documents(text, version=meant.version, expressions="syntax")
        except PolicyDocumentError:
            continue
        if [one.policy for one in edited] == [meant]:
            return edited[0]
    raise NotEditableError


def _edits(text: str, tree: YamlDocument, guardrail: Path, mode: Mode) -> Iterable[str]:
    """Return texts that may be right: the value replaced, or a field put before `type`."""
    value = tree.values.get((*guardrail, "mode"))
    line, column = value or tree.keys[*guardrail, "type"]
    lines = text.splitlines(keepends=True)
    at = sum(len(one) for one in lines[: line - 1]) + column - 1
    before, after = text[:at], text[at:]
    if value is not None:
        for quoted in (f"{quote}{old.value}{quote}" for old in Mode for quote in ("", "'", '"')):
            if after.startswith(quoted):
                yield before + mode.value + after[len(quoted) :]
        return
    yield f"{before}mode: {mode.value}\n{' ' * (column - 1)}{after}"
    yield f"{before}mode: {mode.value}, {after}"
