"""Lints policies: settings that are valid but weaken protection."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from types import MappingProxyType
from typing import Final

from sidecar.domain.guardrail_settings import (
    AnswerPart,
    DeniedPatternsSettings,
    JsonSchemaSettings,
    LanguageSettings,
    MaxTokensSettings,
)
from sidecar.domain.policy import (
    Action,
    Guardrail,
    Mode,
    OnError,
    Policy,
    RedactionStyle,
    UnscannedAction,
    judges_input,
    name_beside,
)
from sidecar.domain.subject import Operation
from sidecar.domain.validation import is_model_of
from sidecar.guardrails.matching.database import author_expression
from sidecar.policy.parse import DEFAULT_POLICY_NAME, default_policy

NEAR_DAYS: Final = 14
"""An exception that ends within so many days is reported."""


@dataclass(frozen=True, slots=True)
class LintWarning:
    """One setting to look at. `code` is stable; `guardrail` is None for a whole policy."""

    policy: str
    guardrail: str | None
    code: str
    problem: str
    hint: str


_CLOSING_KEYWORDS: Final = frozenset(
    {"additionalProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf", "items",
     "enum", "const", "prefixItems"}
)  # fmt: skip
"""Beside one of these a schema may be closed, or is for no object; without any it is open."""

_ASCII_BOUNDARY: Final = re.compile(r"(?<!\\)(?:\\\\)*\\b[^\x00-\x7f]|[^\x00-\x7f]\\b")
"""To both engines only ASCII has word characters, so that `\\b` demands one on the other side."""

_CHATS_APART: Final = {
    Operation.GENERATE_CONTENT: "Gemini's generateContent",
    Operation.INVOKE_MODEL: "Bedrock's InvokeModel",
}
"""Chats by APIs that have an operation of their own for them, so that `chat` leaves them out."""
_OPTIONAL_PACKAGES: Final = {
    LanguageSettings.guardrail_type: ("language", "py3langid"),
    MaxTokensSettings.guardrail_type: ("tokens", "quicktok"),
}
"""Extra and module by the type of guardrail that needs them."""
_NOTHING_MISSING: Final[Mapping[str, str]] = MappingProxyType({})

_Problem = tuple[str, str, str]
"""Code, problem, hint."""


def lint(
    policies: Sequence[Policy],
    *,
    today: date,
    near_days: int = NEAR_DAYS,
    missing: Mapping[str, str] = _NOTHING_MISSING,
) -> tuple[LintWarning, ...]:
    """Return warnings on each of *policies*, which are all that may be bound together.

    *missing* are the extras that are not installed, by the type of guardrail that needs them.
    """
    warnings: list[LintWarning] = []
    for policy in policies:
        of_policy: list[_Problem] = []
        if not policy.guardrails:
            hint = "content passes as it is: is that meant?"
            of_policy.append(("no-guardrails", "it has no guardrails", hint))
        elif all(one.mode is Mode.SHADOW for one in policy.guardrails):
            problem = "every guardrail is in shadow, so nothing is enforced"
            of_policy.append(("shadow-only", problem, "promote one with `egret policy promote`"))
        if policy.unscanned is UnscannedAction.ALLOW:
            problem = (
                "content no guardrail can read passes: images, unknown routes, compressed bodies"
            )
            hint = "say `unscanned: block`, or `flag` to see it"
            of_policy.append(("unscanned-allow", problem, hint))
        if policy.name == DEFAULT_POLICY_NAME and (lost := lost_protection(policy)):
            problem = f"{no_longer_hold(lost)} as in the built-in policy that it replaces"
            hint = "add them, or give it a name of its own and bind it"
            of_policy.append(("default-unprotected", problem, hint))
        allowed = policy.allowed_models
        if allowed is not None and not allowed:
            problem = "its `allowed_models` is empty: no request may name a model"
            of_policy.append(("no-models", problem, "list models, or leave it out to allow all"))
        for alias, model in policy.aliases if allowed else ():
            if not is_model_of(allowed or (), model):
                problem = f"its alias {alias} leads to {model}, which `allowed_models` refuses"
                hint = f"add {model} to `allowed_models`"
                of_policy.append(("alias-not-allowed", problem, hint))
        warnings += [LintWarning(policy.name, None, *one) for one in of_policy]
        others = [other for other in policies if other.name != policy.name]
        for guardrail in policy.guardrails:
            problems = (
                *_effect_problems(guardrail, policy, others),
                *_settings_problems(guardrail, missing),
                *_scope_problems(guardrail, policy, today, near_days),
            )
            warnings += [LintWarning(policy.name, guardrail.name, *one) for one in problems]
    return tuple(warnings)


def lost_protection(policy: Policy, before: Policy | None = None) -> tuple[str, ...]:
    """Return the guardrails of *before*, by default the built-in policy, that *policy* lacks.

    A guardrail is kept by one of its type for requests that acts as much: one in shadow, or that
    only flags, does not stand in for one that blocks or redacts.
    """
    kept: dict[str, bool] = {}
    for one in filter(judges_input, policy.guardrails):
        kind = one.settings.guardrail_type
        kept[kind] = kept.get(kind, False) or _enforces(one)
    lost: list[str] = []
    for one in filter(judges_input, (before or default_policy()).guardrails):
        enforced = kept.get(one.settings.guardrail_type)
        if enforced is None or (_enforces(one) and not enforced):
            lost.append(one.name)
    return tuple(lost)


def _enforces(guardrail: Guardrail) -> bool:
    return guardrail.mode is Mode.ENFORCE and guardrail.action is not Action.FLAG


def no_longer_hold(names: Sequence[str]) -> str:
    """Return the words for guardrails that a policy named `default` lacks."""
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    verb = "hold" if len(names) > 1 else "holds"
    return f"{listed} no longer {verb} for keys without a policy"


def _effect_problems(
    guardrail: Guardrail, policy: Policy, others: Iterable[Policy]
) -> Iterator[_Problem]:
    """Yield the problems of action, mode and inheritance from *others*."""
    if _enforces(guardrail) and guardrail.on_error is OnError.ALLOW:
        problem = f"it is to {guardrail.action.value}, but content it cannot judge passes"
        yield "open-on-error", problem, "say `on_error: block`"
    if guardrail.action is not Action.REDACT:
        for name, is_set in (
            ("restore", guardrail.restore),
            ("redaction", guardrail.redaction is not RedactionStyle.PLACEHOLDER),
        ):
            if is_set:
                problem = f"its `{name}` has no effect with `action: {guardrail.action.value}`"
                yield "without-effect", problem, f"say `action: redact`, or take `{name}` out"
    if guardrail.mandatory and guardrail.mode is Mode.SHADOW:
        problem = "it is mandatory and in shadow: it demands nothing of policies below"
        yield "mandatory-shadow", problem, "promote it with `egret policy promote`"
    if guardrail.mandatory:
        return
    copied = replace(guardrail, mandatory=True)
    for other in others:
        for above in other.guardrails:
            is_namesake = above.mandatory and above.name == guardrail.name and above != copied
            if is_namesake and above.mode is Mode.ENFORCE:
                beside = name_beside(guardrail.name, policy.name)
                problem = f"where policy {other.name} is bound above, its mandatory one judges too"
                hint = f"take it out unless it is stricter; there, it is named {beside}"
                yield "beside-mandatory", problem, hint


def _settings_problems(guardrail: Guardrail, missing: Mapping[str, str]) -> Iterator[_Problem]:
    """Yield the problems of the type's own settings."""
    settings = guardrail.settings
    if isinstance(settings, DeniedPatternsSettings):
        for pattern in settings.patterns:
            bare = pattern.regex.removeprefix("(?i)")
            starts_open = bare[:1].isalnum() and bare[:1].isascii()
            if _ASCII_BOUNDARY.search(pattern.regex):
                problem = (
                    f"{pattern.name} has `\\b` beside a letter that is not ASCII: no boundary"
                )
                hint = "use `denied_terms`, whose boundaries are those of any script"
                yield "ascii-word-boundary", problem, hint
            if not author_expression(pattern.regex).filtered:
                problem = (
                    f"{pattern.name} is searched in every string, for its anchors, classes or case"
                )
                hint = "write `\\b` for `^` and `$`, `[^ ]` for `\\S`, ranges for `\\p{..}`"
                yield "searched-everywhere", problem, hint
            elif starts_open and not bare.endswith(("\\b", "$")):
                problem = f"{pattern.name} also matches within longer words"
                yield "no-word-boundary", problem, "put `\\b` on both ends"
    if isinstance(settings, JsonSchemaSettings):
        if _CLOSING_KEYWORDS.isdisjoint(json.loads(settings.schema)):
            problem = "its schema lets any further property of the answer pass"
            hint = "say `additionalProperties: false` where objects are meant"
            yield "schema-open", problem, hint
        if settings.of is AnswerPart.ARGUMENTS and settings.tools is None:
            problem = "the arguments of every tool are judged by one schema"
            yield "schema-for-every-tool", problem, "name its `tools`"
    extra = missing.get(settings.guardrail_type)
    if extra is not None:
        problem = f"the extra `{extra}` is not installed here: it cannot judge, on_error decides"
        hint = f"install Egret's wheel with its extra {extra} where workers run"
        yield "package-missing", problem, hint


