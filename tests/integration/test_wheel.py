"""The wheel holds all that a checkout has beside the package, and its command works elsewhere."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from sidecar.settings.sections import inherited_environment
from tests.support.postgres import Database

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` of a venv with the built wheel; dependencies are those of this venv."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), ".")
    (wheel,) = folder.glob("egret-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    _run(str(python), "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", str(wheel))
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def _run(*command: str, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=inherited_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_installed_command_lists_its_commands(installed: Path, tmp_path: Path) -> None:
    """`egret --help` from anywhere."""
    shown = _run(str(installed / "egret"), "--help", cwd=tmp_path)
    assert all(name in shown for name in ("up", "serve", "demo", "migrate", "keys", "policy"))


def test_the_wheel_brings_the_status_page(installed: Path, tmp_path: Path) -> None:
    """With its script and its style."""
    made = (
        "from prometheus_client import CollectorRegistry as R;"
        "from sidecar.telemetry.status.status_page import StatusPage as P; p = P(R());"
        "print([len(p.part(f'/status{end}', '').body) > 500 for end in ('', '.js', '.css')])"
    )
    assert _run(str(installed / "python"), "-c", made, cwd=tmp_path) == "[True, True, True]\n"


def test_the_wheel_brings_its_migrations(
    installed: Path, tmp_path: Path, empty_database: Database
) -> None:
    """An empty database is migrated from the wheel alone, and has nothing left to do after."""
    dsn = {"EGRET_POSTGRES__DSN": empty_database.dsn}
    _run(str(installed / "egret"), "migrate", cwd=tmp_path, **dsn)
    _run(str(installed / "egret"), "migrate", "--check", cwd=tmp_path, **dsn)


def test_the_wheel_brings_envoy_s_template(installed: Path, tmp_path: Path) -> None:
    """And its messages, and the default policy."""
    code = (
        "from egret_tools.devstack.envoy_config import template_text;"
        "from sidecar.policy.parse import default_policy;"
        "import sidecar.transport.codec;"
        "print(len(template_text()) > 1000, default_policy().name)"
    )
    assert _run(str(installed / "python"), "-c", code, cwd=tmp_path).split() == ["True", "default"]
