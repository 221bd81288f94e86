"""Builds all that can be installed into `build/dist`, and tries it: `make dist`, `make dist-test`.

    python -m deploy.distribution build [--python-image IMAGE@sha256:…] [--envoy-digest sha256:…]
    python -m deploy.distribution test

`build` writes the wheels of Egret and its tools with their pinned requirements, the wheel of the
client as `make client` generates it, the image as an OCI archive (with Podman or Buildah), the
chart with the digests of its images, the SBOM, and SHA256SUMS. `test` installs each in a new place
outside the checkout and uses it; for the wheels that is `egret demo`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from sidecar import __version__
from sidecar.settings.sections import inherited_environment

ROOT: Final = Path(__file__).resolve().parents[1]
DIST: Final = ROOT / "build" / "dist"
CHART: Final = ROOT / "deploy" / "helm" / "egret"
CHART_CASES: Final = CHART / "ci"
REQUIREMENTS: Final = {
    "guardrails.txt": f"egret-{__version__}-requirements.txt",
    "tools.txt": f"egret-{__version__}-tools-requirements.txt",
}
"""The pinned packages of a worker, and of `egret up` and `egret demo` besides."""
SBOM: Final = f"egret-{__version__}.cdx.json"
IMAGE_ARCHIVE: Final = f"egret-{__version__}-image.tar"
SUMS: Final = "SHA256SUMS"
BUILDERS: Final = ("podman", "buildah")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class DistributionError(Exception):
    """Something cannot be built, or what was built does not work."""


def run(*command: str | Path, cwd: Path = ROOT, checkout: bool = False) -> str:
    """Run a program, without the checkout's modules unless *checkout*, and return its output.

    Raises:
        DistributionError: it exits with another code than 0.
    """
    environment = {**inherited_environment()}
    if not checkout:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(  # noqa: S603 - programs of this file
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = " ".join(str(word) for word in command[:4])
        raise DistributionError(f"{words} … exited {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, flush=True)


def build(*, python_image: str, envoy_digest: str, image_options: str = "") -> None:
    """Write everything to `build/dist`."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(parents=True)
    for project in (".", "tools", "clients/python"):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", DIST, project)
    for source, name in REQUIREMENTS.items():
        shutil.copyfile(ROOT / "requirements" / source, DIST / name)
    say("✓ wheels, with their requirements")
    digest = build_image(python_image, shlex.split(image_options))
    pack_chart(DIST, image_digest=digest, envoy_digest=envoy_digest)
    say(f"✓ chart: Egret's image {digest or 'by tag'}, Envoy's {envoy_digest or 'by tag'}")
    shutil.copyfile(ROOT / "build" / "sbom.cdx.json", DIST / SBOM)
    say("✓ SBOM")
    write_sums(DIST)
    say(f"✓ {DIST / SUMS}")


def build_image(python_image: str, more: Sequence[str] = ()) -> str:
    """Write the image as an OCI archive and return its digest, or "" if no builder is here."""
    tool = next((name for name in BUILDERS if shutil.which(name)), None)
    if tool is None:
        say("- no image: neither podman nor buildah is installed")
        return ""
    if not DIGEST.search(python_image):
        say("- no image: name its base with a digest, PYTHON_IMAGE=python:3.13-slim@sha256:…")
        return ""
    name = f"egret:{__version__}"
    options = (
        "--build-arg",
        f"PYTHON_IMAGE={python_image}",
        "--build-arg",
        f"VERSION={__version__}",
    )
    run(tool, "build", *more, *options, "-t", name, ".")
    with tempfile.NamedTemporaryFile() as digest:
        target = f"oci-archive:{DIST / IMAGE_ARCHIVE}:{name}"
        run(tool, "push", "--digestfile", digest.name, name, target)
        found = Path(digest.name).read_text(encoding="ascii").strip()
    say(f"✓ image {found}")
    return found


def pack_chart(target: Path, *, image_digest: str = "", envoy_digest: str = "") -> Path:
    """Pack the chart with its version and the digests of its images; return the archive."""
    with tempfile.TemporaryDirectory() as place:
        chart = Path(place) / "egret"
        shutil.copytree(CHART, chart)  # follows links to the rules and the dashboards
        values = chart / "values.yaml"
        text = values.read_text(encoding="utf-8")
        before, envoy = text.split("\nenvoy:\n", 1)
        if image_digest:
            before = before.replace('  digest: ""', f'  digest: "{image_digest}"', 1)
        if envoy_digest:
            envoy = envoy.replace('  digest: ""', f'  digest: "{envoy_digest}"', 1)
        values.write_text(f"{before}\nenvoy:\n{envoy}", encoding="utf-8")
        versions = ("--version", __version__, "--app-version", __version__)
        run(helm("helm4"), "package", chart, *versions, "--destination", target)
    return target / f"egret-{__version__}.tgz"


