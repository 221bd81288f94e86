"""The organizations, teams and keys of all recorded conversations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Limits = list[dict[str, Any]]

ORGANIZATIONS: Final[tuple[dict[str, Any], ...]] = (
    {"name": "acme", "enabled": True, "policy": None},
    {"name": "strict", "enabled": True, "policy": "org-mandatory"},
    {"name": "closed", "enabled": False, "policy": None},
)


def _team(name: str, organization: str = "acme", **more: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {"enabled": True, "policy": None, "allowed_models": None, "limits": []}
    return {**usual, "name": name, "organization": organization, **more}


TEAMS: Final = (
    _team("search"),
    _team("paused", enabled=False),
    _team("narrow", allowed_models=["gpt-4o*"]),
    _team("bound", policy="block"),
    _team("rationed", limits=[{"measure": "requests", "window": "day", "amount": 3}]),
    _team("strict", "strict"),
    _team("closed", "closed"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A row of `api_keys`."""

    key_id: str
    team: str = "search"
    policy: str | None = None
    enabled: bool = True
    not_before: str | None = None
    expires_at: str | None = None
    revoked_at: str | None = None
    allowed_models: list[str] | None = None
    allowed_operations: list[str] | None = None
    allowed_sources: list[str] | None = None
    limits: Limits
    priority: str = "standard"


def _key(name: str, *, limits: Limits | None = None, **more: Any) -> KeyRow:
    key_id = (name.replace("-", "") + "0123456789ab")[:12]
    return KeyRow(key_id=key_id, limits=limits or [], **more)


def _limit(measure: str, window: str, amount: int, **more: Any) -> dict[str, Any]:
    return {"measure": measure, "window": window, "amount": amount, **more}


_PAST, _FUTURE = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"

_OWN: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "revoked": {"revoked_at": _PAST},
    "expired": {"expires_at": _PAST},
    "expires-late": {"expires_at": _FUTURE},
    "early": {"not_before": _FUTURE},
    "disabled": {"enabled": False},
    "paused-team": {"team": "paused"},
    "closed-org": {"team": "closed"},
    "narrow-team": {"team": "narrow"},
    "narrow-wide": {"team": "narrow", "allowed_models": ["*"]},
    "bound-team": {"team": "bound"},
    "strict-org": {"team": "strict"},
    "strict-free": {"team": "strict", "policy": "free"},
    "one-model": {"allowed_models": ["gpt-4o-mini"]},
    "no-model": {"allowed_models": []},
    "chat-only": {"allowed_operations": ["chat"]},
    "embeds-only": {"allowed_operations": ["embeddings"]},
    "inside": {"allowed_sources": ["10.0.0.0/8", "2001:db8::/32"]},
    "urgent": {"priority": "interactive"},
    "batch": {"priority": "batch"},
    "limit-requests": {"limits": [_limit("requests", "day", 2)]},
    "limit-tokens": {"limits": [_limit("tokens", "day", 2000)]},
    "limit-input": {"limits": [_limit("input_tokens", "day", 60)]},
    "limit-output": {"limits": [_limit("output_tokens", "day", 100)]},
    "limit-budget": {"limits": [_limit("cost", "month", 4000)]},
    "limit-nothing": {"limits": [_limit("cost", "month", 0)]},
    "limit-once": {"limits": [_limit("concurrent", "once", 2)]},
    "limit-many": {
        "limits": [
            _limit("requests", "day", 50),
            _limit("tokens", "day", 5000),
            _limit("concurrent", "once", 5),
        ]
    },
    "limit-scoped": {
        "limits": [
            _limit("requests", "day", 1, models=["gpt-4o"]),
            _limit("requests", "day", 1, operations=["embeddings"]),
        ]
    },
    "limit-team": {"team": "rationed"},
    "limit-team-2": {"team": "rationed"},
    **{f"slow-{number}": {} for number in range(14)},
}

_WITH_POLICIES: Final = (
    "block", "flag", "shadow", "free", "unscanned-flag", "strict-unscanned", "none",
    "secrets-redact", "pii-redact", "pii-flag", "pii-block", "pii-shadow", "pii-types",
    "pii-countries", "terms", "terms-redact", "patterns", "patterns-redact", "code", "toxicity",
    "injection", "injection-low", "injection-flag", "language", "max-input", "max-tokens",
    "hash", "formats", "restore", "restore-both", "routes", "models", "rollout-none",
    "rollout-all", "excepted", "excepted-over", "policy-models", "out-redact", "out-block",
    "out-flag", "out-buffer", "out-observe", "out-allow", "out-words", "out-schema",
    "out-schema-flag", "out-schema-tools", "out-both", "hide", "hide-redact", "pass",
    "estimate", "hook-pass", "hook-block", "hook-flag", "hook-redact", "hook-error",
    "hook-error-open", "hook-hang", "hook-hang-open", "hook-rubbish", "hook-shadow",
    "hook-out", "hook-and-local", "hook-slow", "hook-slow-out",
)  # fmt: skip

KEYS: Final[dict[str, KeyRow]] = {
    **{name: _key(name, **more) for name, more in _OWN.items()},
    **{f"p-{name}": _key(f"p{name}", policy=name) for name in _WITH_POLICIES},
}
"""`p-NAME` is bound to the policy NAME."""

IDS: Final = {row.key_id for row in KEYS.values()}
if len(IDS) != len(KEYS):
    raise AssertionError("two keys have one id")
