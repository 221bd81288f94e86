"""What storage and the database's triggers agree on by name."""

from __future__ import annotations

from typing import Final

KEYS_CHANNEL: Final = "egret_keys"
"""Payload: the public id of a key, or a scope that holds keys: `team:<id>`, `organization:<id>`,
`*` for all; then, with most changes, a comma and when it was made, in microseconds since the
epoch by the database's clock, a moment before its commit."""

POLICIES_CHANNEL: Final = "egret_policies"
"""Payload: the name of a policy, or `*` for all."""
