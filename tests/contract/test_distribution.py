"""Wheels, chart and kustomize base have one version; the packed chart has digests; checksums."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import yaml

from deploy.distribution import (
    CHART,
    ROOT,
    SUMS,
    DistributionError,
    check_sums,
    pack_chart,
    write_sums,
)
from sidecar import __version__

IMAGE = f"sha256:{'ab' * 32}"
ENVOY = f"sha256:{'cd' * 32}"


def test_the_chart_and_its_kustomize_base_have_the_version_of_the_package() -> None:
    """`sidecar/__init__.py` has it; a release changes it there and runs `make chart`."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((ROOT / "deploy" / "kustomize" / "values.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert values["image"]["tag"] == __version__


def test_the_packed_chart_names_both_images_by_digest(tmp_path: Path) -> None:
    """And holds the files that are links in the checkout: rules and dashboards."""
    with tarfile.open(pack_chart(tmp_path, image_digest=IMAGE, envoy_digest=ENVOY)) as packed:
        names = packed.getnames()
        values_file = packed.extractfile("egret/values.yaml")
        assert values_file is not None
        values = yaml.safe_load(values_file)
    assert (values["image"]["digest"], values["envoy"]["digest"]) == (IMAGE, ENVOY)
    assert "egret/files/egret.rules.yaml" in names
    assert "egret/files/dashboards/overview.json" in names


@pytest.mark.parametrize("change", ["changed", "missing", "more"])
def test_a_file_that_differs_from_its_sum_is_found(change: str, tmp_path: Path) -> None:
    """Also one that is not listed."""
    for name in ("a.whl", "b.tgz"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    check_sums(tmp_path)
    match change:
        case "changed":
            (tmp_path / "a.whl").write_text("b")
        case "missing":
            (tmp_path / "a.whl").unlink()
        case _:
            (tmp_path / "c.whl").touch()
    with pytest.raises(DistributionError, match=SUMS):
        check_sums(tmp_path)
