"""Settings of serving."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sidecar.settings.serving import ListenSettings, ServerSettings

FILES = {"certificate_file": "/c", "key_file": "/k", "client_ca_file": "/a"}


@pytest.mark.parametrize("engine", ["auto", "grpcio", "h2corn", "http2"])
def test_the_engines_of_older_versions_are_accepted(engine: str) -> None:
    """Configurations of workers outlive an upgrade."""
    assert ServerSettings.model_validate({"engine": engine}).workers == 2


def test_an_engine_that_never_was_is_refused() -> None:
    """A mistyped value is a mistake that is reported, as it always was."""
    with pytest.raises(ValidationError, match="engine"):
        ServerSettings.model_validate({"engine": "gprcio"})


@pytest.mark.parametrize(
    ("written", "mode"),
    [("0660", 0o660), ("0o660", 0o660), ("0400", 0o400), ("432", 0o660), (0o600, 0o600)],
)
def test_a_socket_mode_with_a_leading_0_is_octal(written: str | int, mode: int) -> None:
    """As chmod reads it; decimal ones of older configurations keep their meaning."""
    assert ServerSettings.model_validate({"socket_mode": written}).socket_mode == mode


def test_a_socket_mode_without_its_leading_0_is_refused_with_the_fix() -> None:
    """660 is no decimal mode; the reader of `ls -l` means octal."""
    with pytest.raises(ValidationError, match="write 0660 for octal"):
        ServerSettings.model_validate({"socket_mode": "660"})


@pytest.mark.parametrize("missing", [None, *FILES])
def test_mutual_tls_needs_all_three_files(missing: str | None) -> None:
    """With two of them nothing would be checked."""
    given = {name: path for name, path in FILES.items() if name != missing}
    files = ListenSettings.model_validate(given).tls_files

    assert files == (None if missing else (Path("/c"), Path("/k"), Path("/a")))
