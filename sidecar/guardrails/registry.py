"""The registry of local guardrail types: the rules or the whole-text check of each."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, assert_never

from sidecar.domain.guardrail_settings import (
    CodeSettings,
    DeniedPatternsSettings,
    DeniedTermsSettings,
    JsonSchemaSettings,
    LanguageSettings,
    MaxInputSettings,
    MaxTokensSettings,
    PiiSettings,
    PromptInjectionSettings,
    RemoteSettings,
    RuleSettings,
    SecretsSettings,
    ToxicitySettings,
    WholeTextSettings,
)
from sidecar.domain.policy import Guardrail, GuardrailSettings
from sidecar.guardrails.deobfuscation.decoders import TRIGGERS
from sidecar.guardrails.detectors.code import code_rules
from sidecar.guardrails.detectors.language import LanguageCheck
from sidecar.guardrails.detectors.national import NATIONAL_TYPES, national_rules
from sidecar.guardrails.detectors.phone import national_phone_rule
from sidecar.guardrails.detectors.pii import PII_RULES, PRIVATE_ADDRESS_RULES
from sidecar.guardrails.detectors.prompt_injection.scoring import (
    PromptInjectionCheck,
    shipped_scorer,
)
from sidecar.guardrails.detectors.secrets import SECRET_RULES, tier_of
from sidecar.guardrails.detectors.terms import term_rule, toxicity_rules
from sidecar.guardrails.detectors.whole_text import MaxInputCheck, MaxTokensCheck, WholeTextCheck
from sidecar.guardrails.matching.database import (
    ExpressionDatabase,
    author_expression,
    compile_expressions,
    load_database,
)
from sidecar.guardrails.matching.rule import Expression, Rank, Rule


def whole_text_check(settings: GuardrailSettings) -> WholeTextCheck | None:
    """Return the check, None for a guardrail of rules or of a server."""
    return _check(settings) if isinstance(settings, WholeTextSettings) else None


@lru_cache(maxsize=256)
def _check(settings: WholeTextSettings) -> WholeTextCheck:
    """Return the same check for equal settings: some hold tables worth sharing."""
    match settings:
        case MaxInputSettings(max_characters=max_characters):
            return MaxInputCheck(max_characters)
        case MaxTokensSettings(max_tokens=most):
            return MaxTokensCheck(most)
        case LanguageSettings(allowed=allowed):
            return LanguageCheck(allowed)
        case PromptInjectionSettings():
            return PromptInjectionCheck(settings, shipped_scorer())
        case _:
            assert_never(settings)


CORE: Final = dict.fromkeys(
    (*(rule.expression for rule in (*SECRET_RULES, *PII_RULES)), *TRIGGERS)
)
"""The expressions of `secrets` and `pii`, and signs of hidden text: a database that every policy
with rules searches by. So no change of a policy compiles it again.

Hyperscan groups neighbours that have no literal: in this order, which is by type, the pass
takes two thirds of the time that it takes with the same expressions sorted or shuffled. The terms
of `prompt_injection` have a database of their own, which takes long to compile.
"""
_AUTHORS: Final = (DeniedPatternsSettings, DeniedTermsSettings, ToxicitySettings)
_RANKS: Final = dict.fromkeys(NATIONAL_TYPES, Rank.NATIONAL) | {
    rule.type: rule.rank for rule in (*SECRET_RULES, *PII_RULES)
}


@functools.lru_cache(maxsize=1024)
def rules_of(settings: GuardrailSettings) -> tuple[Rule, ...]:
    """Return the rules of a guardrail; one of a server or of whole texts has none."""
    return tuple(rules_in_turn(settings))


def rules_in_turn(settings: GuardrailSettings) -> Iterable[Rule]:
    """Return the rules that `rules_of` returns; those of an author are made one by one."""
    if not isinstance(settings, RuleSettings):
        return ()
    match settings:
        case SecretsSettings(types=types, tiers=tiers):
            of_tiers = (one for one in SECRET_RULES if tiers is None or tier_of(one.type) in tiers)
            return _chosen(tuple(of_tiers), types)
        case PiiSettings(types=types, regions=regions, countries=countries):
            more = (national_phone_rule(regions),) if regions else ()
            if settings.private_addresses:
                more = (*more, *PRIVATE_ADDRESS_RULES)
            return _chosen((*PII_RULES, *more, *national_rules(countries)), types)
        case DeniedPatternsSettings(patterns=patterns):
            return (
                Rule(
                    type=one.name,
                    expression=author_expression(one.regex),
                    rank=Rank.AUTHOR,
                    by_author=True,
                )
                for one in patterns
            )
        case DeniedTermsSettings(terms=terms):
            return (term_rule(term) for term in terms)
        case CodeSettings(languages=languages):
            return code_rules(languages)
        case ToxicitySettings(allowed=allowed):
            return toxicity_rules(allowed)
        case _:
            assert_never(settings)


def is_remote(guardrail: Guardrail) -> bool:
    """Return whether the guardrail asks a server."""
    return isinstance(guardrail.settings, RemoteSettings)


def judges_texts(guardrail: Guardrail) -> bool:
    """Return whether it is part of the local pass over the texts."""
    return isinstance(guardrail.settings, (RuleSettings, WholeTextSettings))


def judges_pieces(settings: GuardrailSettings) -> bool:
    """Return whether a text can be judged before its end: by rules, which find spans."""
    return isinstance(settings, RuleSettings)


def rank_of(guardrail: Guardrail, type_: str) -> int:
    """Return the rank of a finding: of two that overlap the lower one stays."""
    if isinstance(guardrail.settings, _AUTHORS):
        return Rank.AUTHOR
    if isinstance(guardrail.settings, CodeSettings):
        return Rank.CODE
    if isinstance(guardrail.settings, (WholeTextSettings, JsonSchemaSettings)):
        return Rank.WHOLE_TEXT
    if is_remote(guardrail):
        return Rank.REMOTE
    return _RANKS[type_]


def expressions_beside_core(guardrails: Iterable[Guardrail]) -> tuple[tuple[Expression, ...], ...]:
    """Return the distinct expressions of *guardrails* that `core_database` has not.

    Each tuple is for a database of its own: that of the other built-in rules, which many policies
    have alike, and that of the author's, which are few and differ from policy to policy.
    """
    built_in: set[Expression] = set()
    own: set[Expression] = set()
    for settings in (one.settings for one in guardrails):
        is_own = isinstance(settings, (DeniedPatternsSettings, DeniedTermsSettings))
        rules = rules_in_turn(settings)
        expressions = {rule.expression for rule in rules if rule.expression.filtered}
        (own if is_own else built_in).update(expressions - CORE.keys())
    return tuple(
        tuple(sorted(some, key=lambda one: (one.unicode, one.counted, one.regex)))
        for some in (built_in, own - built_in)
        if some
    )


_core: Final[list[ExpressionDatabase]] = []


def core_database(compiled: bytes = b"") -> ExpressionDatabase:
    """Return the database of `CORE`, made once a process.

    To compile it takes part of a second; to load what was *compiled*, a thousandth.
    """
    if not _core:
        expressions = tuple(CORE)
        _core.append(load_database(compiled or compile_expressions(expressions), expressions))
    return _core[0]


def _chosen(rules: tuple[Rule, ...], types: tuple[str, ...] | None) -> tuple[Rule, ...]:
    return rules if types is None else tuple(rule for rule in rules if rule.type in types)
