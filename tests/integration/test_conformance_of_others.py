"""The conformance suite against servers that are no Egret: one in Go, one in Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from egret_tools.conformance.suite import ORDINARY

from sidecar.settings.sections import inherited_environment
from tests.support.sizes import sized

pytestmark = pytest.mark.stack

NOOP = Path(__file__).parents[1] / "support" / "noop"
START_SECONDS = 60.0
SMALL = (*ORDINARY, "a client that leaves")
"""Without --full only these cases run, once; with it all of them, three times."""
NO_STREAMED_RESPONSE = "answered `request_body` without a `streamed_response`"
DUPLEX = dict.fromkeys(
    ("duplex", "duplex-answer", "duplex-behind", "duplex-before"), NO_STREAMED_RESPONSE
)
UNSERVED = {
    "go": {"buffered-answer": "answered `response_body` with an empty message", **DUPLEX},
    "python": DUPLEX,
}


def command_of(language: str, folder: Path) -> list[str]:
    """Return the command of a server; skips the test if Go is not installed."""
    if language == "python":
        return [sys.executable, str(NOOP / "noop.py")]
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed: the server in Go is not tested")
    program = folder / "noop"
    build = [go, "build", "-o", str(program), str(NOOP / "noop.go")]
    environment = {**inherited_environment(), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    done = subprocess.run(build, capture_output=True, text=True, check=False, env=environment)
    if done.returncode and "requires go" in done.stderr + done.stdout:
        pytest.skip("this Go is older than 1.24: the server in Go is not tested")
    assert done.returncode == 0, done.stderr
    return [str(program)]


@contextmanager
def serving(command: list[str], socket: Path) -> Iterator[None]:
    """Run a server until the block ends."""
    process = subprocess.Popen([*command, str(socket)], env=inherited_environment())
    try:
        deadline = time.monotonic() + START_SECONDS
        while not socket.is_socket():
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(60)


def conformance(socket: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "sidecar", "conformance", "--target", f"unix:{socket}"]
    return subprocess.run(
        [*command, *options],
        capture_output=True, text=True, check=False, timeout=400, env=inherited_environment(),
    )  # fmt: skip


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("language", UNSERVED)
def test_a_server_that_lets_everything_pass_gets_the_same_report_each_time(
    language: str,
) -> None:
    """Each mode that it does not serve is said once, with the cause; all else conforms."""
    rounds = sized(3, small=1)
    chosen = () if rounds > 1 else [part for name in SMALL for part in ("--case", name)]
    with tempfile.TemporaryDirectory(prefix="egret-no-") as place:
        folder, socket, kept = Path(place), Path(place) / "noop.sock", Path(place) / "rows"
        with serving(command_of(language, folder), socket):
            done = [conformance(socket, *chosen, "--results", str(kept)) for _ in range(rounds)]
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {one.returncode for one in done} == {1}
    assert len({one.stdout for one in done}) == 1
    report = done[0].stdout
    said = [line for line in report.splitlines() if line.startswith("all ordinary cases")]
    assert len(said) == len(UNSERVED[language])
    for line, (mode, cause) in zip(said, UNSERVED[language].items(), strict=True):
        assert line.startswith(f"all ordinary cases of mode {mode} differ: your server {cause}")
    differing = {row["mode"] for row in rows if row["differs"]}
    assert differing == set(UNSERVED[language])
    assert {row["mode"] for row in rows if not row["was_run"]} == set(UNSERVED[language])
    assert {row["mode"] for row in rows if row["conforms"]} >= {"headers", "buffered"}
