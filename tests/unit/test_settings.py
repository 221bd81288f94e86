from __future__ import annotations

import pytest

from sidecar.settings import Invalidation, SettingsError, read_settings


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        pytest.param(
            {"EGRET_CACHE__INVALIDATION": "pubsub"},
            "EGRET_CACHE__INVALIDATION other than listen needs EGRET_VALKEY__URL",
            id="nobody to subscribe to",
        ),
        pytest.param(
            {"EGRET_VALKEY__URL": "redis://a", "EGRET_VALKEY__MODE": "sentinel"},
            "EGRET_VALKEY__MODE sentinel needs EGRET_VALKEY__SENTINEL_MASTER",
            id="a Sentinel of nothing",
        ),
        pytest.param(
            {"EGRET_VALKEY__URL": "http://user:hunter2@a"},
            "EGRET_VALKEY__URL: Value error, must begin with redis://, rediss:// or unix://",
            id="another scheme",
        ),
        pytest.param(
            {"EGRET_CACHE__L2_SECRET": "hunter2"},
            "EGRET_CACHE__L2_SECRET: Value should have at least 32 items after validation, not 7",
            id="a secret that can be guessed",
        ),
        pytest.param(
            {"EGRET_VALKEY__NODES": '["redis://b:6379"]'},
            "EGRET_VALKEY__NODES__0: String should match pattern '^[^\\s@/]+:[0-9]{1,5}$'",
            id="a node that is a URL",
        ),
    ],
)
def test_what_does_not_fit_together_is_said_by_name(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fault: str
) -> None:
    """Each variable that is wrong, and nothing of what it holds."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as caught:
        read_settings()

    assert str(caught.value) == fault


@pytest.mark.parametrize(
    ("invalidation", "expected"),
    [
        (Invalidation.LISTEN, (True, False)),
        (Invalidation.PUBSUB, (False, True)),
        (Invalidation.BOTH, (True, True)),
    ],
    ids=lambda value: value.value if isinstance(value, Invalidation) else "",
)
def test_invalidation_says_who_listens_where(
    invalidation: Invalidation, expected: tuple[bool, bool]
) -> None:
    """In PostgreSQL, in Valkey."""
    assert (invalidation.listens, invalidation.subscribes) == expected
