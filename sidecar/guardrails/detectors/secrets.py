"""Rules for secrets: vendor tokens, private keys, passwords, assignments of high entropy.

The forms are in `secrets.tsv`, one a line. Each is searched twice: once for the type of its line,
tier `strict`, and once for its likely findings: documentation examples, default passwords.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterable, Iterator
from typing import Final

from sidecar.domain.guardrail_settings import SecretTier
from sidecar.guardrails.detectors.secret_validators import (
    Check,
    bare_password,
    column_secrets,
    command_password,
    json_web_key,
    json_web_token,
    mixed_token,
    named_secret,
    option_password,
    private_key,
    putty_key,
    random_token,
    row_secret,
    shaped_token,
    url_password,
)
from sidecar.guardrails.matching.rule import (
    MAX_CANDIDATES,
    Expression,
    Locate,
    Rank,
    Rule,
    Span,
    compile_re2,
)

LIKELY_TYPES: Final = frozenset(
    {"DEFAULT_PASSWORD", "EXAMPLE_SECRET", "LIKELY_SECRET", "TEST_KEY"}
)
"""The types of the tier `likely`: findings that may well be harmless."""

_CHECKS: Final[dict[str, tuple[Check, str]]] = {
    "shape": (shaped_token, "EXAMPLE_SECRET"),
    "random": (random_token, "EXAMPLE_SECRET"),
    "mixed": (mixed_token, "EXAMPLE_SECRET"),
    "jwt": (json_web_token, "EXAMPLE_SECRET"),
    "jwk": (json_web_key, "EXAMPLE_SECRET"),
    "private_key": (private_key, "EXAMPLE_SECRET"),
    "putty_key": (putty_key, "EXAMPLE_SECRET"),
    "url_password": (url_password, "DEFAULT_PASSWORD"),
    "command": (command_password, "DEFAULT_PASSWORD"),
    "option": (option_password, "DEFAULT_PASSWORD"),
    "named": (named_secret, "LIKELY_SECRET"),
    "row": (row_secret, "LIKELY_SECRET"),
    "bare": (bare_password, "LIKELY_SECRET"),
}
"""The check of a candidate, and the type of its likely findings."""

_RANKS: Final = {
    "LLM_API_KEY": Rank.SHARED_PREFIX,
    "SERVICE_KEY": Rank.SHARED_PREFIX,
    "AUTHORIZATION_HEADER": Rank.GENERIC_SECRET,
    "GENERIC_SECRET": Rank.GENERIC_SECRET,
} | dict.fromkeys(LIKELY_TYPES, Rank.LIKELY_SECRET)

_GROWS: Final = {
    "private_key": r"[A-Za-z0-9+/=\r\n\t \\:,\"'-]*(?:-----END[A-Z0-9 ]{1,40}-----)?",
    "putty_key": (
        r"(?:\r?\n(?:[A-Za-z-]{1,20}(?:: ?[^\r\n\x00]*)?|[A-Za-z0-9+/]{1,64}={0,2}))*\r?\n?"
    ),
    "named": r"[^\x00-\x20]{0,152}",
    "row": r"[^\x00-\x20]{0,152}",
}
"""The text that a check takes in behind the match."""

_MORE: Final = 4
"""Times the usual candidates: large files of code name many a token, and the check is short."""

_MORE_ROWS: Final = 40
"""The same for tables, whose bytes count: of several megabytes with a column named `token`."""

_FOLDER: Final = importlib.resources.files("sidecar.guardrails.detectors")
_UUID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_EDGE: Final = r"\b"
_BESIDE: Final = r"(?:\b|_)"
"""An underscore is a word's character to an expression, and none of a token's."""
_GROUP: Final = re.compile(r"(?<!\\)\((?!\?)")


def _lines(name: str) -> Iterator[str]:
    for line in _FOLDER.joinpath(name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            # Bytes of UTF-8, each one a character of the expression: streams are read backwards.
            yield "".join(
                one if one.isascii() else "".join(f"\\x{byte:02x}" for byte in one.encode())
                for one in line
            )


def _of_tier(check: Check, tier: SecretTier | None) -> Locate:
    """Return a `Locate` of the findings of one tier, None for all."""

    def locate(content: bytes, start: int, end: int) -> Iterable[Span]:
        found = check(content, start, end)
        return () if found is None or tier not in {None, found[0]} else (found[1],)

    return locate


def _rules(words: str) -> Iterator[Rule]:
    for line in _lines("secrets.tsv"):
        type_, named, form = line.split("\t")
        regex = form.replace("{UUID}", _UUID).replace("{KEY}", words)
        if regex.startswith(_EDGE):
            body = regex.removeprefix(_EDGE).removesuffix(_EDGE)
            right = _BESIDE if regex.endswith(_EDGE) else ""
            # A group of its own leaves the underscore out of the finding.
            regex = _BESIDE + (body if _GROUP.search(body) else f"({body})") + right
        check, likely = _CHECKS[named]
        kinds: Iterable[tuple[str, SecretTier | None]] = (
            ((type_, None),) if type_ in LIKELY_TYPES
            else ((type_, SecretTier.STRICT), (likely, SecretTier.LIKELY))
        )  # fmt: skip
        for kind, tier in kinds:
            yield Rule(
                kind,
                Expression(regex),
                _of_tier(check, tier),
                _RANKS.get(kind, Rank.VENDOR_TOKEN),
                grows=regex + _GROWS[named] if named in _GROWS else None,
                max_candidates=MAX_CANDIDATES * (_MORE if named == "named" else 1),
                joins=named not in {"named", "row", "bare", "command", "option", "url_password"},
            )
    name = rf"(?i)(?:{words})[a-z0-9_ .-]{{0,16}}"
    header = name + r"[\"'*`]{0,3} {0,4}(?:[,;\t|][^\n\x00]*|\r)?\n"
    for kind, tier in (
        ("GENERIC_SECRET", SecretTier.STRICT),
        ("LIKELY_SECRET", SecretTier.LIKELY),
    ):
        yield Rule(
            kind,
            Expression(header),
            functools.partial(column_secrets, tier=tier),
            _RANKS[kind],
            max_candidates=MAX_CANDIDATES * _MORE_ROWS,
            # The database looks for the header alone; rows go on as long as they have fields.
            finder=compile_re2(Expression(rf"{header}(?:[^\n\x00]*[,;\t|][^\n\x00]*\n?)+")),
            grows=name,
        )


SECRET_RULES: Final = tuple(_rules("|".join(_lines("secret_words.txt"))))
"""Every rule of the `secrets` guardrail; several rules may share a type."""

SECRET_TYPES: Final = tuple(sorted({known.type for known in SECRET_RULES}))


def tier_of(type_: str) -> SecretTier:
    """Return the tier of a type of `SECRET_TYPES`."""
    return SecretTier.LIKELY if type_ in LIKELY_TYPES else SecretTier.STRICT
