from __future__ import annotations

import subprocess
import sys

from sidecar.server.grpc_environment import GRPC_ENVIRONMENT
from sidecar.settings.sections import inherited_environment

START_A_SERVER = """
import grpc
from concurrent.futures import ThreadPoolExecutor
server = grpc.server(ThreadPoolExecutor(1))
server.add_insecure_port("127.0.0.1:0")
server.start()
server.stop(None).wait()
"""


def complaints(experiments: str) -> str:
    environment = inherited_environment() | {"GRPC_EXPERIMENTS": experiments}
    done = subprocess.run(
        [sys.executable, "-c", START_A_SERVER],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return "\n".join(line for line in done.stderr.splitlines() if "experiment" in line)


def test_the_installed_grpc_knows_the_switch_we_set() -> None:
    """A gRPC that dropped it would go on without, and a worker would cost a quarter more."""
    assert complaints(GRPC_ENVIRONMENT["GRPC_EXPERIMENTS"]) == ""


def test_grpc_would_tell_if_it_did_not() -> None:
    """What the test above looks for is really written."""
    assert "no_such_thing" in complaints("-no_such_thing")
