from __future__ import annotations

from pathlib import Path

import pytest
from egret_tools.conformance.target import (
    Target,
    TargetError,
    TcpTarget,
    UnixTarget,
    envoy_address,
    read_target,
)


@pytest.mark.parametrize(
    ("text", "target", "kind"),
    [
        ("unix:/run/a.sock", UnixTarget(Path("/run/a.sock")), "STATIC"),
        ("127.0.0.1:9002", TcpTarget("127.0.0.1", 9002), "STATIC"),
        ("[::1]:9002", TcpTarget("::1", 9002), "STATIC"),
        ("egret.svc:9002", TcpTarget("egret.svc", 9002), "STRICT_DNS"),
    ],
)
def test_a_target_is_a_socket_or_a_host_and_a_port(text: str, target: Target, kind: str) -> None:
    """A name is resolved by Envoy, an address is not."""
    assert read_target(text) == target
    assert envoy_address(target)[0] == kind


def test_the_socket_may_be_named_from_here() -> None:
    """Envoy runs elsewhere."""
    target = read_target("unix:run/a.sock")
    assert target == UnixTarget(Path.cwd() / "run/a.sock")
    assert envoy_address(target)[1] == {"pipe": {"path": str(Path.cwd() / "run/a.sock")}}


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", ":9002", "a:0", "a:70000", "a:x", "unix:/" + "a" * 108]
)
def test_a_text_that_is_no_target_is_refused(text: str) -> None:
    """Said before anything is started."""
    with pytest.raises(TargetError):
        read_target(text)
