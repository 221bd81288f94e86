"""Settings of PostgreSQL and Valkey."""

from __future__ import annotations

import pytest

from sidecar.settings.stores import Invalidation, PostgresSettings, ValkeySettings


@pytest.mark.parametrize(
    ("invalidation", "expected"),
    [
        (Invalidation.LISTEN, (True, False)),
        (Invalidation.PUBSUB, (False, True)),
        (Invalidation.BOTH, (True, True)),
    ],
    ids=lambda value: value.value if isinstance(value, Invalidation) else "",
)
def test_invalidation_chooses_the_channels(
    invalidation: Invalidation, expected: tuple[bool, bool]
) -> None:
    """In PostgreSQL, in Valkey."""
    assert (invalidation.listens, invalidation.subscribes) == expected


@pytest.mark.parametrize(
    ("url", "lacks_password"),
    [(None, False), ("redis://valkey:6379", True), ("redis://user:secret@valkey", False)],
    ids=["no server", "without", "with"],
)
def test_a_url_without_a_password_takes_one_from_a_file(
    url: str | None, *, lacks_password: bool
) -> None:
    """Only then is `password_file` of use."""
    assert ValkeySettings.model_validate({"url": url}).lacks_password is lacks_password


def test_a_dsn_that_is_set_goes_before_its_file() -> None:
    """The default DSN does not: it gives way to the file."""
    file = "/run/secrets/dsn"
    both = PostgresSettings.model_validate({"dsn": "postgresql://db", "dsn_file": file})
    alone = PostgresSettings.model_validate({"dsn_file": file})

    assert both.read_from is None
    assert str(alone.read_from) == file
