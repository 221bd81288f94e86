from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.settings.administration import AdminSettings


def settings(**changes: Any) -> AdminSettings:
    return AdminSettings.model_validate(changes)


def test_on_this_machine_alone_plain_http_is_enough() -> None:
    """Both of its names may send changes."""
    local = settings()

    assert (local.origin, local.is_encrypted) == ("http://127.0.0.1:9466", False)
    assert "http://localhost:9466" in local.origins


def test_a_public_address_is_https_and_the_only_origin() -> None:
    """Cookies are then `Secure`."""
    public = settings(host="0.0.0.0", public_url="https://egret.example.com/")  # noqa: S104

    assert (public.origin, public.is_encrypted) == ("https://egret.example.com", True)
    assert public.origins == {"https://egret.example.com"}


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Egret.Example.com", "https://egret.example.com"),
        ("https://egret.example.com:443/", "https://egret.example.com"),
        ("HTTPS://egret.example.com:8443", "https://egret.example.com:8443"),
        ("https://[FD00::1]:443", "https://[fd00::1]"),
        ("http://LOCALHOST:80", "http://localhost"),
    ],
)
def test_a_public_address_is_the_origin_that_browsers_send(url: str, origin: str) -> None:
    """In any other form each login would be refused as one of another site."""
    public = settings(public_url=url)

    assert public.origin == origin
    assert origin in public.origins
    assert public.is_encrypted is origin.startswith("https://")


@pytest.mark.parametrize("changes", [{"public_url": "http://localhost"}, {"port": 80}])
def test_the_origins_of_this_machine_have_no_default_port(changes: dict[str, Any]) -> None:
    """Browsers leave it out."""
    assert settings(**changes).origins == {"http://localhost", "http://127.0.0.1"}


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "0.0.0.0"},  # noqa: S104
        {"public_url": "http://egret.example.com"},
        {"public_url": "https://egret.example.com/console"},
        {"public_url": "https://user@egret.example.com"},
        {"public_url": "egret.example.com"},
        {"public_url": "https://egret.example.com:99999"},
        {"public_url": "https://münchen.example"},
        {"proxies": "10.0.0.5, ingress.example"},
        {"proxies": "10.0.0.5/8"},
        {"proxies": "*"},
        {"proxies": "10.0.0.5, *"},
        {"public_url": "https://egret example.com"},
        {"oidc_issuer": "https://id.example.com", "oidc_client_id": ""},
        {"oidc_issuer": "https://id.example.com"},
        {"oidc_issuer": "http://id.example.com", "oidc_client_id": "egret"},
    ],
)
def test_settings_that_would_send_sessions_in_the_clear_are_refused(
    changes: dict[str, Any],
) -> None:
    """So are halves of a configuration."""
    with pytest.raises(ValidationError):
        settings(**changes)


def test_a_pool_of_one_connection_is_refused() -> None:
    """`POST /installation/apply` stores new policies by a second one."""
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        settings(pool_size=1)


@pytest.mark.parametrize("proxies", ["", "10.0.0.5, 192.168.0.0/16,", "fd00::/8"])
def test_proxies_are_addresses_and_networks(proxies: str) -> None:
    """All others would be ignored by uvicorn without a word."""
    assert settings(proxies=proxies).proxies == proxies
