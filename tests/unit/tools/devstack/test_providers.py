from __future__ import annotations

from pathlib import Path

import pytest
from egret_tools.devstack.envoy_config import Provider
from egret_tools.devstack.providers import Upstream, read_address
from pydantic import SecretStr


@pytest.mark.parametrize(
    ("url", "address"),
    [
        pytest.param("https://api.openai.com", ("api.openai.com", 443), id="plain"),
        pytest.param("https://llm.example:8443/", ("llm.example", 8443), id="port and slash"),
        pytest.param("https://llm.example/v1", ("llm.example", 443), id="as clients write it"),
        pytest.param("https://127.0.0.1:1", ("127.0.0.1", 1), id="IPv4"),
        pytest.param("https://[::1]:1", ("::1", 1), id="IPv6"),
    ],
)
def test_an_address_is_a_host_and_a_port(url: str, address: tuple[str, int]) -> None:
    """443 where none is written."""
    assert read_address(url) == address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("http://llm.example", "in the clear", id="no TLS"),
        pytest.param("llm.example", "in the clear", id="no scheme"),
        pytest.param("https://", "names a host", id="no host"),
        pytest.param("https://user:pass@llm.example", "no user", id="credentials"),
        pytest.param("https://llm.example/openai/v1", "path of its own", id="path"),
        pytest.param("https://llm.example?x=1", "no user, query", id="query"),
        pytest.param("https://llm.example:99999", "out of range", id="port out of range"),
    ],
)
def test_what_is_not_an_address_is_refused_with_the_reason(url: str, reason: str) -> None:
    """The command line shows it as wrong usage."""
    with pytest.raises(ValueError, match=f"(?i){reason}"):
        read_address(url)


def test_without_a_key_no_credential_is_added() -> None:
    """A server of one's own may need none."""
    upstream = Upstream("llm.example", 443, ca_file=Path("ca.pem"))
    assert upstream.provider(credential_header="authorization", credential=None) == Provider(
        host="llm.example", ca_file="ca.pem"
    )
    with_key = upstream.provider(credential_header="x-api-key", credential=SecretStr("k"))
    assert with_key.credential_header == "x-api-key"


@pytest.mark.parametrize(
    ("provider", "authority", "is_ip_address"),
    [
        pytest.param(Provider(host="llm.example"), "llm.example", False, id="name"),
        pytest.param(Provider(host="llm.example", port=1), "llm.example:1", False, id="port"),
        pytest.param(Provider(host="192.0.2.1"), "192.0.2.1", True, id="IPv4"),
        pytest.param(Provider(host="::1", port=1), "[::1]:1", True, id="IPv6"),
    ],
)
def test_the_host_header_and_the_certificate_check_follow_the_host(
    provider: Provider, authority: str, *, is_ip_address: bool
) -> None:
    """An address is checked as an address: SNI and DNS names are for names."""
    assert (provider.authority, provider.is_ip_address) == (authority, is_ip_address)
