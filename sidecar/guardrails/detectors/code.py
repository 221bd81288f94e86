"""The `code` guardrail: rules for statements of SQL and of shells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sidecar.domain.guardrail_settings import CodeLanguage
from sidecar.guardrails.matching.rule import Rank, Rule, Span, rule

_NAME: Final = r"[A-Za-z_\"`\[][0-9A-Za-z_.\"`\]$]{0,100}"
_S: Final = r"[ \t\r\n]{1,20}"
_END: Final = r"(?:[ \t]{0,20};|[ \t]{0,20}[\r\n]|$)"

_SQL: Final = (
    rf"select{_S}(?:distinct{_S})?(?:\*|count\([^()\x00]{{1,60}}\)){_S}from{_S}{_NAME}",
    (
        rf"select{_S}[^;\x00]{{1,200}}?{_S}from{_S}{_NAME}{_S}(?:as{_S})?(?:[a-z]{{1,3}}{_S})?"
        rf"(?:where{_S}[^;\x00]{{1,60}}?(?:=|<|>|{_S}like{_S}'|{_S}in{_S}?\(|{_S}is{_S}(?:not{_S})?null)"
        rf"|group{_S}by{_S}{_NAME}|order{_S}by{_S}{_NAME}|limit{_S}[0-9]"
        rf"|(?:(?:inner|left|right|full|cross|outer){_S}){{0,2}}join{_S}{_NAME})"
    ),
    rf"insert{_S}into{_S}{_NAME}{_S}?(?:\([^()\x00]{{1,300}}\){_S}?)?(?:values{_S}?\(|select{_S})",
    rf"update{_S}{_NAME}{_S}set{_S}{_NAME}{_S}?=",
    rf"delete{_S}from{_S}{_NAME}(?:{_S}where{_S}|{_END})",
    (
        rf"create{_S}(?:or{_S}replace{_S})?(?:temp(?:orary)?{_S})?table{_S}"
        rf"(?:if{_S}not{_S}exists{_S})?{_NAME}{_S}?\("
    ),
    rf"alter{_S}table{_S}{_NAME}{_S}(?:add|drop|alter|rename|modify){_S}",
    (
        rf"(?:drop|truncate){_S}(?:table|database|schema|view|index){_S}(?:if{_S}exists{_S})?{_NAME}"
        rf"(?:{_S}cascade|{_END})"
    ),
    rf"union{_S}(?:all{_S})?select{_S}",
    r"'[ ]{0,5}(?:or|and)[ ]{1,5}'?[0-9a-z]{1,10}'?[ ]{0,5}=[ ]{0,5}'?[0-9a-z]{1,10}",
    (
        rf"(?:grant|revoke){_S}(?:all(?:{_S}privileges)?"
        rf"|(?:select|insert|update|delete)(?:{_S}?[,(][^;\x00]{{0,60}}?)?){_S}on{_S}{_NAME}"
    ),
)

_SHELL: Final = (
    r"#![ \t]?/(?:usr/)?(?:local/)?bin/(?:env[ ])?(?:ba|z|k|da|c)?sh\b",
    r"\brm[ ]{1,3}(?:-[a-zA-Z]{1,6}[ ]{1,3}){1,3}(?:--[ ])?[/~.$*\"'0-9A-Za-z_]",
    r"\b(?:curl|wget)[ ][^\n|\x00]{1,300}\|[ ]{0,3}(?:sudo[ ])?(?:ba|z|k|da)?sh\b",
    (
        r"\bsudo[ ]{1,3}(?:-[a-zA-Z][ ])?(?:apt|apt-get|yum|dnf|systemctl|service|rm|mv|cp|chmod"
        r"|chown|su|bash|sh|tee|mount|umount|kill|killall|docker|cat|vi|vim|nano|useradd|usermod"
        r"|passwd|reboot)\b"
    ),
    r"\bchmod[ ]{1,3}(?:-R[ ]{1,3})?(?:[0-7]{3,4}|[ugoa]{0,4}[+-][rwxXst]{1,4})[ ]{1,3}[^ \n\x00]",
    r"\bchown[ ]{1,3}(?:-R[ ]{1,3})?[a-z_][a-z0-9_-]{0,31}(?::[a-z0-9_-]{1,32})?[ ]{1,3}[/~.]",
    (
        r"(?:&&|\|\|)[ ]{0,3}(?:rm|curl|wget|chmod|sudo|nc|bash|sh|xargs|python3?[ ]-c)[ ]"
        r"|[;|][ ]{0,3}(?:rm|curl|wget|nc|bash|sh|xargs|python3?)[ ]{1,3}"
        r"(?:-[a-zA-Z]|[/~.$\"']|https?:)"
    ),
    r"\$\([ ]{0,3}(?:curl|wget|cat|whoami|id|uname|ls|date|echo)\b",
    r"/dev/(?:tcp|udp)/[0-9A-Za-z.-]{1,100}/[0-9]{1,5}",
    r"\bmkfs(?:\.[a-z0-9]{2,6})?[ ]{1,3}/dev/",
    r"\bdd[ ]{1,3}if=[^ \n\x00]{1,100}[ ]{1,3}of=",
    r":\(\)[ ]{0,2}\{[ ]{0,2}:[ ]?\|[ ]?:[ ]?&[ ]{0,2}\}[ ]{0,2};",
    r"\b(?:cat|less|more|head|tail|vi|vim|nano)[ ]{1,3}/(?:etc|proc|root|var/log)/[a-z]",
    r"\bnc[ ]{1,3}(?:-[a-z]{1,5}[ ]{1,3}){1,3}[0-9A-Za-z./]",
    (
        r"(?i:\bpowershell(?:\.exe)?[ ]{1,3}(?:-[a-z]{1,20}[ ]{1,3}){0,4}"
        r"-(?:e|ec|enc|encodedcommand|c|command)[ ])"
    ),
    r"\bexport[ ]{1,3}[A-Z_][A-Z0-9_]{1,60}=[^ \n\x00]",
)

_TABLE: Final = re.compile(rb"(?i)\b(?:from|into|update|table|on)\s+([a-z]+)")
_NO_TABLES: Final = frozenset(
    b"the a an each every this that these those our your my their his her its".split()
)
_GOES_ON_AS_PROSE: Final = re.compile(
    # Behind `union select`, and behind `where`.
    rb"(?i)(?:committee|possible|necessary|needed|appropriate|applicable|required|available"
    rb"|relevant|allowed|permitted|it|they|we|you|there)\b"
    rb"(?!\s*[=<>!(]|\.\w|\s+(?:is\s+(?:not\s+)?null|(?:not\s+)?(?:in|like|between))\b)"
)


def _statement(content: bytes, start: int, end: int) -> Iterable[Span]:
    """Take a statement of SQL unless its table is «the» or «each», or it goes on as a sentence."""
    tables = _TABLE.findall(content, start, end)
    is_prose = tables and tables[-1].lower() in _NO_TABLES
    return () if is_prose or _GOES_ON_AS_PROSE.match(content, end) else ((start, end),)


_RULES: Final[dict[CodeLanguage, tuple[Rule, ...]]] = {
    CodeLanguage.SQL: tuple(
        rule("SQL", rf"(?i)(?:\b|'){form}" if form.startswith("'") else rf"(?i)\b(?:{form})",
             _statement, rank=Rank.CODE)
        for form in _SQL
    ),
    CodeLanguage.SHELL: tuple(rule("SHELL", form, rank=Rank.CODE) for form in _SHELL),
}  # fmt: skip


def code_rules(languages: tuple[CodeLanguage, ...]) -> tuple[Rule, ...]:
    """Return the rules for statements of *languages*."""
    return tuple(known for language in languages for known in _RULES[language])
