from __future__ import annotations

import pytest

from sidecar.settings.process import (
    SettingsError,
    UnknownVariable,
    former_variables,
    read_settings,
    unknown_variables,
)

PLAIN_PORT = {"EGRET_LISTEN__HOST": "::", "EGRET_LISTEN__TLS": "off"}


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        pytest.param(
            {"EGRET_CACHE__INVALIDATION": "pubsub"},
            "EGRET_CACHE__INVALIDATION other than listen needs EGRET_VALKEY__URL",
            id="no server to subscribe to",
        ),
        pytest.param(
            {"EGRET_SERVER__WORKRES": "3"},
            "EGRET_SERVER__WORKRES: no such setting (did you mean EGRET_SERVER__WORKERS?)",
            id="mistyped",
        ),
        pytest.param(
            {"EGRET_SERVER__UNLIKE_ANY_OTHER": "3"},
            "EGRET_SERVER__UNLIKE_ANY_OTHER: no such setting (see docs/deploy.md)",
            id="unlike any setting",
        ),
        pytest.param(
            {"EGRET_SERVER__WORKERS": "many", "EGRET_CACHE__MAX_KEYS": "0"},
            "EGRET_SERVER__WORKERS: must be a whole number\n"
            "EGRET_CACHE__MAX_KEYS: must be at least 1",
            id="two numbers",
        ),
        pytest.param(
            {"EGRET_VALKEY__NODES": "b:6379"},
            'EGRET_VALKEY, or a list in it, is not JSON; write a list as ["a", "b"]',
            id="a list without brackets",
        ),
        pytest.param(
            {"EGRET_TELEMETRY__METRICS_PUSH_SECONDS": "15"},
            "EGRET_TELEMETRY__METRICS_PUSH_SECONDS needs EGRET_TELEMETRY__OTLP_ENDPOINT",
            id="nowhere to push to",
        ),
        pytest.param(
            {"EGRET_TELEMETRY__OTLP_ENDPOINT": "collector:4317"},
            "EGRET_TELEMETRY__OTLP_ENDPOINT: must match pattern '^https?://[^/]'",
            id="a collector without a scheme",
        ),
        pytest.param(
            {"EGRET_TELEMETRY__OTLP_ENDPOINT": ""},
            "EGRET_TELEMETRY__OTLP_ENDPOINT: must match pattern '^https?://[^/]'",
            id="an empty collector",
        ),
        pytest.param(
            {"EGRET_VALKEY__URL": "redis://a", "EGRET_VALKEY__MODE": "sentinel"},
            "EGRET_VALKEY__MODE sentinel needs EGRET_VALKEY__SENTINEL_MASTER",
            id="a Sentinel of nothing",
        ),
        pytest.param(
            {"EGRET_VALKEY__URL": "http://user:hunter2@a"},
            "EGRET_VALKEY__URL: must begin with redis://, rediss:// or unix://",
            id="another scheme",
        ),
        pytest.param(
            {
                "EGRET_VALKEY__URL": "redis://user:hunter2@a",
                "EGRET_VALKEY__PASSWORD_FILE": "/password",
            },
            "EGRET_VALKEY__PASSWORD_FILE needs EGRET_VALKEY__URL, and no password in it",
            id="two passwords",
        ),
        pytest.param(
            {"EGRET_VALKEY__PASSWORD_FILE": "/password"},
            "EGRET_VALKEY__PASSWORD_FILE needs EGRET_VALKEY__URL, and no password in it",
            id="a password for nothing",
        ),
        pytest.param(
            {"EGRET_CACHE__L2_SECRET": "hunter2"},
            "EGRET_CACHE__L2_SECRET: must have at least 32 characters",
            id="a secret that can be guessed",
        ),
        pytest.param(
            {"EGRET_EXCHANGE__MAX_HELD_BYTES": "10485759"},
            "EGRET_EXCHANGE__MAX_HELD_BYTES is less than EGRET_EXCHANGE__MAX_BODY_BYTES",
            id="no room for one body",
        ),
        pytest.param(
            {"EGRET_VALKEY__NODES": '["redis://b:6379"]'},
            "EGRET_VALKEY__NODES__0: must match pattern '^[^\\s@/]+:[0-9]{1,5}$'",
            id="a node that is a URL",
        ),
        pytest.param(
            {"EGRET_LISTEN__HOST": "egret", "EGRET_LISTEN__KEY_FILE": "/k"},
            "EGRET_LISTEN__HOST needs EGRET_LISTEN__CERTIFICATE_FILE, EGRET_LISTEN__KEY_FILE"
            " and EGRET_LISTEN__CLIENT_CA_FILE; or EGRET_LISTEN__TLS=off, if a mesh"
            " encrypts and authenticates",
            id="a port in the clear",
        ),
        pytest.param(
            PLAIN_PORT | {"EGRET_LISTEN__PORT": "65535", "EGRET_SERVER__WORKERS": "2"},
            "EGRET_LISTEN__PORT leaves no port for each worker",
            id="more workers than ports",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fault: str
) -> None:
    """Each variable that is wrong, and nothing of what it holds."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as caught:
        read_settings()

    assert str(caught.value) == fault


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"EGRET_CACHE__L2_SECRET": "s" * 32}, id="no server"),
        pytest.param({"EGRET_VALKEY__URL": "redis://a"}, id="no secret"),
        pytest.param(
            {
                "EGRET_CACHE__L2_SECRET": "s" * 32,
                "EGRET_VALKEY__URL": "redis://a",
                "EGRET_EXCHANGE__MESSAGE_TABLE_MB": "0",
            },
            id="no table",
        ),
    ],
)
def test_workers_alone_need_the_means_to_share_messages(
    monkeypatch: pytest.MonkeyPatch, others: dict[str, str]
) -> None:
    """Jobs and `egret admin` get the same settings, but not the workers' secret."""
    for name, value in {"EGRET_EXCHANGE__SHARED_MESSAGES_SECONDS": "600", **others}.items():
        monkeypatch.setenv(name, value)

    settings = read_settings()
    with pytest.raises(SettingsError) as caught:
        settings.check_for_workers()

    assert str(caught.value) == (
        "EGRET_EXCHANGE__SHARED_MESSAGES_SECONDS needs EGRET_VALKEY__URL,"
        " EGRET_CACHE__L2_SECRET and EGRET_EXCHANGE__MESSAGE_TABLE_MB"
    )


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("EGRET_POSTGRES_DSN", "EGRET_POSTGRES__DSN"),
        ("EGRET_SERVR__WORKERS", "EGRET_SERVER__WORKERS"),
        ("EGRET_LISTEN_PORT", "EGRET_LISTEN__PORT"),
        ("EGRET_NOTHING_LIKE_IT_AT_ALL_XYZ", None),
    ],
)
def test_a_variable_that_matches_no_setting_is_reported(variable: str, meant: str | None) -> None:
    """With the setting that was probably meant."""
    assert unknown_variables({variable: "1"}) == (UnknownVariable(variable, meant),)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EGRET_POSTGRES__DSN", "postgresql:///egret"),
        ("egret_server__workers", "2"),
        ("EGRET_SERVER", '{"workers": 2}'),
        ("EGRET_KEY", "egk_x"),
        ("EGRET_URL", "http://127.0.0.1:8080"),
        ("EGRET_HTTPS_URL", "https://localhost:8443"),
        ("EGRET_PORT", "tcp://10.0.0.1:443"),
        ("EGRET_SERVICE_HOST", "10.0.0.1"),
        ("EGRET_SERVICE_PORT_HTTPS", "443"),
        ("EGRET_PORT_443_TCP", "tcp://10.0.0.1:443"),
        ("EGRET_PORT_443_TCP_ADDR", "10.0.0.1"),
        ("EGRET_POSTGRES_PORT_5432_TCP_PROTO", "tcp"),
        ("PATH", "/bin"),
    ],
)
def test_settings_and_variables_of_kubernetes_are_not_reported(variable: str, value: str) -> None:
    """A pod is given variables for each service whose name begins with `egret`."""
    assert unknown_variables({variable: value}) == ()


@pytest.mark.parametrize("variable", ["EGRET_SERVER__ENGINE", "egret_server__engine"])
def test_a_setting_of_older_versions_is_reported_once(variable: str) -> None:
    """It is accepted without effect, and no other variable is said to mean it."""
    assert former_variables({variable: "grpcio", "PATH": "/bin"}) == ("EGRET_SERVER__ENGINE",)
    assert unknown_variables({variable: "grpcio"}) == ()
    assert unknown_variables({"EGRET_SERVE_ENGINE": "x"})[0].meant != "EGRET_SERVER__ENGINE"
