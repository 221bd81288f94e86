from __future__ import annotations

import socket

import pytest
from egret_tools.devstack.child import PartError
from egret_tools.devstack.ports import check_port, free_port


def test_a_port_in_use_is_named_with_the_hint() -> None:
    """SO_REUSEPORT of the one that listens does not hide it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PartError) as refused:
            check_port("Envoy", port)
    assert str(refused.value) == f"Envoy: port {port} is in use"
    assert "leave the port out" in refused.value.hint


def test_a_free_port_passes_the_check_and_can_be_had() -> None:
    """Zero, what the options default to, passes as well."""
    port = free_port()
    check_port("Envoy", port)
    check_port("Envoy", 0)
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", port))
        assert mine.getsockname()[1] == port
