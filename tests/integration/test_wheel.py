"""The wheels hold all that a checkout has beside the packages, and the command works elsewhere."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from sidecar.settings.sections import inherited_environment
from tests.support.postgres import Database

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Wheels:
    """Both wheels, and an environment with them beside the dependencies of this one."""

    egret: Path
    tools: Path
    bin: Path
    lint_without_tools: subprocess.CompletedProcess[str]


def _ran(
    *command: Path | str, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {**inherited_environment()}
    inherited.pop("PYTHONPATH", None)  # or the checkout would be imported, not the wheels
    return subprocess.run(
        command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False
    )


def _run(*command: Path | str, cwd: Path = ROOT, **environment: str) -> str:
    done = _ran(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    """Build and install them, one after the other."""
    folder = tmp_path_factory.mktemp("wheel")
    for project in (".", "tools"):
        _run(
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", folder, project),
        )
    (egret,), (tools,) = folder.glob("egret-*.whl"), folder.glob("egret_tools-*.whl")
    venv.create(folder / "venv", with_pip=True)
    place = folder / "venv" / "bin"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = (place / "python", "-m", "pip", "install", "--no-index", "--no-deps", "--quiet")
    _run(*install, egret)
    lint_without_tools = _ran(place / "egret", "lint", "envoy.yaml", cwd=folder)
    _run(*install, tools)
    return Wheels(egret, tools, place, lint_without_tools)


@pytest.fixture
def installed(wheels: Wheels) -> Path:
    """Return the `bin` of the environment with both wheels."""
    return wheels.bin


def test_the_wheel_of_egret_works_without_the_tools(wheels: Wheels) -> None:
    """Their commands report the way to install them, which names the files that were built."""
    done = wheels.lint_without_tools

    assert (done.returncode, done.stdout) == (2, "")
    assert "`egret lint` needs egret-tools, and egret_tools is not installed" in done.stderr
    assert f"dist/{wheels.egret.name}[tools]" in done.stderr
    assert f"dist/{wheels.tools.name}" in done.stderr


def test_the_wheels_share_no_file(wheels: Wheels) -> None:
    """Each package is in one of them, with its licence and its marker of types."""
    names = {wheel: set(ZipFile(wheel).namelist()) for wheel in (wheels.egret, wheels.tools)}

    assert names[wheels.egret].isdisjoint(names[wheels.tools])
    assert "sidecar/py.typed" in names[wheels.egret]
    assert not any(name.startswith("egret_tools/") for name in names[wheels.egret])
    assert "egret_tools/py.typed" in names[wheels.tools]
    assert all(
        any(name.endswith(".dist-info/licenses/LICENSE") for name in files)
        for files in names.values()
    )


def test_the_installed_command_lists_its_commands(installed: Path, tmp_path: Path) -> None:
    """`egret --help` from anywhere."""
    shown = _run(installed / "egret", "--help", cwd=tmp_path)
    assert all(name in shown for name in ("up", "serve", "demo", "migrate", "keys", "policy"))


def test_the_wheel_brings_the_status_page(installed: Path, tmp_path: Path) -> None:
    """With its script and its style."""
    made = (
        "from prometheus_client import CollectorRegistry as R;"
        "from sidecar.telemetry.status.status_page import StatusPage as P; p = P(R());"
        "print([len(p.content(f'/status{end}', '').body) > 500 for end in ('', '.js', '.css')])"
    )
    assert _run(installed / "python", "-c", made, cwd=tmp_path) == "[True, True, True]\n"


def test_the_wheel_brings_its_migrations(
    installed: Path, tmp_path: Path, empty_database: Database
) -> None:
    """An empty database is migrated from the wheel alone, and has nothing left to do after."""
    dsn = {"EGRET_POSTGRES__DSN": empty_database.dsn}
    _run(installed / "egret", "migrate", cwd=tmp_path, **dsn)
    _run(installed / "egret", "migrate", "--check", cwd=tmp_path, **dsn)


def test_the_wheel_brings_the_default_policy(installed: Path, tmp_path: Path) -> None:
    """And Envoy's messages."""
    code = (
        "from sidecar.policy.parse import default_policy;"
        "import sidecar.extproc.codec;"
        "print(default_policy().name)"
    )
    assert _run(installed / "python", "-c", code, cwd=tmp_path) == "default\n"


def test_the_tools_bring_envoy_s_template_and_its_schema(installed: Path, tmp_path: Path) -> None:
    """A rendered configuration passes the lint, from anywhere."""
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(
        "worker_sockets: [/run/egret/sockets/worker-0.sock]\nsds_directory: /etc/egret/sds\n"
        "admin_socket: /run/envoy/admin.sock\n"
    )

    config = _run(installed / "egret", "envoy", "render", parameters, cwd=tmp_path)
    (tmp_path / "envoy.yaml").write_text(config)

    assert "ext_proc" in config
    _run(installed / "egret", "lint", "envoy.yaml", cwd=tmp_path)


def test_the_tools_bring_their_cases_and_policies(installed: Path, tmp_path: Path) -> None:
    """Those of `egret conformance`, and those that `egret up` applies."""
    code = (
        "from egret_tools.conformance.case import load_cases, own_files;"
        "from importlib import resources;"
        "policies = resources.files('egret_tools.devstack').joinpath('demo_policies.yaml');"
        "print(len([load_cases(file) for file in own_files()]), policies.is_file())"
    )
    assert _run(installed / "python", "-c", code, cwd=tmp_path).split() == ["4", "True"]
