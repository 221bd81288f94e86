"""What storage and the database's triggers agree on by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REVISION: Final = "0011"
"""The last of db/versions: the schema that this version of Egret is written for."""

KEYS_CHANNEL: Final = "egret_keys"
"""Payload: the public id of a key, or a scope that holds keys: `team:<id>`, `organization:<id>`,
`*` for all; then, with most changes, a comma and when it was made, in microseconds since the
epoch by the database's clock, a moment before its commit."""

POLICIES_CHANNEL: Final = "egret_policies"
"""Payload: the name of a policy, or `*` for all."""

ROLES: Final = ("egret_sidecar", "egret_admin")
"""Groups that logins are members of: workers, and those who run the command line."""

INDEXES: Final = (
    "idx_api_keys_policy_name",
    "idx_api_keys_replaced_by",
    "idx_api_keys_tags",
    "idx_api_keys_team_id",
    "idx_api_keys_team_id_name",
    "idx_audit_log_at",
    "idx_audit_log_object_id",
    "idx_audit_log_transaction",
    "idx_organizations_policy_name",
    "idx_teams_policy_name",
    "idx_usage_by_hour_key_id",
    "idx_usage_by_hour_organization_id",
    "idx_usage_by_hour_team_id",
    "idx_usage_key_id_occurred_at",
    "idx_usage_team_id_occurred_at",
)

_AUDITED: Final = (
    "api_keys", "organizations", "policies", "policy_versions", "prices", "teams",
)  # fmt: skip

TRIGGERS: Final = (
    *(
        f"{table}_audit_{change}"
        for table in _AUDITED
        for change in ("delete", "insert", "truncate", "update")
    ),
    "api_keys_forget_activity",
    *(f"api_keys_notify_{change}" for change in ("delete", "insert", "truncate", "update")),
    *(f"organizations_notify_{change}" for change in ("delete", "update")),
    *(f"teams_notify_{change}" for change in ("delete", "update")),
    "policies_notify",
    "policies_notify_truncate",
    "usage_roll_up_delete",
    "usage_roll_up_insert",
)

_READ_BY_ALL: Final = ("alembic_version", *_AUDITED)

_READ_BY_ADMINISTRATORS: Final = (
    *_READ_BY_ALL, "usage", "usage_by_hour", "usage_by_day", "key_activity", "audit_log",
)  # fmt: skip

GRANTS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "egret_sidecar": (
        *((table, "SELECT") for table in _READ_BY_ALL),
        ("usage", "INSERT"),
        ("key_activity", "SELECT"),
        ("key_activity", "INSERT"),
        ("key_activity", "UPDATE"),
    ),
    "egret_admin": (
        *((table, "SELECT") for table in _READ_BY_ADMINISTRATORS),
        *((table, change) for table in _AUDITED for change in ("INSERT", "UPDATE", "DELETE")),
    ),
}
"""What each role may do, as table and privilege; the function `egret_grant` grants it."""

CALLS: Final[Mapping[str, tuple[str, ...]]] = {
    "egret_sidecar": (
        "egret_last_change()",
        "egret_prepare_usage(integer)",
        "egret_usage_found(timestamptz[], text[])",
        "egret_used(text, text, timestamptz)",
    ),
    "egret_admin": (
        "egret_drop_usage(integer)",
        "egret_prepare_usage(integer)",
        "egret_used(text, text, timestamptz)",
    ),
}
"""What each role may execute, granted by the same."""