def _scope_problems(
    guardrail: Guardrail, policy: Policy, today: date, near_days: int
) -> Iterator[_Problem]:
    """Yield the problems of models, roll-out, routes and exceptions."""
    scope = guardrail.scope
    aliases = {alias.lower(): model for alias, model in policy.aliases}
    for glob in scope.models or ():
        if model := aliases.get(glob.lower()):
            problem = f"its `models` has the alias {glob}, but requests count as for {model}"
            yield "selects-alias", problem, f"write {model}"
    if scope.rollout == 0:
        yield "rolled-out-to-none", "its roll-out is 0%: it holds for no key", "raise it"
    routes = frozenset(scope.routes or ())
    if Operation.CHAT in routes:
        if Operation.COUNT_TOKENS not in routes:
            problem = (
                "a count of tokens reaches the provider with the same text, and is not judged"
            )
            yield "count-tokens-open", problem, "add count_tokens to its routes"
        apart = [operation for operation in _CHATS_APART if operation not in routes]
        if apart:
            whose = " and ".join(_CHATS_APART[operation] for operation in apart)
            names = " and ".join(operation.value for operation in apart)
            problem = f"{whose} is no `chat`, and is not judged"
            yield "chat-elsewhere-open", problem, f"add {names} to its routes"
    for one in scope.exceptions:
        left = (one.until - today).days
        whose = f"the exception for {one.level.value} {one.name} ({one.reason})"
        if left < 0:
            yield "exception-over", f"{whose} ended on {one.until}", "take it out"
        elif left <= near_days:
            within = "today" if left == 0 else f"in {left} day{'s' * (left != 1)}"
            problem = f"{whose} ends on {one.until}, {within}"
            yield "exception-ends", problem, "see whether it is still needed"


def missing_extras() -> Mapping[str, str]:
    """Return the extras that are not installed here, by the type of the guardrail that needs them.

    Nothing is imported: that would take half a second and 145 MB.
    """
    return {
        kind: extra
        for kind, (extra, module) in _OPTIONAL_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    }
