"""Settings of serving."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.settings.serving import Engine, ListenSettings

FILES = {"certificate_file": "/c", "key_file": "/k", "client_ca_file": "/a"}


def test_the_engine_that_serves_by_default_is_http2() -> None:
    """Either can be chosen by name."""
    assert [engine.chosen for engine in (Engine.AUTO, Engine.GRPCIO, Engine.HTTP2)] == [
        Engine.HTTP2,
        Engine.GRPCIO,
        Engine.HTTP2,
    ]


def test_the_former_name_of_an_engine_is_accepted() -> None:
    """Configurations of workers outlive an upgrade."""
    assert Engine("h2corn") is Engine.HTTP2


@pytest.mark.parametrize("missing", [None, *FILES])
def test_mutual_tls_needs_all_three_files(missing: str | None) -> None:
    """With two of them nothing would be checked."""
    given = {name: path for name, path in FILES.items() if name != missing}
    files = ListenSettings.model_validate(given).tls_files

    assert files == (None if missing else (Path("/c"), Path("/k"), Path("/a")))
