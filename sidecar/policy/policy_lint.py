"""Lints policies: settings that are valid but weaken protection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from types import MappingProxyType
from typing import Final

from sidecar.domain.guardrail_settings import (
    AnswerPart,
    DeniedPatternsSettings,
    JsonSchemaSettings,
)
from sidecar.domain.policy import Action, Guardrail, Mode, OnError, Policy, UnscannedAction
from sidecar.domain.subject import Operation
from sidecar.guardrails.matching.database import author_expression

NEAR_DAYS: Final = 14
"""An exception that ends within so many days is told of."""


@dataclass(frozen=True, slots=True)
class LintWarning:
    """One thing to look at. `code` is stable; `guardrail` is None where it is of the policy."""

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

_CHATS_APART: Final = {
    Operation.GENERATE_CONTENT: "Gemini's generateContent",
    Operation.INVOKE_MODEL: "Bedrock's InvokeModel",
}
"""Chats by APIs that have an operation of their own for them, so that `chat` leaves them out."""
_NOTHING_MISSING: Final[Mapping[str, str]] = MappingProxyType({})

_Said = tuple[str, str, str]
"""Code, problem, hint."""


def lint(
    policies: Sequence[Policy],
    *,
    today: date,
    near_days: int = NEAR_DAYS,
    missing: Mapping[str, str] = _NOTHING_MISSING,
) -> tuple[LintWarning, ...]:
    """Return advice on each of *policies*, which are all that may be bound together.

    *missing* are the extras that are not installed, by the type of guardrail that needs them.
    """
    return tuple(
        advice
        for policy in policies
        for advice in _of_policy(policy, policies, (today, near_days), missing)
    )


def _of_policy(
    policy: Policy,
    policies: Sequence[Policy],
    when: tuple[date, int],
    missing: Mapping[str, str],
) -> Iterator[LintWarning]:
    for code, problem, hint in _whole(policy):
        yield LintWarning(policy.name, None, code, problem, hint)
    for guardrail in policy.guardrails:
        said = chain(
            *(check(guardrail) for check in _CHECKS),
            _displaced(policy, guardrail, policies),
            _exceptions(guardrail, *when),
            _lacking(guardrail, missing),
        )
        for code, problem, hint in said:
            yield LintWarning(policy.name, guardrail.name, code, problem, hint)


def _whole(policy: Policy) -> Iterator[_Said]:
    if not policy.guardrails:
        yield "no-guardrails", "it has no guardrails", "content passes as it is: is that meant?"
    elif all(one.mode is Mode.SHADOW for one in policy.guardrails):
        hint = "promote one with `egret policy promote`"
        yield "shadow-only", "every guardrail is in shadow, so nothing is enforced", hint
    if policy.unscanned is UnscannedAction.ALLOW:
        problem = "what no guardrail can read passes: images, unknown routes, compressed bodies"
        yield "unscanned-allow", problem, "say `unscanned: block`, or `flag` to see it"


def _open(guardrail: Guardrail) -> Iterator[_Said]:
    is_closing = guardrail.action is not Action.FLAG and guardrail.mode is Mode.ENFORCE
    if is_closing and guardrail.on_error is OnError.ALLOW:
        problem = f"it is to {guardrail.action.value}, but what it cannot judge passes"
        yield "open-on-error", problem, "say `on_error: block`"


def _mandatory_shadow(guardrail: Guardrail) -> Iterator[_Said]:
    if guardrail.mandatory and guardrail.mode is Mode.SHADOW:
        problem = "it is mandatory and in shadow: it demands nothing of policies below"
        yield "mandatory-shadow", problem, "promote it with `egret policy promote`"


def _patterns(guardrail: Guardrail) -> Iterator[_Said]:
    if not isinstance(guardrail.settings, DeniedPatternsSettings):
        return
    for pattern in guardrail.settings.patterns:
        if not author_expression(pattern.regex).filtered:
            problem = f"{pattern.name} is searched in every string, for its anchors or classes"
            yield "searched-everywhere", problem, "write `\\b` for `^` and `$`, `[^ ]` for `\\S`"
        elif _is_within_words(pattern.regex):
            problem = f"{pattern.name} also matches within longer words"
            yield "no-word-boundary", problem, "put `\\b` on both ends"


def _is_within_words(regex: str) -> bool:
    bare = regex.removeprefix("(?i)")
    return (bare[:1].isalnum() and bare[:1].isascii()) and not bare.endswith(("\\b", "$"))


def _scope(guardrail: Guardrail) -> Iterator[_Said]:
    scope = guardrail.scope
    if scope.rollout == 0:
        yield "rolled-out-to-none", "its roll-out is 0%: it holds for no key", "raise it"
    if scope.routes is None or Operation.CHAT not in scope.routes:
        return
    if Operation.COUNT_TOKENS not in scope.routes:
        problem = "a count of tokens reaches the provider with the same text, and is not judged"
        yield "count-tokens-open", problem, "add count_tokens to its routes"
    apart = [operation for operation in _CHATS_APART if operation not in scope.routes]
    if apart:
        whose = " and ".join(_CHATS_APART[operation] for operation in apart)
        names = " and ".join(operation.value for operation in apart)
        problem = f"{whose} is no `chat`, and is not judged"
        yield "chat-elsewhere-open", problem, f"add {names} to its routes"


def _structure(guardrail: Guardrail) -> Iterator[_Said]:
    settings = guardrail.settings
    if not isinstance(settings, JsonSchemaSettings):
        return
    schema = json.loads(settings.schema)
    if _CLOSING_KEYWORDS.isdisjoint(schema):
        problem = "its schema lets any further property of the answer pass"
        yield "schema-open", problem, "say `additionalProperties: false` where objects are meant"
    if settings.of is AnswerPart.ARGUMENTS and settings.tools is None:
        problem = "the arguments of every tool are judged by one schema"
        yield "schema-for-every-tool", problem, "name its `tools`"


def _displaced(
    policy: Policy, guardrail: Guardrail, policies: Iterable[Policy]
) -> Iterator[_Said]:
    for other in policies:
        if other.name == policy.name or guardrail.mandatory:
            continue
        for above in other.guardrails:
            if above.mandatory and above.name == guardrail.name and above.mode is Mode.ENFORCE:
                problem = (
                    f"it gives way to the mandatory one of policy {other.name}"
                    " where that is bound above"
                )
                yield "displaced", problem, "give it another name if both are to judge"


def _exceptions(guardrail: Guardrail, today: date, near_days: int) -> Iterator[_Said]:
    for one in guardrail.scope.exceptions:
        left = (one.until - today).days
        whose = f"the exception for {one.level.value} {one.name} ({one.reason})"
        if left < 0:
            yield "exception-over", f"{whose} ended on {one.until}", "take it out"
        elif left <= near_days:
            hint = "see whether it is still needed"
            yield "exception-ends", f"{whose} ends on {one.until}, in {left} days", hint


def _lacking(guardrail: Guardrail, missing: Mapping[str, str]) -> Iterator[_Said]:
    extra = missing.get(guardrail.settings.guardrail_type)
    if extra is not None:
        problem = f"the extra `{extra}` is not installed here: it cannot tell, on_error decides"
        yield (
            "package-missing",
            problem,
            f"install Egret's wheel with its extra {extra} where workers run",
        )


_CHECKS: Final[tuple[Callable[[Guardrail], Iterator[_Said]], ...]] = (
    _open, _mandatory_shadow, _patterns, _structure, _scope,
)  # fmt: skip
