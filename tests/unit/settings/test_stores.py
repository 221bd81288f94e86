"""Settings of PostgreSQL and Valkey."""

from __future__ import annotations

import re

import pytest
from pydantic import SecretStr, ValidationError

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


@pytest.mark.parametrize(
    "url",
    [
        "redis://:se/cret@valkey:6379",
        "redis://:12/cret@valkey:6379",
        "redis://:12#cret@valkey",
        "rediss://user:12?cret@valkey",
        "redis://valkey:port",
        "redis://valkey:70000",
        "redis://valkey:0",
        "redis://valkey/cache",
        "redis://[valkey",
        "unix://:se/cret@/run/valkey.sock",
        "valkey:6379",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_a_word_of_it(url: str) -> None:
    """Of a password with a slash, the client library's own error shows the first letters."""
    with pytest.raises(ValidationError) as refused:
        ValkeySettings.model_validate({"url": url})
    (error,) = refused.value.errors(include_input=False)
    assert "must be" in error["msg"]
    assert not {"se", "12", "cret"} & set(re.findall(r"\w+", error["msg"]))


@pytest.mark.parametrize(
    "url",
    [
        "redis://valkey",
        "redis://valkey:6379/",
        "rediss://user:p%2Fw@valkey:6380/2?protocol=3",
        "redis://:p@ss@[::1]:6379/0",
        "unix:///run/user@1/valkey.sock?db=1",
        "unix://user:word@/run/valkey.sock",
    ],
)
def test_a_url_of_each_form_is_accepted(url: str) -> None:
    """With or without port, login and database."""
    assert ValkeySettings.model_validate({"url": url}).url == SecretStr(url)


def test_a_dsn_that_is_set_goes_before_its_file() -> None:
    """The default DSN does not: it gives way to the file."""
    file = "/run/secrets/dsn"
    both = PostgresSettings.model_validate({"dsn": "postgresql://db", "dsn_file": file})
    alone = PostgresSettings.model_validate({"dsn_file": file})

    assert both.read_from is None
    assert str(alone.read_from) == file