def helm(name: str) -> Path:
    """Return the path of a Helm that `make helm` installs."""
    return Path(sys.executable).parent / name


def sums(folder: Path) -> Mapping[str, str]:
    """Return the SHA-256 of each file by its name."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
        if file.name != SUMS
    }


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, as `sha256sum --check` reads it."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums(folder).items())
    (folder / SUMS).write_text(lines, encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Compare SHA256SUMS with the files.

    Raises:
        DistributionError: a file is missing, changed, or not listed.
    """
    text = (folder / SUMS).read_text(encoding="utf-8")
    listed = {name: digest for digest, name in (line.split("  ") for line in text.splitlines())}
    if listed != sums(folder):
        raise DistributionError(f"{folder / SUMS} and the files beside it differ")


def check_wheels(place: Path) -> None:
    """Install the wheels in a new environment and send requests through the whole stack."""
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "-r", DIST / REQUIREMENTS["tools.txt"], cwd=place)
    run(*pip, "--no-deps", *sorted(DIST.glob("*.whl")), cwd=place)
    run(python, "-c", "import egret_admin_client", cwd=place)
    egret = place / "venv" / "bin" / "egret"
    version = run(egret, "--version", cwd=place)
    if __version__ not in version:
        raise DistributionError(f"the installed command is {version.strip()}, not {__version__}")
    rows = json.loads(run(egret, "demo", "--output", "json", cwd=place).splitlines()[-1])
    if not rows or any(row["faults"] for row in rows):
        raise DistributionError(f"egret demo: {rows}")


def check_chart(place: Path) -> None:
    """Lint the packed chart and render it for each case of values, with both Helms."""
    chart = DIST / f"egret-{__version__}.tgz"
    for name in ("helm3", "helm4"):
        for values in sorted(CHART_CASES.glob("*-values.yaml")):
            run(helm(name), "lint", chart, "--strict", "--values", values, cwd=place)
            shown = run(helm(name), "template", "r", chart, "--values", values, cwd=place)
            if f"helm.sh/chart: egret-{__version__}" not in shown:
                raise DistributionError(f"{name}, {values.name}: not the chart of {__version__}")


def check_sbom(_: Path) -> None:
    """Compare the SBOM's components with the pinned requirements."""
    listed = {
        f"{one['name']}=={one['version']}".lower()
        for one in json.loads((DIST / SBOM).read_text(encoding="utf-8"))["components"]
    }
    text = (DIST / REQUIREMENTS["guardrails.txt"]).read_text(encoding="utf-8")
    pinned = {
        line.lower() for line in re.findall(r"^[A-Za-z0-9._-]+==[^ ;\\]+", text, re.MULTILINE)
    }
    if missing := pinned - listed:
        raise DistributionError(f"the SBOM lacks {', '.join(sorted(missing))}")


def check_image(place: Path, options: Sequence[str] = ()) -> str:
    """Load the image and run it before a real Envoy, as `make image-test` does with *options*."""
    podman = shutil.which("podman")
    if podman is None or not (DIST / IMAGE_ARCHIVE).exists():
        return "not built, or no podman to run it"
    run(podman, "load", "--input", DIST / IMAGE_ARCHIVE, cwd=place)
    options = options or ("--tool", podman)
    check = (sys.executable, "-m", "deploy.image_check")
    run(*check, f"localhost/egret:{__version__}", *options, checkout=True)
    return ""


CHECKS: Final[Mapping[str, Callable[[Path], str | None]]] = {
    "wheels": check_wheels,
    "chart": check_chart,
    "SBOM": check_sbom,
}
"""Each returns the reason why it could not run here, if there is one."""


def test(*, image_options: str) -> None:
    """Try everything in `build/dist`."""
    check_sums(DIST)
    image = functools.partial(check_image, options=shlex.split(image_options))
    checks: dict[str, Callable[[Path], str | None]] = {**CHECKS, "image": image}
    for name, check in checks.items():
        with tempfile.TemporaryDirectory(prefix="egret-dist-") as place:
            skipped = check(Path(place))
        say(f"- {name}: {skipped}" if skipped else f"✓ {name}")


def main(arguments: list[str]) -> int:
    """Build or test; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.distribution", description=__doc__)
    parser.add_argument("action", choices=["build", "test"])
    parser.add_argument("--python-image", default="")
    parser.add_argument("--envoy-digest", default="")
    parser.add_argument("--image-options", default="", help="of the build, or of image_check")
    given = parser.parse_args(arguments)
    try:
        if given.action == "build":
            build(
                python_image=given.python_image,
                envoy_digest=given.envoy_digest,
                image_options=given.image_options,
            )
        else:
            test(image_options=given.image_options)
    except DistributionError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
