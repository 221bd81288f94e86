from __future__ import annotations

import pytest

from sidecar.domain.validation import is_refused_address


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0", "fd00:ec2::254",
        "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "0.0.0.0",  # noqa: S104 - never bound to
        "::", "224.0.0.1",
        "ff02::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_an_address_that_hands_out_credentials_is_refused(address: str) -> None:
    """A policy's author must not reach a cloud's metadata server, in whatever spelling."""
    assert is_refused_address(address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "10.0.0.7", "192.168.1.1", "fd12::1", "203.0.113.9", "dlp.example.com"],
)
def test_an_address_in_the_cluster_or_outside_is_allowed(address: str) -> None:
    """Webhooks live beside Egret or elsewhere; names are judged once they are resolved."""
    assert not is_refused_address(address)
